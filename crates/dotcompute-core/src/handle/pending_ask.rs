//! `begin_ask`: sends a request and returns the wait for its reply as a value.

use std::marker::PhantomData;
use std::ops::Deref;
use std::task::{Context, Poll};
use std::time::Duration;

use dotcompute_ring::reply::ReplySlot;
use dotcompute_ring::wait_list::WaitToken;

use super::KernelHandle;
use super::ask_outcome::{AskOutcome, final_check, poll_reply};
use super::async_call::AsyncSend;
use crate::deadline;
use crate::envelope::ReplyResult;
use crate::error::{AskError, Refusal};
use crate::lifecycle::State;
use crate::message::Message;
use crate::stack::{self, Copies};

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Sends a request and returns a [`PendingAsk`] that waits for the reply: for callers that interleave the wait with other work, such
    /// as checking for signals.
    ///
    /// The future is ready at once unless the mailbox is full and the backpressure blocks. `handle` may be a reference, or an owning
    /// pointer such as `Arc` for a pending ask that outlives the call.
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
    /// let reply = loop {
    ///     match pending.wait(Duration::from_millis(50)) {
    ///         Some(reply) => break reply?,
    ///         None => println!("still waiting"),
    ///     }
    /// };
    /// assert_eq!(reply, 42);
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
        let slot = {
            let mut send = AsyncSend::new(&*handle, message);
            if let Some(reason) = stack::refusal::<I, O>(Copies::ASYNC) {
                return Err(handle.not_sent_error(reason, send.take_message()));
            }
            let mut slot = handle.spare.take();
            send.begin(Some(slot.arm()), handle.wait_limit());
            if !send.send_inline()
                && let Err((reason, unsent)) = std::future::poll_fn(|cx| send.poll(cx)).await
            {
                return Err(handle.not_sent_error(reason, unsent.message));
            }
            slot
        };
        Ok(PendingAsk { slot: Some(slot), end_token: WaitToken::default(), handle, messages: PhantomData })
    }
}

/// A request that was accepted and whose reply has not been taken. Dropping it abandons the reply; the message may still be handled.
///
/// See [`KernelHandle::begin_ask`].
pub struct PendingAsk<I: Message, O: Message, H: Deref<Target = KernelHandle<I, O>>> {
    /// `None` once the reply was taken.
    slot: Option<ReplySlot<ReplyResult<O>>>,
    /// Registered by `poll`, for the end of the ring kernel.
    end_token: WaitToken,
    handle: H,
    messages: PhantomData<fn(I) -> O>,
}

impl<I: Message, O: Message, H: Deref<Target = KernelHandle<I, O>>> std::fmt::Debug for PendingAsk<I, O, H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingAsk").field("kernel", &*self.handle).finish_non_exhaustive()
    }
}

impl<I: Message, O: Message, H: Deref<Target = KernelHandle<I, O>>> PendingAsk<I, O, H> {
    /// Takes the reply if it has arrived.
    ///
    /// Returns `None` if it has not arrived, and also if it was taken before.
    #[inline]
    pub fn try_take(&mut self) -> Option<Result<O, AskError<I>>> {
        let slot = self.slot.as_mut()?;
        let outcome = match slot.try_take() {
            Some(reply) => reply.map_or(AskOutcome::NoReply, AskOutcome::Reply),
            None => final_check(slot, self.handle.cell.untyped.lifecycle.ended()?),
        };
        self.finish_ask(outcome)
    }

    /// Waits for the reply, at most `timeout`. Returns `None` after a timeout; the caller may wait again.
    pub fn wait(&mut self, timeout: Duration) -> Option<Result<O, AskError<I>>> {
        let handle = &*self.handle;
        let slot = self.slot.as_mut()?;
        let outcome = match handle.begin_blocking_wait_for_reply() {
            Ok(wait) => handle.wait_for_reply(slot, &wait, Some(deadline::after(timeout))),
            Err(Refusal::Cycle { cycle }) => AskOutcome::Cycle(cycle),
            // Too many handlers block: the caller polls instead.
            Err(_) => return self.try_take(),
        };
        self.finish_ask(outcome)
    }

    /// Polls for the reply and registers the task's waker, which is woken when the reply arrives or cannot arrive. Wake-ups may be
    /// spurious.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<O, AskError<I>>> {
        let Some(slot) = self.slot.as_mut() else { return Poll::Pending };
        let (lifecycle, token) = (&self.handle.cell.untyped.lifecycle, &mut self.end_token);
        match poll_reply(slot, None, cx, |cx| lifecycle.poll_until(token, cx, State::has_ended)) {
            Poll::Ready(outcome) => self.finish_ask(outcome).map_or(Poll::Pending, Poll::Ready),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Abandons the reply and returns the error of an ask that has timed out after `waited`.
    pub fn into_timeout_error(mut self, waited: Duration) -> AskError<I> {
        // The reply sender may still exist: dropping the slot passes ownership of the cell to it.
        self.slot = None;
        self.handle.no_reply_error(AskOutcome::TimedOut, waited)
    }

    fn finish_ask(&mut self, outcome: AskOutcome<O>) -> Option<Result<O, AskError<I>>> {
        if let AskOutcome::TimedOut = outcome {
            return None;
        }
        let slot = self.slot.take()?;
        Some(self.handle.finish_ask(slot, outcome, Duration::ZERO))
    }
}

impl<I: Message, O: Message, H: Deref<Target = KernelHandle<I, O>>> Drop for PendingAsk<I, O, H> {
    fn drop(&mut self) {
        self.handle.cell.untyped.lifecycle.waiters().cancel(&mut self.end_token);
    }
}
