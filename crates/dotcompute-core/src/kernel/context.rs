//! What a handler is passed: header, reply, send.

use std::sync::Arc;

use dotcompute_ring::reply::ReplySender;

use crate::cell::any_kernel::AnyKernel;
use crate::cell::kernel_cell::KernelCell;
use crate::envelope::ReplyResult;
use crate::error::{HandlerResult, TooManyOutputs};
use crate::lifecycle::Command;
use crate::message::{Message, MessageHeader};
use crate::output::router::OutputRouter;

/// The current message, without its body.
pub(crate) struct Current<O> {
    pub(crate) header: MessageHeader,
    /// Whether the message is a request. `reply` may be taken already.
    pub(crate) asked: bool,
    pub(crate) reply: Option<ReplySender<ReplyResult<O>>>,
}

/// Passed to a handler with each message: reads the header, replies and sends.
pub struct Context<O> {
    pub(crate) cell: Arc<KernelCell>,
    kernel: Arc<dyn AnyKernel>,
    pub(crate) current: Option<Current<O>>,
    pub(crate) router: OutputRouter<O>,
    /// Outputs that user code sent beyond the limit of queued outputs since the last message boundary. They were dropped.
    beyond_limit: u64,
}

impl<O: Message> Context<O> {
    pub(crate) fn new(cell: Arc<KernelCell>, kernel: Arc<dyn AnyKernel>, router: OutputRouter<O>) -> Self {
        Self { cell, kernel, current: None, router, beyond_limit: 0 }
    }

    /// Returns the name of this ring kernel.
    #[must_use]
    pub fn kernel(&self) -> &str {
        &self.cell.name
    }

    /// Returns the header of the current message. `None` in the `on_…` hooks.
    #[must_use]
    pub fn header(&self) -> Option<&MessageHeader> {
        self.current.as_ref().map(|current| &current.header)
    }

    /// Whether a caller waits for a reply to the current message: `false` if it was sent with `tell`, has its reply, or its caller has given
    /// up (timed out, or dropped the future). Lets a handler skip work without a waiting caller. The caller may give up right after this call.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.current
            .as_ref()
            .and_then(|current| current.reply.as_ref())
            .is_some_and(ReplySender::caller_is_waiting)
    }

    /// Whether the current message was sent with `ask`. Unlike [`wants_reply`](Self::wants_reply), it does not change while the message is
    /// handled: a handler that replies to requests and sends outputs for other messages decides by it.
    #[must_use]
    pub fn was_asked(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.asked)
    }

    /// Replies to the caller that asked. The reply is visible to the caller when this returns, and the handler may continue.
    ///
    /// A message that was sent with `tell`, or already has its reply, has no caller that waits: the reply is dropped and counted
    /// ([`KernelStats::unasked_replies`](crate::telemetry::KernelStats::unasked_replies)). Use [`send`](Self::send) for outputs.
    #[inline]
    pub fn reply(&mut self, output: O) {
        match self.current.as_mut().and_then(|current| current.reply.take()) {
            Some(reply_sender) => {
                // Count first: a caller that has the reply also finds it in the stats.
                self.cell.counters.replied.increment_single_writer();
                // An error means that the caller no longer waits; its own call has already returned an error.
                let _ = reply_sender.send(Ok(output));
            }
            None => self.drop_unasked(output),
        }
    }

    #[cold]
    fn drop_unasked(&mut self, output: O) {
        self.cell.counters.unasked_replies.increment_single_writer();
        drop(output);
    }

    /// Takes the reply handle of the current message, to reply later or from another thread. `None` if the message was sent with `tell`
    /// or already has its reply.
    ///
    /// The message counts as handled when the handler returns.
    ///
    /// ```
    /// # use dotcompute_core::error::HandlerResult;
    /// # use dotcompute_core::kernel::{Context, RingKernel, ReplyTo};
    /// /// Replies to each request when the next one arrives.
    /// #[derive(Default)]
    /// struct OneBehind(Option<(u32, ReplyTo<u32>)>);
    ///
    /// impl RingKernel for OneBehind {
    ///     type Input = u32;
    ///     type Output = u32;
    ///     fn handle(&mut self, message: u32, ctx: &mut Context<u32>) -> HandlerResult {
    ///         let next = ctx.take_reply().map(|reply_to| (message, reply_to));
    ///         if let Some((request, reply_to)) = std::mem::replace(&mut self.0, next) {
    ///             reply_to.send(request * 2);
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn take_reply(&mut self) -> Option<ReplyTo<O>> {
        let reply_sender = self.current.as_mut()?.reply.take()?;
        self.cell.counters.replied.increment_single_writer();
        Some(ReplyTo(reply_sender))
    }

    /// Sends an output: to every connected ring kernel, or to the output ring that `receive` reads.
    ///
    /// Never waits. An output without a free slot is queued, and this ring kernel takes its next message after the queue is empty. An
    /// output ring that is never read therefore blocks its ring kernel in time, and then the senders of that ring kernel:
    /// [`KernelStats::status`](crate::telemetry::KernelStats::status) says so.
    ///
    /// The queue is bounded by
    /// [`KernelOptions::queued_output_limit`](crate::options::KernelOptions::queued_output_limit). An output beyond it is dropped and
    /// counted as undelivered, and the current message fails with an error that says why.
    ///
    /// The output has a new id, and the priority of the current message. Its `correlation_id` is the id of the current message.
    #[inline]
    pub fn send(&mut self, output: O) {
        let header = self.output_header();
        if self.router.has_backlog() && self.router.queued() >= self.cell.options.queued_output_limit {
            return self.drop_beyond_limit(header, output);
        }
        self.router.send(&self.cell, header, output);
    }

    #[cold]
    fn drop_beyond_limit(&mut self, header: MessageHeader, output: O) {
        self.beyond_limit += 1;
        self.cell.dead_letter_output(
            header,
            output,
            String::from("its ring kernel sent more outputs than may be queued"),
        );
    }

    /// Returns an error if user code sent more outputs than may be queued since the last call.
    #[inline]
    pub(crate) fn check_output_limit(&mut self) -> HandlerResult {
        match std::mem::take(&mut self.beyond_limit) {
            0 => Ok(()),
            dropped => {
                Err(Box::new(TooManyOutputs { dropped, limit: self.cell.options.queued_output_limit }))
            }
        }
    }

    /// Like [`send`](Self::send), for an output that the links in the bit mask `linked` have delivered.
    pub(crate) fn send_except_linked(&mut self, output: O, linked: u8) {
        let header = self.output_header();
        self.router.send_except_linked(&self.cell, header, output, linked);
    }

    #[inline]
    fn output_header(&self) -> MessageHeader {
        match &self.current {
            Some(current) => MessageHeader::new().reply_to(&current.header),
            None => MessageHeader::new(),
        }
    }

    /// Ends this ring kernel from inside, like [`terminate`](crate::handle::KernelHandle::terminate), without waiting. It accepts no more
    /// messages. Those accepted before are still handled, after the current one; then follow `on_terminate` and the end.
    ///
    /// ```
    /// # use dotcompute_core::error::HandlerResult;
    /// # use dotcompute_core::kernel::{Context, RingKernel};
    /// /// Counts down, and ends at zero.
    /// struct Countdown(u32);
    ///
    /// impl RingKernel for Countdown {
    ///     type Input = ();
    ///     type Output = u32;
    ///     fn handle(&mut self, _: (), ctx: &mut Context<u32>) -> HandlerResult {
    ///         self.0 = self.0.saturating_sub(1);
    ///         ctx.reply(self.0);
    ///         if self.0 == 0 {
    ///             ctx.stop();
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn stop(&mut self) {
        // An abort that was requested before stays.
        if !self.should_terminate() {
            self.kernel.request_end(Command::Drain);
        }
    }

    /// Whether the ring kernel was told to terminate or abort. A long-running handler may return early then.
    #[must_use]
    pub fn should_terminate(&self) -> bool {
        matches!(self.cell.lifecycle.command(), Command::Drain | Command::Abort)
    }
}

/// The right and duty to reply to one request. Dropping it without a reply completes the request with an error.
pub struct ReplyTo<O>(ReplySender<ReplyResult<O>>);

impl<O: Message> ReplyTo<O> {
    /// Sends the reply. Returns `false` if the caller no longer waits; the reply is then dropped.
    pub fn send(self, output: O) -> bool {
        self.0.send(Ok(output)).is_ok()
    }
}
