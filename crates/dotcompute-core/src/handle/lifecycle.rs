//! Life.

use std::time::{Duration, Instant};

use super::KernelHandle;
use super::timeout::within;
use crate::cell::any_kernel::AnyKernel;
use crate::error::LifecycleError;
use crate::lifecycle::{Command, State, Watch};
use crate::message::Message;

impl<I: Message, O: Message> KernelHandle<I, O> {
    fn erased(&self) -> &(dyn AnyKernel + 'static) {
        &*self.shared
    }

    /// Starts processing. Every resource was taken at launch, so this cannot run short of anything.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::WrongState`] if the ring kernel is not `Launched`.
    pub fn activate(&self) -> Result<(), LifecycleError> {
        self.erased().activate()
    }

    /// Pauses the ring kernel at its next message boundary and waits for that, at most `timeout`. State and queued messages are
    /// kept; messages sent meanwhile queue up.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`] if it is not `Active`, or did not come to a message boundary in time (it will still pause there).
    pub fn deactivate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.erased().deactivate(timeout)
    }

    /// As [`deactivate`](Self::deactivate), for async code.
    ///
    /// # Errors
    ///
    /// As for `deactivate`.
    pub async fn deactivate_async(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.erased().request_pause()?;
        let state = self.state_when(Some(timeout), |state| state != State::Active).await;
        self.erased().deactivated(state, timeout)
    }

    /// Resumes a paused ring kernel.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::WrongState`] if it is not `Deactivated`.
    pub fn reactivate(&self) -> Result<(), LifecycleError> {
        self.erased().reactivate()
    }

    /// Ends the ring kernel: nothing more is accepted, everything accepted is handled (also if it is paused), then its resources are
    /// released. Waits for that, at most `timeout`. Does nothing to one that has ended.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::Timeout`] if it took longer: it is then aborted, and what it had not handled becomes dead letters.
    pub fn terminate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.erased().terminate(timeout)
    }

    /// As [`terminate`](Self::terminate), for async code.
    ///
    /// # Errors
    ///
    /// As for `terminate`.
    pub async fn terminate_async(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.erased().request_end(Command::Drain);
        match self.state_when(Some(timeout), State::has_ended).await {
            Some(_) => Ok(()),
            None => self.erased().give_up("terminate", timeout),
        }
    }

    /// Ends the ring kernel at its next message boundary: what is queued becomes dead letters, and their askers get an error.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::Timeout`] if a handler does not return: the ring kernel is then `Failed` and nobody waits for it any more.
    pub fn abort(&self) -> Result<(), LifecycleError> {
        self.erased().abort()
    }

    /// Waits until the ring kernel has ended, by whatever cause, at most `timeout`; then gives its state.
    #[must_use]
    pub fn wait_ended(&self, timeout: Duration) -> State {
        let ended = self.shared.core.life.wait(Some(Instant::now() + timeout), State::has_ended);
        ended.unwrap_or_else(|| self.state())
    }

    async fn state_when(&self, timeout: Option<Duration>, done: impl Fn(State) -> bool) -> Option<State> {
        let mut watch = Watch::new(&self.shared.core.life);
        within(timeout, std::future::poll_fn(|cx| watch.poll(cx, &done))).await
    }
}
