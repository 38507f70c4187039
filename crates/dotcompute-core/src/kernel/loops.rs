//! Ring kernels in loop form: a function that receives and sends until it is told to stop.
//!
//! The function owns its state in local variables, which handler form cannot express where one message's handling spans
//! several others, or where it waits for something outside. A message counts as handled when the next one is asked for, or
//! when the function returns.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::{WaitStrategy, block_on_poll, spin_then_park, thread_waker};

use super::context::ReplyTo;
use super::inbox::{Intake, Next, NotNow};
use super::poll_step::TURN;
use crate::message::{Message, MessageHeader};

/// Where a context puts the intake back when it is dropped, in good order or by a panic.
pub(super) type Shelf<I, O> = Arc<Mutex<Option<Intake<I, O>>>>;

/// A loop's way to the outside: it receives, answers and sends through this.
///
/// The plain calls block and belong on a thread of their own
/// ([`Runtime::launch_thread_loop`](crate::runtime::Runtime::launch_thread_loop)); those that end in `_async` may run anywhere.
///
/// ```
/// use dotcompute_core::error::HandlerResult;
/// use dotcompute_core::loops::LoopContext;
///
/// /// Gives the sum of every two numbers.
/// async fn pairs(mut ctx: LoopContext<u32, u32>) -> HandlerResult {
///     while let Some(first) = ctx.receive_async().await {
///         let Some(second) = ctx.receive_async().await else { break };
///         ctx.send_async(first + second).await;
///     }
///     Ok(())
/// }
/// ```
pub struct LoopContext<I: Message, O: Message> {
    /// None only while being dropped.
    intake: Option<Intake<I, O>>,
    shelf: Shelf<I, O>,
    wait: WaitStrategy,
    /// Messages received since the loop last gave way.
    turn: u32,
}

impl<I: Message, O: Message> LoopContext<I, O> {
    pub(super) fn new(intake: Intake<I, O>, shelf: Shelf<I, O>, wait: WaitStrategy) -> Self {
        Self { intake: Some(intake), shelf, wait, turn: 0 }
    }

    fn intake(&mut self) -> &mut Intake<I, O> {
        self.intake.as_mut().expect("only `drop` takes the intake")
    }

    fn intake_ref(&self) -> &Intake<I, O> {
        self.intake.as_ref().expect("only `drop` takes the intake")
    }

    /// A look in passing, or one that arranges to be woken. The message before must have been finished.
    fn look(&mut self, cx: Option<&mut TaskContext<'_>>) -> Poll<Option<I>> {
        match (cx, self.intake().try_next()) {
            (_, Ok(Some(message))) => Poll::Ready(Some(message)),
            (None, Ok(None)) => Poll::Pending,
            (None, Err(NotNow)) => {
                self.poll_receive(WaitStrategy::Park, &mut TaskContext::from_waker(&thread_waker()))
            }
            (Some(cx), _) => self.poll_receive(WaitStrategy::Park, cx),
        }
    }

    fn poll_receive(&mut self, wait: WaitStrategy, cx: &mut TaskContext<'_>) -> Poll<Option<I>> {
        let intake = self.intake();
        loop {
            match intake.poll_next(wait, cx) {
                Poll::Ready(Next::Message(message)) => return Poll::Ready(Some(message)),
                Poll::Ready(Next::Activated | Next::Deactivated) => {}
                Poll::Ready(Next::Drained | Next::Aborted) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Ready when every output has gone out, or the ring kernel is aborted.
    fn poll_flush(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let intake = self.intake();
        if !intake.ctx.outlets.is_backed_up()
            || intake.ctx.outlets.poll_flush(&intake.ctx.core, cx).is_ready()
        {
            return Poll::Ready(());
        }
        intake.poll_abort(cx)
    }

    /// The next message; none when the ring kernel is to end: return then.
    ///
    /// Blocks while there is none, and while the ring kernel is paused.
    pub fn receive(&mut self) -> Option<I> {
        self.intake().finish();
        spin_then_park(self.wait, None, |cx| self.look(cx)).flatten()
    }

    /// As [`receive`](Self::receive), but not longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`ReceiveTimeout`] when there was no message in time.
    pub fn receive_timeout(&mut self, timeout: Duration) -> Result<Option<I>, ReceiveTimeout> {
        self.intake().finish();
        spin_then_park(self.wait, Some(Instant::now() + timeout), |cx| self.look(cx)).ok_or(ReceiveTimeout)
    }

    /// As [`receive`](Self::receive), for async code.
    pub async fn receive_async(&mut self) -> Option<I> {
        if self.turn >= TURN {
            self.turn = 0;
            futures_lite::future::yield_now().await;
        }
        self.turn += 1;
        let wait = self.intake().wait;
        self.intake().finish();
        std::future::poll_fn(|cx| self.poll_receive(wait, cx)).await
    }

    /// Sends an output, as [`Context::send`](crate::kernel::Context::send) does, and waits until there was room for it.
    ///
    /// When the ring kernel is aborted meanwhile, the output becomes a dead letter.
    pub fn send(&mut self, output: O) {
        self.intake().ctx.send(output);
        let wait = self.wait;
        block_on_poll(wait, None, |cx| self.poll_flush(cx));
    }

    /// As [`send`](Self::send), for async code.
    pub async fn send_async(&mut self, output: O) {
        self.intake().ctx.send(output);
        std::future::poll_fn(|cx| self.poll_flush(cx)).await;
    }

    /// Answers the message last received, as [`Context::reply`](crate::kernel::Context::reply) does. Never waits.
    pub fn reply(&mut self, output: O) {
        self.intake().ctx.reply(output);
    }

    /// Takes over the duty to answer the message last received. None if nobody waits for an answer.
    pub fn take_reply(&mut self) -> Option<ReplyTo<O>> {
        self.intake().ctx.take_reply()
    }

    /// The header of the message last received.
    #[must_use]
    pub fn header(&self) -> Option<&MessageHeader> {
        self.intake_ref().ctx.header()
    }

    /// The name this ring kernel was launched with.
    #[must_use]
    pub fn kernel(&self) -> &str {
        self.intake_ref().ctx.kernel()
    }

    /// Whether somebody waits for an answer to the message last received.
    #[must_use]
    pub fn wants_reply(&self) -> bool {
        self.intake_ref().ctx.wants_reply()
    }

    /// Whether the ring kernel is to end. `receive` still gives what was accepted before, then none.
    #[must_use]
    pub fn should_terminate(&self) -> bool {
        self.intake_ref().ctx.should_terminate()
    }
}

impl<I: Message, O: Message> Drop for LoopContext<I, O> {
    fn drop(&mut self) {
        let intake = self.intake.take();
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = intake;
    }
}

/// No message came in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no message came in time; receive again, or look at `should_terminate`")]
pub struct ReceiveTimeout;
