//! Poll step.

/// Messages a ring kernel handles before it lets others on the same worker have their turn.
pub(crate) const TURN: u32 = 128;

/// What a driver does after a step.
pub(crate) enum After {
    GoOn,
    Wait,
    End,
}
