//! The state of a ring kernel on a device: reading it, and putting it back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::KernelHandle;
use crate::error::LifecycleError;
use crate::message::Message;
use crate::message::record::{RecordMessage, bytes_of, from_bytes};

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// The bytes of the state, as they are between two messages. For ring kernels on a device; it may be active or paused, and goes
    /// on as it was.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`]: it is not on a device, has ended, or did not come to a message boundary within `timeout`.
    pub fn checkpoint_bytes(&self, timeout: Duration) -> Result<Vec<u8>, LifecycleError> {
        self.state_call("checkpoint", None, timeout)
    }

    /// As [`checkpoint_bytes`](Self::checkpoint_bytes), for a state that is a record.
    ///
    /// # Errors
    ///
    /// As for `checkpoint_bytes`, and if the state has another size than `S`.
    pub fn checkpoint<S: RecordMessage>(&self, timeout: Duration) -> Result<S, LifecycleError> {
        let bytes = self.checkpoint_bytes(timeout)?;
        from_bytes(&bytes).ok_or_else(|| {
            let (is, has, wants) = (S::TYPE_NAME, bytes.len(), size_of::<S>());
            self.state_error("checkpoint", format!("its state has {has} bytes, and a `{is}` has {wants}"))
        })
    }

    /// Puts these bytes into the state, between two messages.
    ///
    /// # Errors
    ///
    /// As for [`checkpoint_bytes`](Self::checkpoint_bytes), and if the state has another size. The state is as it was then.
    pub fn restore_bytes(&self, bytes: &[u8], timeout: Duration) -> Result<(), LifecycleError> {
        self.state_call("restore", Some(bytes.to_vec()), timeout).map(drop)
    }

    /// As [`restore_bytes`](Self::restore_bytes), from a record.
    ///
    /// # Errors
    ///
    /// As for `restore_bytes`.
    pub fn restore<S: RecordMessage>(&self, state: &S, timeout: Duration) -> Result<(), LifecycleError> {
        self.restore_bytes(bytes_of(state), timeout)
    }

    fn state_call(
        &self,
        call: &'static str,
        write: Option<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Vec<u8>, LifecycleError> {
        if !self.shared.is_on_device() {
            let problem = "its state is a Rust value on a thread; only that of a ring kernel on a device has bytes of its own";
            return Err(self.state_error(call, String::from(problem)));
        }
        let mut slot = self.shared.core.state_calls.put(write);
        self.shared.core.control.notify_with_full_fence();
        self.shared.input.wake_receiver();
        match slot.wait(self.wait, Some(Instant::now() + timeout)) {
            Some(Ok(Ok(bytes))) => Ok(bytes),
            Some(Ok(Err(problem))) => Err(self.state_error(call, problem)),
            Some(Err(_ended)) => Err(LifecycleError::WrongState {
                kernel: Arc::clone(&self.shared.core.name),
                state: self.state(),
                call,
                advice: "it is over, and its state with it",
            }),
            None => Err(LifecycleError::Timeout {
                kernel: Arc::clone(&self.shared.core.name),
                call,
                waited: timeout,
                consequence: "it will be done at the next message boundary, and nobody told",
            }),
        }
    }

    fn state_error(&self, call: &'static str, problem: String) -> LifecycleError {
        LifecycleError::DeviceState { kernel: Arc::clone(&self.shared.core.name), call, problem }
    }
}
