//! Lifecycle of a ring kernel: its states, the commands that change them, and waiting for a change.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use dotcompute_ring::fence::Fence;
use dotcompute_ring::wait::{WaitStrategy, block_on_poll};
use dotcompute_ring::wait_list::{WaitList, WaitToken};

/// State of a ring kernel.
///
/// ```text
/// Created -> Launched -> Active <-> Deactivated -> Terminating -> Terminated
///                          any running state -> Failed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// The name is registered; resources are being acquired.
    Created = 0,
    /// Every resource is held. No message is handled, and none may be sent.
    Launched = 1,
    /// Messages are being handled.
    Active = 2,
    /// Paused: state and queued messages are preserved, and new messages are queued.
    Deactivated = 3,
    /// The mailbox is closed. Accepted messages are handled, or become dead letters.
    Terminating = 4,
    /// Ended: resources are released.
    Terminated = 5,
    /// Ended by a fault, as its supervision decided, or by a handler that did not return.
    Failed = 6,
}

impl State {
    /// Whether the ring kernel has ended, for any reason.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        matches!(self, Self::Terminated | Self::Failed)
    }

    /// Whether messages are accepted in this state.
    #[must_use]
    pub const fn accepts_messages(self) -> bool {
        matches!(self, Self::Active | Self::Deactivated)
    }

    fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Created,
            1 => Self::Launched,
            2 => Self::Active,
            3 => Self::Deactivated,
            4 => Self::Terminating,
            5 => Self::Terminated,
            _ => Self::Failed,
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "Created",
            Self::Launched => "Launched",
            Self::Active => "Active",
            Self::Deactivated => "Deactivated",
            Self::Terminating => "Terminating",
            Self::Terminated => "Terminated",
            Self::Failed => "Failed",
        })
    }
}

/// A command of the runtime, obeyed at the next message boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Stay as launched: wait for activation.
    Hold = 0,
    /// Handle messages.
    Run = 1,
    /// Pause at the next message boundary.
    Pause = 2,
    /// Handle accepted messages, then end.
    Drain = 3,
    /// End now. Queued messages become dead letters.
    Abort = 4,
}

/// The state and command words, and the wait list of tasks that wait for a state change.
pub(crate) struct StateCell {
    state: AtomicU8,
    command: AtomicU8,
    waiters: WaitList,
}

impl StateCell {
    pub(crate) fn new() -> Self {
        Self {
            state: AtomicU8::new(State::Created as u8),
            command: AtomicU8::new(Command::Hold as u8),
            // State changes are rare, so the notifying side executes the full fence.
            waiters: WaitList::new(Fence::Symmetric),
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> State {
        // Acquire: pairs with the release in `transition`; a caller that sees `Terminated` also sees the final counters and dead letters.
        State::from_u8(self.state.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn command(&self) -> Command {
        // Acquire: pairs with the release store in `set_command`.
        match self.command.load(Ordering::Acquire) {
            0 => Command::Hold,
            1 => Command::Run,
            2 => Command::Pause,
            3 => Command::Drain,
            _ => Command::Abort,
        }
    }

    pub(crate) fn set_command(&self, command: Command) {
        // Release: pairs with the acquire load in `command`.
        self.command.store(command as u8, Ordering::Release);
    }

    /// Changes the state to `to` if `allowed` holds for the present state. Otherwise returns the present state as an error.
    pub(crate) fn transition(&self, to: State, allowed: impl Fn(State) -> bool) -> Result<State, State> {
        let mut current = self.state.load(Ordering::Acquire);
        loop {
            let from = State::from_u8(current);
            if !allowed(from) {
                return Err(from);
            }
            // SYNC POINT: state-change (driver or lifecycle call). Changes the state, then wakes. Pairs with `StateCell::poll_until`.
            match self.state.compare_exchange_weak(current, to as u8, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    self.waiters.notify_all();
                    return Ok(from);
                }
                Err(actual) => current = actual,
            }
        }
    }

    pub(crate) fn waiters(&self) -> &WaitList {
        &self.waiters
    }

    /// Ready with the state once `done` holds for it; otherwise registers the task's waker. The caller cancels `token` when it stops
    /// waiting.
    pub(crate) fn poll_until(
        &self,
        token: &mut WaitToken,
        cx: &mut Context<'_>,
        done: impl Fn(State) -> bool,
    ) -> Poll<State> {
        let state = self.get();
        if done(state) {
            return Poll::Ready(state);
        }
        // SYNC POINT: state-change (waiter). Registers, then rechecks. Pairs with `StateCell::transition`.
        self.waiters.register(token, cx.waker());
        let state = self.get();
        if done(state) { Poll::Ready(state) } else { Poll::Pending }
    }

    /// Waits until `done` holds for the state. Returns `None` if the deadline passes first.
    pub(crate) fn wait(&self, deadline: Option<Instant>, done: impl Fn(State) -> bool) -> Option<State> {
        let mut waiter = StateWaiter::new(self);
        block_on_poll(WaitStrategy::Adaptive, deadline, |cx| waiter.poll(cx, &done))
    }
}

/// A task that waits for a state change. Dropping it leaves the wait list.
pub(crate) struct StateWaiter<'a> {
    cell: &'a StateCell,
    token: WaitToken,
}

impl<'a> StateWaiter<'a> {
    pub(crate) fn new(cell: &'a StateCell) -> Self {
        Self { cell, token: WaitToken::default() }
    }

    /// Ready with the state once `done` holds for it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, done: impl Fn(State) -> bool) -> Poll<State> {
        self.cell.poll_until(&mut self.token, cx, done)
    }
}

impl Drop for StateWaiter<'_> {
    fn drop(&mut self) {
        self.cell.waiters.cancel(&mut self.token);
    }
}
