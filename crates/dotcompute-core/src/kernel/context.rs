//! Context.

use std::sync::Arc;

use dotcompute_ring::reply::ReplySender;

use crate::cell::kernel_cell::Core;
use crate::envelope::Answer;
use crate::lifecycle::Command;
use crate::message::{Message, MessageHeader};
use crate::output::router::Outlets;

/// The message being handled, without its body.
pub(crate) struct Current<O> {
    pub(crate) header: MessageHeader,
    pub(crate) reply: Option<ReplySender<Answer<O>>>,
}

/// A handler's way to the outside: it answers and sends through this.
pub struct Context<O> {
    pub(crate) core: Arc<Core>,
    pub(crate) current: Option<Current<O>>,
    pub(crate) outlets: Outlets<O>,
}

impl<O: Message> Context<O> {
    pub(crate) fn new(core: Arc<Core>, outlets: Outlets<O>) -> Self {
        Self { core, current: None, outlets }
    }

    /// The name this ring kernel was launched with.
    #[must_use]
    pub fn kernel(&self) -> &str {
        &self.core.name
    }

    /// The header of the message being handled; none in the `on_…` hooks.
    #[must_use]
    pub fn header(&self) -> Option<&MessageHeader> {
        self.current.as_ref().map(|current| &current.header)
    }

    /// Whether somebody waits for an answer to the message being handled.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.reply.is_some())
    }

    /// Answers the message being handled: to its asker if it was asked and not yet answered, else as [`send`](Self::send) does.
    ///
    /// The asker has the answer when this returns; the handler may go on.
    #[inline]
    pub fn reply(&mut self, output: O) {
        match self.current.as_mut().and_then(|current| current.reply.take()) {
            Some(asker) => {
                // Counted first, so that an asker who looks finds its own answer counted.
                self.core.counters.replied.bump_exclusively();
                // The asker may have given up, which its own error has told it.
                let _ = asker.send(Ok(output));
            }
            None => self.send(output),
        }
    }

    /// Takes over the duty to answer, to answer later or from elsewhere. None if nobody waits for an answer.
    ///
    /// The message counts as handled when the handler returns.
    ///
    /// ```
    /// # use dotcompute_core::error::HandlerResult;
    /// # use dotcompute_core::kernel::{Context, RingKernel, ReplyTo};
    /// /// Answers a question when the next one comes.
    /// #[derive(Default)]
    /// struct OneBehind(Option<(u32, ReplyTo<u32>)>);
    ///
    /// impl RingKernel for OneBehind {
    ///     type Input = u32;
    ///     type Output = u32;
    ///     fn handle(&mut self, message: u32, ctx: &mut Context<u32>) -> HandlerResult {
    ///         let next = ctx.take_reply().map(|to| (message, to));
    ///         if let Some((question, asker)) = std::mem::replace(&mut self.0, next) {
    ///             asker.send(question * 2);
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    pub fn take_reply(&mut self) -> Option<ReplyTo<O>> {
        let replier = self.current.as_mut()?.reply.take()?;
        self.core.counters.replied.bump_exclusively();
        Some(ReplyTo(replier))
    }

    /// Sends an output: to every connected ring kernel, or to the output ring that `receive` reads.
    ///
    /// Never waits. Where there is no room the output is kept, and this ring kernel takes its next message when it has gone
    /// out: an output ring that nobody reads will in time hold up its ring kernel, and then those who send to it.
    ///
    /// The output has a new id and the priority of the message being handled, whose id becomes its `correlation_id`.
    #[inline]
    pub fn send(&mut self, output: O) {
        let header = self.output_header();
        self.outlets.send(&self.core, header, output);
    }

    /// As [`send`](Self::send), for an output that some links have taken already.
    pub(crate) fn send_beside(&mut self, output: O, linked: u8) {
        let header = self.output_header();
        self.outlets.send_beside(&self.core, header, output, linked);
    }

    #[inline]
    fn output_header(&self) -> MessageHeader {
        match &self.current {
            Some(current) => MessageHeader::new().reply_to(&current.header),
            None => MessageHeader::new(),
        }
    }

    /// Whether the ring kernel is to end soon: a handler that works long may stop early.
    #[must_use]
    pub fn should_terminate(&self) -> bool {
        matches!(self.core.life.command(), Command::Drain | Command::Abort)
    }
}

/// The duty to answer one asker. Dropped without an answer, it tells the asker that there is none.
pub struct ReplyTo<O>(ReplySender<Answer<O>>);

impl<O: Message> ReplyTo<O> {
    /// Answers. False if the asker no longer waits; the answer is then dropped.
    pub fn send(self, output: O) -> bool {
        self.0.send(Ok(output)).is_ok()
    }
}
