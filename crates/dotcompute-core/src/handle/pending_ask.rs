//! Pending ask.

use std::marker::PhantomData;
use std::ops::Deref;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::reply::ReplySlot;

use super::KernelHandle;
use super::ask_outcome::{Outcome, last_look};
use crate::envelope::Answer;
use crate::error::AskError;
use crate::message::Message;

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Asks, and leaves waiting for the answer to [`PendingAsk`]: for callers that have to look at something else now and then, and come
    /// back to the same question.
    ///
    /// Ready at once unless the ring is full and the ring kernel's backpressure has its senders wait. Takes a handle by reference, or by
    /// anything that leads to one (`Arc`), for a pending ask that outlives the call.
    ///
    /// ```
    /// # use dotcompute_core::error::HandlerResult;
    /// # use dotcompute_core::handle::KernelHandle;
    /// # use dotcompute_core::kernel::{Context, RingKernel};
    /// # use dotcompute_core::runtime::Runtime;
    /// # struct Double;
    /// # impl RingKernel for Double {
    /// #     type Input = u64;
    /// #     type Output = u64;
    /// #     fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
    /// #         ctx.reply(message * 2);
    /// #         Ok(())
    /// #     }
    /// # }
    /// use std::time::Duration;
    ///
    /// let runtime = Runtime::new()?;
    /// let double = runtime.launch("double", || Double)?;
    /// double.activate()?;
    /// let mut pending = futures_lite::future::block_on(KernelHandle::begin_ask(&double, 21))?;
    /// let answer = loop {
    ///     match pending.wait(Duration::from_millis(50)) {
    ///         Some(answer) => break answer?,
    ///         None => println!("still waiting"),
    ///     }
    /// };
    /// assert_eq!(answer, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AskError::NotSent`]: the message was not accepted.
    pub async fn begin_ask<H: Deref<Target = Self>>(
        handle: H,
        message: I,
    ) -> Result<PendingAsk<I, O, H>, AskError<I>> {
        let mut slot = handle.spare.take();
        let envelope = handle.envelope(message, Some(slot.arm()));
        if let Err(envelope) = handle.send_inline(envelope)
            && let Err((reason, unsent)) = handle.send_async(envelope, handle.patience()).await
        {
            return Err(handle.not_sent(reason, unsent.message));
        }
        Ok(PendingAsk { slot: Some(slot), handle, messages: PhantomData })
    }
}

/// A question that was accepted, and whose answer has not been taken. Dropped, it gives up the answer; the message may still be handled.
///
/// See [`KernelHandle::begin_ask`].
pub struct PendingAsk<I: Message, O: Message, H: Deref<Target = KernelHandle<I, O>>> {
    /// None once the answer was given.
    slot: Option<ReplySlot<Answer<O>>>,
    handle: H,
    messages: PhantomData<fn(I) -> O>,
}

impl<I: Message, O: Message, H: Deref<Target = KernelHandle<I, O>>> std::fmt::Debug for PendingAsk<I, O, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingAsk").field("kernel", &*self.handle).finish_non_exhaustive()
    }
}

impl<I: Message, O: Message, H: Deref<Target = KernelHandle<I, O>>> PendingAsk<I, O, H> {
    /// The answer, if it is there.
    ///
    /// None too once the answer was given.
    #[inline]
    pub fn try_take(&mut self) -> Option<Result<O, AskError<I>>> {
        let slot = self.slot.as_mut()?;
        let outcome = match slot.try_take() {
            Some(answer) => answer.map_or(Outcome::NoReply, Outcome::Answer),
            None => {
                let state = self.handle.state();
                if !state.has_ended() {
                    return None;
                }
                last_look(slot, state)
            }
        };
        self.conclude(outcome)
    }

    /// Waits for the answer, at most so long; then none, and it can be waited for again.
    pub fn wait(&mut self, timeout: Duration) -> Option<Result<O, AskError<I>>> {
        let outcome = self.handle.wait_for_answer(self.slot.as_mut()?, Some(Instant::now() + timeout));
        self.conclude(outcome)
    }

    /// Looks for the answer, and arranges that the task is woken once it is there or will not come. A waker may be woken for nothing.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<O, AskError<I>>> {
        let Some(slot) = self.slot.as_mut() else { return Poll::Pending };
        if let Poll::Ready(answer) = slot.poll_take(cx) {
            let outcome = answer.map_or(Outcome::NoReply, Outcome::Answer);
            return self.conclude(outcome).map_or(Poll::Pending, Poll::Ready);
        }
        Poll::Pending
    }

    /// The error of an ask that was waited for so long in vain. Gives up the answer.
    pub fn give_up(mut self, waited: Duration) -> AskError<I> {
        // Whoever has the way back may still use it, and finds nobody there.
        self.slot = None;
        self.handle.no_answer(Outcome::TimedOut, waited)
    }

    fn conclude(&mut self, outcome: Outcome<O>) -> Option<Result<O, AskError<I>>> {
        if let Outcome::TimedOut = outcome {
            return None;
        }
        let slot = self.slot.take()?;
        Some(self.handle.conclude(slot, outcome, Duration::ZERO))
    }
}
