//! The public lifecycle calls. `cell/lifecycle_calls.rs` implements them.

use std::time::Duration;

use super::KernelHandle;
use super::timeout::with_timeout;
use crate::cell::any_kernel::AnyKernel;
use crate::cell::lifecycle_calls::ABORT_GRACE;
use crate::deadline;
use crate::error::LifecycleError;
use crate::lifecycle::{Command, State, StateWaiter};
use crate::message::Message;

impl<I: Message, O: Message> KernelHandle<I, O> {
    fn any_kernel(&self) -> &(dyn AnyKernel + 'static) {
        &*self.cell
    }

    /// Starts message processing. Cannot run out of resources: `launch` has acquired all of them.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::WrongState`] if the ring kernel is not `Launched`.
    pub fn activate(&self) -> Result<(), LifecycleError> {
        self.any_kernel().activate()
    }

    /// Pauses the ring kernel at its next message boundary and waits for that, at most `timeout`. Its state and queued messages are
    /// preserved; messages sent while it is paused are queued.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`]: the ring kernel is not `Active`, or did not reach a message boundary in time. It then pauses when it reaches
    /// one. [`LifecycleError::OwnHandler`] inside a handler of the ring kernel itself, likewise.
    pub fn deactivate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.any_kernel().deactivate(timeout)
    }

    /// Like [`deactivate`](Self::deactivate), for async code.
    ///
    /// # Errors
    ///
    /// As for `deactivate`.
    pub async fn deactivate_async(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.any_kernel().request_pause()?;
        self.any_kernel().check_may_wait("deactivate")?;
        let state = self.wait_state_async(Some(timeout), |state| state != State::Active).await;
        self.any_kernel().deactivate_result(state, timeout)
    }

    /// Resumes a paused ring kernel.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::WrongState`] if it is not `Deactivated`.
    pub fn reactivate(&self) -> Result<(), LifecycleError> {
        self.any_kernel().reactivate()
    }

    /// Ends the ring kernel after it has handled every accepted message (also if it is paused), then releases its resources. Accepts no new
    /// messages meanwhile. Waits for the end, at most `timeout`. Does nothing if the ring kernel has ended.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::Timeout`] if it did not end in time: it is then aborted, and its unhandled messages become dead letters. If its
    /// handler does not return within a further 0.2 s, the ring kernel is `Failed`, and waiting callers are released.
    /// [`LifecycleError::OwnHandler`] inside a handler of the ring kernel itself: it then ends without the call waiting for it, as after
    /// [`Context::stop`](crate::kernel::Context::stop).
    ///
    /// Success does not mean that every message was handled: a loop that returns early leaves the rest as dead letters
    /// ([`KernelStats::dead_letters`](crate::telemetry::KernelStats::dead_letters)).
    pub fn terminate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.any_kernel().terminate(timeout)
    }

    /// Like [`terminate`](Self::terminate), for async code.
    ///
    /// # Errors
    ///
    /// As for `terminate`.
    pub async fn terminate_async(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.any_kernel().request_end(Command::Drain);
        self.any_kernel().check_may_wait("terminate")?;
        match self.wait_state_async(Some(timeout), State::has_ended).await {
            Some(_) => Ok(()),
            None => {
                self.any_kernel().request_end(Command::Abort);
                let ended = self.wait_state_async(Some(ABORT_GRACE), State::has_ended).await;
                self.any_kernel().abort_result(ended.is_some(), "terminate", timeout)
            }
        }
    }

    /// Ends the ring kernel at its next message boundary. Queued messages become dead letters, and their callers get an error.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::Timeout`] if a handler does not return: the ring kernel is then `Failed`, and waiting callers are released.
    /// [`LifecycleError::OwnHandler`] inside a handler of the ring kernel itself: it then ends when that handler returns.
    pub fn abort(&self) -> Result<(), LifecycleError> {
        self.any_kernel().abort()
    }

    /// Waits until the ring kernel has ended, for any reason, at most `timeout`. Returns its state then. Does not wait inside a handler of
    /// the ring kernel itself.
    #[must_use]
    pub fn wait_ended(&self, timeout: Duration) -> State {
        if self.any_kernel().check_may_wait("wait_ended").is_err() {
            return self.state();
        }
        let ended = self.cell.untyped.wait_for_state(deadline::after(timeout), State::has_ended);
        ended.unwrap_or_else(|| self.state())
    }

    async fn wait_state_async(
        &self,
        timeout: Option<Duration>,
        done: impl Fn(State) -> bool,
    ) -> Option<State> {
        let mut waiter = StateWaiter::new(&self.cell.untyped.lifecycle);
        with_timeout(timeout, std::future::poll_fn(|cx| waiter.poll(cx, &done))).await
    }
}
