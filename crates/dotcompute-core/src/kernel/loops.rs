//! Loop form of a ring kernel: a function that receives and sends until it is told to stop.
//!
//! The function holds its state in local variables. It suits work that handler form cannot express: handling one message across several
//! others, or waiting for something outside. A message counts as handled when the next one is received, or when the function returns.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use dotcompute_ring::wait::{WaitStrategy, block_on_poll, spin_then_park, thread_waker};

use super::context::ReplyTo;
use super::inbox::{Inbox, InboxEvent, NeedsFullPoll};
use super::poll_step::POLL_BUDGET;
use crate::cell::kernel_cell::KernelCell;
use crate::deadline;
use crate::message::{Message, MessageHeader};

/// Where a context returns its inbox when it is dropped, also during a panic.
pub(super) type InboxSlot<I, O> = Arc<Mutex<Option<Inbox<I, O>>>>;

/// Passed to a loop: receives, replies and sends.
///
/// The loop must keep it, and must receive until `None`: messages that are queued when the loop returns become dead letters
/// ([`Reason::LoopEnded`](crate::dead_letter::Reason::LoopEnded)). A loop that returns without its context, because it has leaked the
/// context or moved it elsewhere, becomes `Failed`; its callers get an error, and the context receives nothing more.
///
/// The plain calls block and need a dedicated thread
/// ([`Runtime::launch_thread_loop`](crate::runtime::Runtime::launch_thread_loop)). Calls that end in `_async` run anywhere.
///
/// ```
/// use dotcompute_core::error::HandlerResult;
/// use dotcompute_core::loops::LoopContext;
///
/// /// Sends the sum of every two numbers.
/// async fn pairs(mut ctx: LoopContext<u32, u32>) -> HandlerResult {
///     while let Some(first) = ctx.receive_async().await {
///         let Some(second) = ctx.receive_async().await else { break };
///         ctx.send_async(first + second).await;
///     }
///     Ok(())
/// }
/// ```
pub struct LoopContext<I: Message, O: Message> {
    /// `None` only during `drop`.
    inbox: Option<Inbox<I, O>>,
    inbox_slot: InboxSlot<I, O>,
    wait: WaitStrategy,
    /// Messages received since the loop last yielded.
    messages_since_yield: u32,
}

impl<I: Message, O: Message> LoopContext<I, O> {
    pub(super) fn new(inbox: Inbox<I, O>, inbox_slot: InboxSlot<I, O>, wait: WaitStrategy) -> Self {
        Self { inbox: Some(inbox), inbox_slot, wait, messages_since_yield: 0 }
    }

    fn inbox(&mut self) -> &mut Inbox<I, O> {
        self.inbox.as_mut().expect("only `drop` takes the inbox")
    }

    fn inbox_ref(&self) -> &Inbox<I, O> {
        self.inbox.as_ref().expect("only `drop` takes the inbox")
    }

    /// Polls once; with a context, registers the task's waker if there is no message. The previous message must be completed.
    fn poll_once(&mut self, cx: Option<&mut TaskContext<'_>>) -> Poll<Option<I>> {
        match (cx, self.inbox().try_next()) {
            (_, Ok(Some(message))) => Poll::Ready(Some(message)),
            (None, Ok(None)) => Poll::Pending,
            (None, Err(NeedsFullPoll)) => {
                self.poll_receive(WaitStrategy::Park, &mut TaskContext::from_waker(&thread_waker()))
            }
            (Some(cx), _) => self.poll_receive(WaitStrategy::Park, cx),
        }
    }

    fn poll_receive(&mut self, wait: WaitStrategy, cx: &mut TaskContext<'_>) -> Poll<Option<I>> {
        let inbox = self.inbox();
        loop {
            match inbox.poll_next(wait, cx) {
                Poll::Ready(InboxEvent::Message(message)) => return Poll::Ready(Some(message)),
                Poll::Ready(InboxEvent::Activated | InboxEvent::Deactivated) => {}
                Poll::Ready(InboxEvent::Drained | InboxEvent::Aborted) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Ready when every output is sent, or the ring kernel is aborted.
    fn poll_flush(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let inbox = self.inbox();
        if !inbox.ctx.router.has_backlog() || inbox.ctx.router.poll_flush(&inbox.ctx.cell, cx).is_ready() {
            return Poll::Ready(());
        }
        inbox.poll_abort(cx)
    }

    /// Receives the next message. Returns `None` when the ring kernel is to end: the loop must return then.
    ///
    /// Blocks while there is no message, and while the ring kernel is paused.
    pub fn receive(&mut self) -> Option<I> {
        self.inbox().complete_current();
        spin_then_park(self.wait, None, |cx| self.poll_once(cx)).flatten()
    }

    /// Like [`receive`](Self::receive), but waits at most `timeout`; [`Duration::MAX`] is without a limit.
    ///
    /// # Errors
    ///
    /// [`ReceiveTimeout`] if no message arrived in time.
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<I>, ReceiveTimeout> {
        self.inbox().complete_current();
        spin_then_park(self.wait, Some(deadline::after(timeout)), |cx| self.poll_once(cx))
            .ok_or(ReceiveTimeout)
    }

    /// Like [`receive`](Self::receive), for async code.
    pub async fn receive_async(&mut self) -> Option<I> {
        let _receiving = Receiving::begin(&self.inbox().cell.untyped);
        if self.messages_since_yield >= POLL_BUDGET {
            self.messages_since_yield = 0;
            futures_lite::future::yield_now().await;
        }
        self.messages_since_yield += 1;
        let wait = self.inbox().wait;
        self.inbox().complete_current();
        std::future::poll_fn(|cx| self.poll_receive(wait, cx)).await
    }

    /// Sends an output like [`Context::send`](crate::kernel::Context::send), then waits until it is accepted.
    ///
    /// If the ring kernel is aborted meanwhile, the output becomes a dead letter.
    pub fn send(&mut self, output: O) {
        self.inbox().ctx.send(output);
        let wait = self.wait;
        block_on_poll(wait, None, |cx| self.poll_flush(cx));
    }

    /// Like [`send`](Self::send), for async code.
    pub async fn send_async(&mut self, output: O) {
        self.inbox().ctx.send(output);
        std::future::poll_fn(|cx| self.poll_flush(cx)).await;
    }

    /// Replies to the last message received, like [`Context::reply`](crate::kernel::Context::reply). Never waits. Without a caller that
    /// waits, the reply is dropped and counted.
    pub fn reply(&mut self, output: O) {
        self.inbox().ctx.reply(output);
    }

    /// Takes the reply handle of the last message received. `None` if it was sent with `tell` or already has its reply.
    pub fn take_reply(&mut self) -> Option<ReplyTo<O>> {
        self.inbox().ctx.take_reply()
    }

    /// Returns the header of the last message received.
    #[must_use]
    pub fn header(&self) -> Option<&MessageHeader> {
        self.inbox_ref().ctx.header()
    }

    /// Returns the name of this ring kernel.
    #[must_use]
    pub fn kernel(&self) -> &str {
        self.inbox_ref().ctx.kernel()
    }

    /// Whether a caller waits for a reply to the last message received, like
    /// [`Context::wants_reply`](crate::kernel::Context::wants_reply).
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.inbox_ref().ctx.wants_reply()
    }

    /// Ends this ring kernel from inside, like [`Context::stop`](crate::kernel::Context::stop): it accepts no more messages, and `receive`
    /// returns those accepted before, then `None`.
    pub fn stop(&mut self) {
        self.inbox().ctx.stop();
    }

    /// Whether the ring kernel is to end. `receive` still returns the messages accepted before, then `None`.
    #[must_use]
    pub fn should_terminate(&self) -> bool {
        self.inbox_ref().ctx.should_terminate()
    }
}

impl<I: Message, O: Message> Drop for LoopContext<I, O> {
    fn drop(&mut self) {
        let inbox = self.inbox.take();
        *self.inbox_slot.lock().unwrap_or_else(PoisonError::into_inner) = inbox;
    }
}

/// Marks the loop as receiving until it is dropped, also together with the future.
struct Receiving(Arc<KernelCell>);

impl Receiving {
    fn begin(cell: &Arc<KernelCell>) -> Self {
        cell.waits.set_receiving(true);
        Self(Arc::clone(cell))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.waits.set_receiving(false);
    }
}

/// No message arrived in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("receiving in a loop: no message arrived in time; receive again, or check `should_terminate`")]
pub struct ReceiveTimeout;
