//! `tell`: sends a message without waiting for it to be handled.

use std::sync::Arc;
use std::time::Duration;

use dotcompute_ring::reply::ReplySender;

use super::KernelHandle;
use super::async_call::AsyncTell;
use super::wait_limit::WaitLimit;
use crate::envelope::{Envelope, ReplyResult};
use crate::error::{Refusal, TellError};
use crate::message::{Message, MessageHeader};
use crate::options::Backpressure;
use crate::stack::{self, Copies};
use crate::telemetry::Stamp;

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Sends a message and does not wait for it to be handled.
    ///
    /// # Errors
    ///
    /// [`TellError`], which returns the message: the ring kernel was never activated or has ended, or the mailbox is full and the
    /// backpressure is `Reject` (or `BlockFor`, and its time has passed).
    #[inline]
    pub fn tell(&self, message: I) -> Result<(), TellError<I>> {
        self.tell_within(message, self.wait_limit())
    }

    /// Like [`tell`](Self::tell), but never waits, whatever the backpressure.
    ///
    /// # Errors
    ///
    /// As for `tell`. A full mailbox is [`Refusal::Full`].
    #[inline]
    pub fn try_tell(&self, message: I) -> Result<(), TellError<I>> {
        self.tell_within(message, WaitLimit::NoWait)
    }

    /// Like [`tell`](Self::tell), but waits at most `timeout` for a free slot, whatever the backpressure.
    ///
    /// # Errors
    ///
    /// As for `tell`. A mailbox that stays full is [`Refusal::TimedOut`].
    pub fn tell_timeout(&self, message: I, timeout: Duration) -> Result<(), TellError<I>> {
        self.tell_within(message, WaitLimit::Timeout(timeout))
    }

    /// Like [`tell`](Self::tell), for async code.
    ///
    /// # Errors
    ///
    /// As for `tell`. Dropping the future before it is ready drops the message, which is then not sent.
    pub fn tell_async(&self, message: I) -> impl Future<Output = Result<(), TellError<I>>> {
        let mut tell = AsyncTell::new(self, message);
        std::future::poll_fn(move |cx| tell.poll(cx))
    }

    #[inline]
    fn tell_within(&self, message: I, wait_limit: WaitLimit) -> Result<(), TellError<I>> {
        // The call is a function of its own: without optimization, the copies of a function are on the stack from its beginning.
        match stack::refusal::<I, O>(Copies::BLOCKING) {
            None => self.send_message(message, wait_limit),
            Some(reason) => Err(self.tell_error(reason, message)),
        }
    }

    #[inline]
    fn send_message(&self, message: I, wait_limit: WaitLimit) -> Result<(), TellError<I>> {
        self.send(self.envelope(message, None), wait_limit)
            .map_err(|(reason, unsent)| self.tell_error(reason, unsent.message))
    }

    #[inline]
    pub(super) fn envelope(&self, message: I, reply: Option<ReplySender<ReplyResult<O>>>) -> Envelope<I, O> {
        Envelope { reply, stamp: self.sampler.stamp(), ..self.untimed_envelope(message) }
    }

    /// An envelope whose time and reply sender are set later.
    #[inline]
    pub(super) fn untimed_envelope(&self, message: I) -> Envelope<I, O> {
        let header = MessageHeader::new().with_priority(self.priority);
        Envelope { header, stamp: Stamp::NONE, reply: None, message }
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
    pub(super) fn tell_error(&self, reason: Refusal, message: I) -> TellError<I> {
        TellError { kernel: Arc::clone(&self.cell.untyped.name), message_type: I::TYPE_NAME, reason, message }
    }
}
