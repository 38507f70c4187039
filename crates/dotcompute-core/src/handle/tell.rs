//! `tell`: sends a message without waiting for it to be handled.

use std::sync::Arc;
use std::time::Duration;

use dotcompute_ring::reply::ReplySender;

use super::KernelHandle;
use super::wait_limit::WaitLimit;
use crate::envelope::{Envelope, ReplyResult};
use crate::error::{Refusal, TellError};
use crate::message::{Message, MessageHeader};
use crate::options::Backpressure;

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Sends a message and does not wait for it to be handled.
    ///
    /// # Errors
    ///
    /// [`TellError`], which returns the message: the ring kernel was never activated or has ended, or the mailbox is full and the
    /// backpressure is `Reject` (or `BlockFor`, and its time has passed).
    #[inline]
    pub fn tell(&self, message: I) -> Result<(), TellError<I>> {
        self.send(self.envelope(message, None), self.wait_limit())
            .map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    /// Like [`tell`](Self::tell), but never waits, whatever the backpressure.
    ///
    /// # Errors
    ///
    /// As for `tell`. A full mailbox is [`Refusal::Full`].
    #[inline]
    pub fn try_tell(&self, message: I) -> Result<(), TellError<I>> {
        self.send(self.envelope(message, None), WaitLimit::NoWait)
            .map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    /// Like [`tell`](Self::tell), but waits at most `timeout` for a free slot, whatever the backpressure.
    ///
    /// # Errors
    ///
    /// As for `tell`. A mailbox that stays full is [`Refusal::TimedOut`].
    pub fn tell_timeout(&self, message: I, timeout: Duration) -> Result<(), TellError<I>> {
        let sent = self.send(self.envelope(message, None), WaitLimit::Timeout(timeout));
        sent.map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    /// Like [`tell`](Self::tell), for async code.
    ///
    /// # Errors
    ///
    /// As for `tell`. Dropping the future before it is ready drops the message, which is then not sent.
    pub async fn tell_async(&self, message: I) -> Result<(), TellError<I>> {
        let sent = self.send_async(self.envelope(message, None), self.wait_limit()).await;
        sent.map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    #[inline]
    pub(super) fn envelope(&self, message: I, reply: Option<ReplySender<ReplyResult<O>>>) -> Envelope<I, O> {
        let header = MessageHeader::new().with_priority(self.priority);
        Envelope { header, stamp: self.sampler.stamp(), reply, message }
    }

    #[inline]
    pub(super) fn wait_limit(&self) -> WaitLimit {
        match self.cell.untyped.options.backpressure {
            Backpressure::Block => WaitLimit::Unlimited,
            Backpressure::BlockFor(time) => WaitLimit::Timeout(time),
            Backpressure::Reject | Backpressure::DropOldest => WaitLimit::NoWait,
        }
    }

    #[cold]
    fn tell_error(&self, reason: Refusal, unsent: Envelope<I, O>) -> TellError<I> {
        TellError {
            kernel: Arc::clone(&self.cell.untyped.name),
            message_type: I::TYPE_NAME,
            reason,
            message: unsent.message,
        }
    }
}
