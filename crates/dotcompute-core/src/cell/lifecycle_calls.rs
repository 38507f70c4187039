//! Lifecycle calls.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::any_kernel::AnyKernel;
use crate::error::LifecycleError;
use crate::lifecycle::{Command, State};

/// How long an aborted ring kernel may take to reach a message boundary before it is given up as stuck.
const ABORT_GRACE: Duration = Duration::from_secs(2);

/// The lifecycle calls. Each looks at the state and issues its command under one lock, so that two calls cannot undo each other.
impl dyn AnyKernel + '_ {
    pub(crate) fn activate(&self) -> Result<(), LifecycleError> {
        let core = self.core();
        let _guard = core.calls();
        let change = core.life.change(State::Active, |state| state == State::Launched);
        change.map_err(|state| {
            let advice = match state {
                State::Active => "it needs no activation",
                State::Deactivated => "call `reactivate`",
                _ => "launch another",
            };
            core.wrong_state(state, "activate", advice)
        })?;
        core.activated.store(true, Ordering::Release);
        self.command(Command::Run);
        Ok(())
    }

    pub(crate) fn reactivate(&self) -> Result<(), LifecycleError> {
        let core = self.core();
        let _guard = core.calls();
        let change = core.life.change(State::Active, |state| state == State::Deactivated);
        change.map_err(|state| {
            let advice = match state {
                State::Launched => "call `activate`",
                State::Active => "it is not paused",
                _ => "launch another",
            };
            core.wrong_state(state, "reactivate", advice)
        })?;
        self.command(Command::Run);
        Ok(())
    }

    /// Asks for a pause; the driver changes the state when it gets there.
    pub(crate) fn request_pause(&self) -> Result<(), LifecycleError> {
        let core = self.core();
        let _guard = core.calls();
        match core.life.get() {
            State::Active => {
                self.command(Command::Pause);
                Ok(())
            }
            state => {
                let advice = match state {
                    State::Deactivated => "it is paused already",
                    State::Created | State::Launched => "it was never activated",
                    _ => "it is over",
                };
                Err(core.wrong_state(state, "deactivate", advice))
            }
        }
    }

    pub(crate) fn deactivate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.request_pause()?;
        let state = self.core().life.wait(Some(Instant::now() + timeout), |state| state != State::Active);
        self.deactivated(state, timeout)
    }

    /// What a deactivation came to: the state that was seen, or none in time.
    pub(crate) fn deactivated(&self, state: Option<State>, timeout: Duration) -> Result<(), LifecycleError> {
        let core = self.core();
        match state {
            Some(State::Deactivated) => Ok(()),
            Some(state) => Err(core.wrong_state(state, "deactivate", "it ended before it could pause")),
            None => Err(LifecycleError::Timeout {
                kernel: Arc::clone(&core.name),
                call: "deactivate",
                waited: timeout,
                consequence: "it will pause when its handler returns",
            }),
        }
    }

    /// Closes the input and asks the driver to drain, or to abort. Does nothing to a ring kernel that has ended.
    pub(crate) fn request_end(&self, command: Command) {
        let core = self.core();
        let _guard = core.calls();
        let ending = core.life.change(State::Terminating, |state| !state.has_ended());
        if ending.is_ok() {
            self.close_input();
            self.command(command);
        }
    }

    pub(crate) fn terminate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.request_end(Command::Drain);
        let ended = self.core().life.wait(Some(Instant::now() + timeout), State::has_ended);
        if ended.is_some() { Ok(()) } else { self.give_up("terminate", timeout) }
    }

    pub(crate) fn abort(&self) -> Result<(), LifecycleError> {
        self.request_end(Command::Abort);
        let ended = self.core().life.wait(Some(Instant::now() + ABORT_GRACE), State::has_ended);
        if ended.is_some() { Ok(()) } else { self.leave_stuck("abort", ABORT_GRACE) }
    }

    /// After a terminate that ran out of time: what is queued becomes dead letters.
    pub(crate) fn give_up(&self, call: &'static str, waited: Duration) -> Result<(), LifecycleError> {
        self.request_end(Command::Abort);
        let ended = self.core().life.wait(Some(Instant::now() + ABORT_GRACE), State::has_ended);
        if ended.is_none() {
            return self.leave_stuck(call, waited + ABORT_GRACE);
        }
        Err(LifecycleError::Timeout {
            kernel: Arc::clone(&self.core().name),
            call,
            waited,
            consequence: "it was aborted, and what it had not handled is among the dead letters",
        })
    }

    /// A handler that does not return cannot be stopped. Whoever waits for this ring kernel is released.
    fn leave_stuck(&self, call: &'static str, waited: Duration) -> Result<(), LifecycleError> {
        self.core().end(State::Failed);
        Err(LifecycleError::Timeout {
            kernel: Arc::clone(&self.core().name),
            call,
            waited,
            consequence: "its handler does not return; it is now Failed, nobody waits for it any more, and its thread is left behind",
        })
    }
}
