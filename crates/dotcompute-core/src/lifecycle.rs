//! The life of a ring kernel: its states, who may change them, and waiting for a change.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use dotcompute_ring::fence::Fence;
use dotcompute_ring::wait::{WaitStrategy, block_on_poll};
use dotcompute_ring::wait_list::{WaitList, WaitToken};

/// Where a ring kernel is in its life.
///
/// ```text
/// Created -> Launched -> Active <-> Deactivated -> Terminating -> Terminated
///                          any running state -> Failed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// The name is taken; resources are being acquired.
    Created = 0,
    /// Every resource is held; nothing is processed yet and nothing may be sent.
    Launched = 1,
    /// Messages are being handled.
    Active = 2,
    /// Paused: state and queued messages are kept, new messages queue up.
    Deactivated = 3,
    /// The input is closed; accepted messages are being handled or handed back.
    Terminating = 4,
    /// Over: resources are released.
    Terminated = 5,
    /// Stopped by a fault that its supervision does not forgive.
    Failed = 6,
}

impl State {
    /// Whether the ring kernel has ended, for whatever reason.
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

/// What the runtime wants of a ring kernel; it looks at every message boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Stay as launched: wait for activation.
    Hold = 0,
    /// Handle messages.
    Run = 1,
    /// Pause at the next message boundary.
    Pause = 2,
    /// Handle what was accepted, then end.
    Drain = 3,
    /// End now: what is queued becomes dead letters.
    Abort = 4,
}

/// The state word, with everyone who waits for it to change.
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
            // State changes are rare, so the notifier may pay for a full fence and the watcher need not.
            waiters: WaitList::new(Fence::Symmetric),
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> State {
        // Acquire: who sees `Terminated` also sees the final counters and dead letters.
        State::from_u8(self.state.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn command(&self) -> Command {
        match self.command.load(Ordering::Acquire) {
            0 => Command::Hold,
            1 => Command::Run,
            2 => Command::Pause,
            3 => Command::Drain,
            _ => Command::Abort,
        }
    }

    pub(crate) fn set_command(&self, command: Command) {
        self.command.store(command as u8, Ordering::Release);
    }

    /// Moves to `to` if `allowed` holds for the present state; otherwise says what the present state is.
    pub(crate) fn transition(&self, to: State, allowed: impl Fn(State) -> bool) -> Result<State, State> {
        let mut current = self.state.load(Ordering::Acquire);
        loop {
            let from = State::from_u8(current);
            if !allowed(from) {
                return Err(from);
            }
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

    /// Waits until `done` holds. `None` when the deadline passed first.
    pub(crate) fn wait(&self, deadline: Option<Instant>, done: impl Fn(State) -> bool) -> Option<State> {
        let mut waiter = StateWaiter::new(self);
        block_on_poll(WaitStrategy::Adaptive, deadline, |cx| waiter.poll(cx, &done))
    }
}

/// A place among the watchers of a [`StateCell`], given up when dropped.
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
        let state = self.cell.get();
        if done(state) {
            return Poll::Ready(state);
        }
        self.cell.waiters.register(&mut self.token, cx.waker());
        // Looked at again after the announcement, so that a change between the two is not missed.
        let state = self.cell.get();
        if done(state) { Poll::Ready(state) } else { Poll::Pending }
    }
}

impl Drop for StateWaiter<'_> {
    fn drop(&mut self) {
        self.cell.waiters.cancel(&mut self.token);
    }
}
