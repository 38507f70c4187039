//! Lifecycle of a ring kernel: its states, the commands that change them, and waiting for a change.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use dotcompute_ring::fence::Fence;
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

/// Bit of the state word of a ring kernel that has entered an ended state, until every request that it accepted is completed.
///
/// The state comes first: a caller that gets the error of its request finds the ring kernel ended. A waiter for the end waits until
/// the bit is cleared: it finds every request completed, and no request whose error is on its way is reported as lost.
const UNSETTLED: u8 = 0x80;

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
            // Waiters may come and go often, and state changes are rare: a full fence on both sides costs less than a `membarrier` call
            // for each waiter that parks.
            waiters: WaitList::new(Fence::Symmetric),
        }
    }

    #[inline]
    pub(crate) fn get(&self) -> State {
        // Acquire: pairs with the release in `change`; a caller that sees `Terminated` also sees the final counters and dead letters.
        State::from_u8(self.state.load(Ordering::Acquire) & !UNSETTLED)
    }

    /// Returns the state, or `None` between the entry into an ended state and `settle`.
    fn settled(&self) -> Option<State> {
        // Acquire: as in `get`; pairs also with the release in `settle`, so that completed requests are visible.
        let word = self.state.load(Ordering::Acquire);
        (word & UNSETTLED == 0).then(|| State::from_u8(word))
    }

    /// Returns the state if the ring kernel has ended and all its requests are completed.
    pub(crate) fn ended(&self) -> Option<State> {
        self.settled().filter(|state| state.has_ended())
    }

    /// Enters an ended state. The caller must complete all requests, then call [`settle`](Self::settle). Fails if it has ended already.
    pub(crate) fn enter_ended(&self, to: State) -> Result<State, State> {
        self.change(to as u8 | UNSETTLED, |state| !state.has_ended())
    }

    /// Every request is completed: wakes the waiters for the end.
    pub(crate) fn settle(&self) {
        // SYNC POINT: state-change (driver). Release: pairs with the acquire load in `settled`.
        self.state.fetch_and(!UNSETTLED, Ordering::Release);
        self.waiters.notify_all();
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
        self.change(to as u8, allowed)
    }

    fn change(&self, to: u8, allowed: impl Fn(State) -> bool) -> Result<State, State> {
        let mut current = self.state.load(Ordering::Acquire);
        loop {
            let from = State::from_u8(current & !UNSETTLED);
            if !allowed(from) {
                return Err(from);
            }
            // SYNC POINT: state-change (driver or lifecycle call). Changes the state, then wakes. Pairs with `StateCell::poll_until`.
            match self.state.compare_exchange_weak(current, to, Ordering::AcqRel, Ordering::Acquire) {
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

    /// Ready with the state once `done` holds for it; otherwise registers the task's waker. An ended state counts once it is settled. The
    /// caller cancels `token` when it stops waiting.
    pub(crate) fn poll_until(
        &self,
        token: &mut WaitToken,
        cx: &mut Context<'_>,
        done: impl Fn(State) -> bool,
    ) -> Poll<State> {
        let check = || self.settled().filter(|&state| done(state));
        if let Some(state) = check() {
            return Poll::Ready(state);
        }
        // SYNC POINT: state-change (waiter). Registers, then rechecks. Pairs with `StateCell::change` and `StateCell::settle`.
        self.waiters.register(token, cx.waker());
        check().map_or(Poll::Pending, Poll::Ready)
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

    /// Ready with the state once `done` holds for it. An ended state counts once it is settled.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, done: impl Fn(State) -> bool) -> Poll<State> {
        self.cell.poll_until(&mut self.token, cx, done)
    }
}

impl Drop for StateWaiter<'_> {
    fn drop(&mut self) {
        self.cell.waiters.cancel(&mut self.token);
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn an_end_is_visible_at_once_and_waited_for_until_it_is_settled() {
        let cell = StateCell::new();
        let mut waiter = StateWaiter::new(&cell);
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(cell.transition(State::Active, |_| true), Ok(State::Created));
        assert_eq!(cell.enter_ended(State::Failed), Ok(State::Active));
        assert_eq!((cell.get(), cell.ended()), (State::Failed, None));
        assert!(waiter.poll(&mut cx, State::has_ended).is_pending());
        assert_eq!(cell.enter_ended(State::Terminated), Err(State::Failed));
        assert_eq!(cell.transition(State::Terminating, |state| !state.has_ended()), Err(State::Failed));
        cell.settle();
        assert_eq!((cell.get(), cell.ended()), (State::Failed, Some(State::Failed)));
        assert_eq!(waiter.poll(&mut cx, State::has_ended), Poll::Ready(State::Failed));
    }
}
