//! The lifecycle calls: activate, deactivate, reactivate, terminate, abort.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::any_kernel::AnyKernel;
use super::current::CurrentKernel;
use crate::deadline;
use crate::error::LifecycleError;
use crate::lifecycle::{Command, State};

/// Time that an aborted ring kernel has to reach a message boundary before it is declared failed.
const ABORT_TIMEOUT: Duration = Duration::from_secs(2);

/// The same, for ring kernels that had the time of a `terminate` or a shutdown before.
pub(crate) const ABORT_GRACE: Duration = Duration::from_millis(200);

/// Each call reads the state and issues its command under `lifecycle_lock`, so that two calls cannot undo each other.
impl dyn AnyKernel + '_ {
    pub(crate) fn activate(&self) -> Result<(), LifecycleError> {
        let cell = self.cell();
        let _guard = cell.lifecycle_lock();
        let transitioned = cell.lifecycle.transition(State::Active, |state| state == State::Launched);
        transitioned.map_err(|state| {
            let advice = match state {
                State::Active => "it needs no activation",
                State::Deactivated => "call `reactivate`",
                _ => "launch another",
            };
            cell.wrong_state(state, "activate", advice)
        })?;
        // Release: pairs with the acquire load in `was_activated`.
        cell.activated.store(true, Ordering::Release);
        self.command(Command::Run);
        Ok(())
    }

    pub(crate) fn reactivate(&self) -> Result<(), LifecycleError> {
        let cell = self.cell();
        let _guard = cell.lifecycle_lock();
        let transitioned = cell.lifecycle.transition(State::Active, |state| state == State::Deactivated);
        transitioned.map_err(|state| {
            let advice = match state {
                State::Launched => "call `activate`",
                State::Active => "it is not paused",
                _ => "launch another",
            };
            cell.wrong_state(state, "reactivate", advice)
        })?;
        self.command(Command::Run);
        Ok(())
    }

    /// Requests a pause. The driver changes the state when it reaches a message boundary.
    pub(crate) fn request_pause(&self) -> Result<(), LifecycleError> {
        let cell = self.cell();
        let _guard = cell.lifecycle_lock();
        match cell.lifecycle.get() {
            State::Active => {
                // SYNC POINT: pause-confirmation (caller). Issues the command under the lock; the caller then waits for the state. Pairs
                // with
                // `KernelCell::confirm_paused`.
                self.command(Command::Pause);
                Ok(())
            }
            state => {
                let advice = match state {
                    State::Deactivated => "it is already paused",
                    State::Created | State::Launched => "it was never activated",
                    _ => "launch another",
                };
                Err(cell.wrong_state(state, "deactivate", advice))
            }
        }
    }

    /// Fails if the caller runs in a handler or loop of this ring kernel: what was requested takes effect when that returns, so waiting for
    /// it would never end.
    pub(crate) fn check_may_wait(&self, call: &'static str) -> Result<(), LifecycleError> {
        let cell = self.cell();
        if CurrentKernel::is(cell) {
            return Err(LifecycleError::OwnHandler { kernel: Arc::clone(&cell.name), call });
        }
        Ok(())
    }

    pub(crate) fn deactivate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.request_pause()?;
        self.check_may_wait("deactivate")?;
        let state = self.cell().wait_for_state(deadline::after(timeout), |state| state != State::Active);
        self.deactivate_result(state, timeout)
    }

    /// Result of a deactivation: `state` is the first state other than `Active`, or `None` after a timeout.
    pub(crate) fn deactivate_result(
        &self,
        state: Option<State>,
        timeout: Duration,
    ) -> Result<(), LifecycleError> {
        let cell = self.cell();
        match state {
            Some(State::Deactivated) => Ok(()),
            Some(state) => Err(cell.wrong_state(state, "deactivate", "it ended before it could pause")),
            None => Err(LifecycleError::Timeout {
                kernel: Arc::clone(&cell.name),
                call: "deactivate",
                waited: timeout,
                consequence: "it will pause when its handler returns",
            }),
        }
    }

    /// Closes the mailbox and issues `Drain` or `Abort`. Does nothing if the ring kernel has ended.
    pub(crate) fn request_end(&self, command: Command) {
        let cell = self.cell();
        let _guard = cell.lifecycle_lock();
        let ending = cell.lifecycle.transition(State::Terminating, |state| !state.has_ended());
        if ending.is_ok() {
            self.close_input();
            self.command(command);
        }
    }

    pub(crate) fn terminate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.request_end(Command::Drain);
        self.check_may_wait("terminate")?;
        let ended = self.cell().wait_for_state(deadline::after(timeout), State::has_ended);
        if ended.is_some() { Ok(()) } else { self.abort_after_timeout("terminate", timeout) }
    }

    pub(crate) fn abort(&self) -> Result<(), LifecycleError> {
        self.request_end(Command::Abort);
        self.check_may_wait("abort")?;
        let ended = self.cell().wait_for_state(deadline::after(ABORT_TIMEOUT), State::has_ended);
        if ended.is_some() { Ok(()) } else { self.fail_stuck("abort", ABORT_TIMEOUT) }
    }

    /// Aborts after a terminate has timed out. Queued messages become dead letters.
    pub(crate) fn abort_after_timeout(
        &self,
        call: &'static str,
        waited: Duration,
    ) -> Result<(), LifecycleError> {
        self.request_end(Command::Abort);
        let ended = self.cell().wait_for_state(deadline::after(ABORT_GRACE), State::has_ended);
        self.abort_result(ended.is_some(), call, waited)
    }

    /// Result of the abort after a timeout: `ended` says whether it ended within [`ABORT_GRACE`].
    pub(crate) fn abort_result(
        &self,
        ended: bool,
        call: &'static str,
        waited: Duration,
    ) -> Result<(), LifecycleError> {
        if !ended {
            return self.fail_stuck(call, waited);
        }
        Err(LifecycleError::Timeout {
            kernel: Arc::clone(&self.cell().name),
            call,
            waited,
            consequence: "it was aborted, and its unhandled messages are dead letters",
        })
    }

    /// Declares a ring kernel failed whose handler does not return, and thereby releases its waiting callers. A handler cannot be stopped.
    fn fail_stuck(&self, call: &'static str, waited: Duration) -> Result<(), LifecycleError> {
        self.cell().end(State::Failed);
        Err(LifecycleError::Timeout {
            kernel: Arc::clone(&self.cell().name),
            call,
            waited,
            consequence: "its handler did not return; the ring kernel is now Failed, waiting callers were released, and its thread keeps running",
        })
    }
}
