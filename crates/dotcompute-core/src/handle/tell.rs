//! Telling.

use std::sync::Arc;
use std::time::Duration;

use dotcompute_ring::reply::ReplySender;

use super::KernelHandle;
use super::wait_limit::Patience;
use crate::envelope::{Answer, Envelope};
use crate::error::{Refusal, TellError};
use crate::message::{Message, MessageHeader};
use crate::options::Backpressure;

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Sends a message and does not wait for it to be handled.
    ///
    /// # Errors
    ///
    /// [`TellError`] with the message in it: the ring kernel was never activated, has ended, or has no room and its backpressure is
    /// `Reject` (or `BlockFor`, and the time is up).
    #[inline]
    pub fn tell(&self, message: I) -> Result<(), TellError<I>> {
        self.send(self.envelope(message, None), self.patience())
            .map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    /// As [`tell`](Self::tell), but never waits, whatever the backpressure.
    ///
    /// # Errors
    ///
    /// As for `tell`; a full ring is [`Refusal::Full`].
    #[inline]
    pub fn try_tell(&self, message: I) -> Result<(), TellError<I>> {
        self.send(self.envelope(message, None), Patience::None)
            .map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    /// As [`tell`](Self::tell), waiting at most `timeout` for room, whatever the backpressure.
    ///
    /// # Errors
    ///
    /// As for `tell`; no room in time is [`Refusal::TimedOut`].
    pub fn tell_timeout(&self, message: I, timeout: Duration) -> Result<(), TellError<I>> {
        let sent = self.send(self.envelope(message, None), Patience::For(timeout));
        sent.map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    /// As [`tell`](Self::tell), for async code.
    ///
    /// # Errors
    ///
    /// As for `tell`. If the future is dropped before it is ready, the message is dropped with it and was not sent.
    pub async fn tell_async(&self, message: I) -> Result<(), TellError<I>> {
        let sent = self.send_async(self.envelope(message, None), self.patience()).await;
        sent.map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    #[inline]
    pub(super) fn envelope(&self, message: I, reply: Option<ReplySender<Answer<O>>>) -> Envelope<I, O> {
        let header = MessageHeader::new().with_priority(self.priority);
        Envelope { header, stamp: self.sampler.stamp(), reply, message }
    }

    #[inline]
    pub(super) fn patience(&self) -> Patience {
        match self.shared.core.options.backpressure {
            Backpressure::Block => Patience::Endless,
            Backpressure::BlockFor(time) => Patience::For(time),
            Backpressure::Reject | Backpressure::DropOldest => Patience::None,
        }
    }

    #[cold]
    fn tell_error(&self, reason: Refusal, unsent: Envelope<I, O>) -> TellError<I> {
        TellError {
            kernel: Arc::clone(&self.shared.core.name),
            message_type: I::TYPE_NAME,
            reason,
            message: unsent.message,
        }
    }
}
