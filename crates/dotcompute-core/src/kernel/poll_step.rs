//! What the drivers have in common: steps, and how many of them one poll may take.

/// Steps that a driver takes in one poll before it yields to other ring kernels on the same worker.
pub(crate) const POLL_BUDGET: u32 = 128;

/// Result of one step of a driver.
pub(crate) enum PollStep {
    Continue,
    Pending,
    Done,
}
