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

    /// Asks for a pause; the driver changes the state when it gets there.
    pub(crate) fn request_pause(&self) -> Result<(), LifecycleError> {
        let cell = self.cell();
        let _guard = cell.lifecycle_lock();
        match cell.lifecycle.get() {
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
                Err(cell.wrong_state(state, "deactivate", advice))
            }
        }
    }

    pub(crate) fn deactivate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.request_pause()?;
        let state =
            self.cell().lifecycle.wait(Some(Instant::now() + timeout), |state| state != State::Active);
        self.deactivate_result(state, timeout)
    }

    /// What a deactivation came to: the state that was seen, or none in time.
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

    /// Closes the input and asks the driver to drain, or to abort. Does nothing to a ring kernel that has ended.
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
        let ended = self.cell().lifecycle.wait(Some(Instant::now() + timeout), State::has_ended);
        if ended.is_some() { Ok(()) } else { self.abort_after_timeout("terminate", timeout) }
    }

    pub(crate) fn abort(&self) -> Result<(), LifecycleError> {
        self.request_end(Command::Abort);
        let ended = self.cell().lifecycle.wait(Some(Instant::now() + ABORT_GRACE), State::has_ended);
        if ended.is_some() { Ok(()) } else { self.fail_stuck("abort", ABORT_GRACE) }
    }

    /// After a terminate that ran out of time: what is queued becomes dead letters.
    pub(crate) fn abort_after_timeout(
        &self,
        call: &'static str,
        waited: Duration,
    ) -> Result<(), LifecycleError> {
        self.request_end(Command::Abort);
        let ended = self.cell().lifecycle.wait(Some(Instant::now() + ABORT_GRACE), State::has_ended);
        if ended.is_none() {
            return self.fail_stuck(call, waited + ABORT_GRACE);
        }
        Err(LifecycleError::Timeout {
            kernel: Arc::clone(&self.cell().name),
            call,
            waited,
            consequence: "it was aborted, and what it had not handled is among the dead letters",
        })
    }

    /// A handler that does not return cannot be stopped. Whoever waits for this ring kernel is released.
    fn fail_stuck(&self, call: &'static str, waited: Duration) -> Result<(), LifecycleError> {
        self.cell().end(State::Failed);
        Err(LifecycleError::Timeout {
            kernel: Arc::clone(&self.cell().name),
            call,
            waited,
            consequence: "its handler does not return; it is now Failed, nobody waits for it any more, and its thread is left behind",
        })
    }
}
