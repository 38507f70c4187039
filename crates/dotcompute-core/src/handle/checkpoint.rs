//! `checkpoint` and `restore`: read and write the state of a ring kernel on a device.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::KernelHandle;
use crate::backend::worker_pool::block;
use crate::deadline;
use crate::error::LifecycleError;
use crate::message::Message;
use crate::message::record::{RecordMessage, bytes_of, from_bytes};

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Reads the bytes of the state at a message boundary, for a ring kernel on a device. The ring kernel may be active or paused, and
    /// continues unchanged.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`]: it is not on a device, has ended, or did not reach a message boundary within `timeout`.
    pub fn checkpoint_bytes(&self, timeout: Duration) -> Result<Vec<u8>, LifecycleError> {
        self.request_state("checkpoint", None, timeout)
    }

    /// Like [`checkpoint_bytes`](Self::checkpoint_bytes), for a state that is a record.
    ///
    /// # Errors
    ///
    /// As for `checkpoint_bytes`, and if the size of the state is not the size of `S`.
    pub fn checkpoint<S: RecordMessage>(&self, timeout: Duration) -> Result<S, LifecycleError> {
        let bytes = self.checkpoint_bytes(timeout)?;
        from_bytes(&bytes).ok_or_else(|| {
            let (type_name, actual, expected) = (S::TYPE_NAME, bytes.len(), size_of::<S>());
            self.state_error(
                "checkpoint",
                format!("its state has {actual} bytes, and a `{type_name}` has {expected}"),
            )
        })
    }

    /// Writes these bytes into the state at a message boundary.
    ///
    /// # Errors
    ///
    /// As for [`checkpoint_bytes`](Self::checkpoint_bytes), and if the size differs. The state is unchanged after an error.
    pub fn restore_bytes(&self, bytes: &[u8], timeout: Duration) -> Result<(), LifecycleError> {
        self.request_state("restore", Some(bytes.to_vec()), timeout).map(drop)
    }

    /// Like [`restore_bytes`](Self::restore_bytes), from a record.
    ///
    /// # Errors
    ///
    /// As for `restore_bytes`.
    pub fn restore<S: RecordMessage>(&self, state: &S, timeout: Duration) -> Result<(), LifecycleError> {
        self.restore_bytes(bytes_of(state), timeout)
    }

    fn request_state(
        &self,
        call: &'static str,
        write: Option<Vec<u8>>,
        timeout: Duration,
    ) -> Result<Vec<u8>, LifecycleError> {
        if !self.cell.is_on_device() {
            let problem = "its state is a Rust value on a thread; only ring kernels on a device have a state of plain bytes";
            return Err(self.state_error(call, String::from(problem)));
        }
        // SYNC POINT: state-request (caller). Enqueues, then notifies. Pairs with `DeviceProxy::register_and_recheck`, which registers,
        // then rechecks the queue.
        let mut slot = self.cell.untyped.state_requests.enqueue(write);
        self.cell.untyped.control.notify_all();
        self.cell.input.wake_receiver();
        let poll = |cx: Option<&mut Context<'_>>| match cx {
            None => slot.try_take().map_or(Poll::Pending, Poll::Ready),
            Some(cx) => slot.poll_take(cx),
        };
        match block(self.wait, Some(deadline::after(timeout)), poll) {
            Some(Ok(Ok(bytes))) => Ok(bytes),
            Some(Ok(Err(problem))) => Err(self.state_error(call, problem)),
            Some(Err(_ended)) => Err(LifecycleError::WrongState {
                kernel: Arc::clone(&self.cell.untyped.name),
                state: self.state(),
                call,
                advice: "its state was released when it ended",
            }),
            None => Err(LifecycleError::Timeout {
                kernel: Arc::clone(&self.cell.untyped.name),
                call,
                waited: timeout,
                consequence: "the request stays queued, runs at the next message boundary, and its result is discarded",
            }),
        }
    }

    fn state_error(&self, call: &'static str, problem: String) -> LifecycleError {
        LifecycleError::DeviceState { kernel: Arc::clone(&self.cell.untyped.name), call, problem }
    }
}
