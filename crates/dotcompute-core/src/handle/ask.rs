//! Asking: a message with a way back, and waiting for the answer.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::reply::ReplySlot;
use dotcompute_ring::wait::{Backoff, Step, block_on_poll};

use super::post::Patience;
use super::{KernelHandle, within};
use crate::envelope::Answer;
use crate::error::{AskError, Refusal, TellError};
use crate::lifecycle::{State, Watch};
use crate::message::Message;
use crate::shared::AnyKernel;

/// How often a spinning asker looks for an answer before it looks whether anybody is left to give one.
const LOOKS_BETWEEN_CHECKS: u32 = 1 << 14;

/// A place for one idle reply slot, shared by the threads that share a handle.
pub(super) struct SpareSlot<O>(AtomicPtr<()>, PhantomData<ReplySlot<Answer<O>>>);

impl<O> SpareSlot<O> {
    pub(super) const fn empty() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()), PhantomData)
    }

    #[inline]
    fn take(&self) -> ReplySlot<Answer<O>> {
        // Acquire: pairs with the release in `give`, so that the slot's content is seen.
        let raw = self.0.swap(std::ptr::null_mut(), Ordering::Acquire);
        if raw.is_null() {
            return ReplySlot::new();
        }
        // SAFETY: every non-null pointer in this place was put there by `give`, from `into_raw` of a slot of this very type
        // (the type parameter is the place's own), and the swap has taken it out, so it is owned here alone.
        unsafe { ReplySlot::from_raw(raw.cast()) }
    }

    #[inline]
    fn give(&self, slot: ReplySlot<Answer<O>>) {
        let old = self.0.swap(slot.into_raw().cast(), Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: as in `take`. Another thread's slot was here; one spare is enough.
            drop(unsafe { ReplySlot::<Answer<O>>::from_raw(old.cast()) });
        }
    }
}

impl<O> Drop for SpareSlot<O> {
    fn drop(&mut self) {
        let raw = *self.0.get_mut();
        if !raw.is_null() {
            // SAFETY: as in `take`; `&mut self` shows that nobody else uses the place.
            drop(unsafe { ReplySlot::<Answer<O>>::from_raw(raw.cast()) });
        }
    }
}

/// What came of waiting.
enum Outcome<O> {
    Answer(Answer<O>),
    NoReply,
    Ended(State),
    TimedOut,
}

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Sends a message and waits for its answer.
    ///
    /// Waits as long as the ring kernel lives; see [`ask_timeout`](Self::ask_timeout) for a limit.
    ///
    /// # Errors
    ///
    /// [`AskError`]: the message was not accepted, handling it failed (with the panic or error text), the handler gave no answer, or
    /// the ring kernel ended.
    #[inline]
    pub fn ask(&self, message: I) -> Result<O, AskError<I>> {
        self.ask_within(message, None, self.patience())
    }

    /// As [`ask`](Self::ask), but a full ring is refused at once, whatever the backpressure. The answer is waited for.
    ///
    /// # Errors
    ///
    /// As for `ask`; a full ring is [`Refusal::Full`] inside [`AskError::NotSent`].
    pub fn try_ask(&self, message: I) -> Result<O, AskError<I>> {
        self.ask_within(message, None, Patience::None)
    }

    /// As [`ask`](Self::ask), waiting at most `timeout` in all.
    ///
    /// # Errors
    ///
    /// As for `ask`, and [`AskError::TimedOut`]. A question that times out may still be handled.
    pub fn ask_timeout(&self, message: I, timeout: Duration) -> Result<O, AskError<I>> {
        self.ask_within(message, Some(timeout), self.patience_within(timeout))
    }

    /// As [`ask`](Self::ask), for async code. Dropping the future gives up the answer; the message may still be handled.
    ///
    /// # Errors
    ///
    /// As for `ask`.
    pub async fn ask_async(&self, message: I) -> Result<O, AskError<I>> {
        let mut slot = self.spare.take();
        let envelope = self.envelope(message, Some(slot.arm()));
        match self.send_inline(envelope) {
            Ok(()) => {
                if let Some(answer) = slot.try_take() {
                    return self.conclude(
                        slot,
                        answer.map_or(Outcome::NoReply, Outcome::Answer),
                        Duration::ZERO,
                    );
                }
            }
            Err(envelope) => {
                if let Err((reason, unsent)) = self.send_async(envelope, self.patience()).await {
                    return Err(self.not_sent(reason, unsent.message));
                }
            }
        }
        self.await_answer(slot, None).await
    }

    /// As [`ask_timeout`](Self::ask_timeout), for async code.
    ///
    /// # Errors
    ///
    /// As for `ask_timeout`.
    pub async fn ask_timeout_async(&self, message: I, timeout: Duration) -> Result<O, AskError<I>> {
        let began = Instant::now();
        let mut slot = self.spare.take();
        let envelope = self.envelope(message, Some(slot.arm()));
        if let Err((reason, unsent)) = self.send_async(envelope, self.patience_within(timeout)).await {
            return Err(self.not_sent(reason, unsent.message));
        }
        self.await_answer(slot, Some(timeout.saturating_sub(began.elapsed()))).await
    }

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

    /// The patience of this ring kernel's backpressure, at most so long.
    fn patience_within(&self, timeout: Duration) -> Patience {
        match self.patience() {
            Patience::None => Patience::None,
            Patience::For(time) => Patience::For(time.min(timeout)),
            Patience::Endless => Patience::For(timeout),
        }
    }

    async fn await_answer(
        &self,
        mut slot: ReplySlot<Answer<O>>,
        timeout: Option<Duration>,
    ) -> Result<O, AskError<I>> {
        let outcome = {
            let mut watch = Watch::new(&self.shared.core.life);
            within(timeout, std::future::poll_fn(|cx| poll_answer(&mut slot, &mut watch, cx))).await
        };
        self.conclude(slot, outcome.unwrap_or(Outcome::TimedOut), timeout.unwrap_or_default())
    }

    #[inline]
    fn ask_within(
        &self,
        message: I,
        timeout: Option<Duration>,
        patience: Patience,
    ) -> Result<O, AskError<I>> {
        let deadline = timeout.map(|time| Instant::now() + time);
        let mut slot = self.spare.take();
        let mut unsent = Err(self.envelope(message, Some(slot.arm())));
        if timeout.is_none() || self.attends {
            unsent = unsent.or_else(|envelope| self.send_inline(envelope));
        }
        if let Err(envelope) = unsent
            && let Err((reason, unsent)) = self.send(envelope, patience)
        {
            return Err(self.not_sent(reason, unsent.message));
        }
        let outcome = self.wait_for_answer(&mut slot, deadline);
        self.conclude(slot, outcome, timeout.unwrap_or_default())
    }

    /// Spins while the strategy says so; then sleeps until the answer comes or the ring kernel's life is over.
    #[inline]
    fn wait_for_answer(&self, slot: &mut ReplySlot<Answer<O>>, deadline: Option<Instant>) -> Outcome<O> {
        let mut backoff = Backoff::new(self.wait);
        let mut looks = 0u32;
        loop {
            if let Some(answer) = slot.try_take() {
                return answer.map_or(Outcome::NoReply, Outcome::Answer);
            }
            if self.attends {
                self.attend();
            }
            if backoff.snooze() == Step::Park {
                break;
            }
            looks += 1;
            if looks == LOOKS_BETWEEN_CHECKS {
                looks = 0;
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Outcome::TimedOut;
                }
                let state = self.state();
                if state.has_ended() {
                    return last_look(slot, state);
                }
            }
        }
        let mut watch = Watch::new(&self.shared.core.life);
        block_on_poll(self.wait, deadline, |cx| poll_answer(slot, &mut watch, cx))
            .unwrap_or(Outcome::TimedOut)
    }

    /// Looks at the device in place of its attendant, unless somebody else does at this moment.
    pub(super) fn attend(&self) {
        if let Some(turn) = self.shared_task.as_ref().and_then(|shared_task| shared_task.try_sit()) {
            turn.run();
        }
    }

    #[inline]
    fn conclude(
        &self,
        mut slot: ReplySlot<Answer<O>>,
        outcome: Outcome<O>,
        waited: Duration,
    ) -> Result<O, AskError<I>> {
        if let Outcome::Answer(Ok(answer)) = outcome {
            self.spare.give(slot);
            return Ok(answer);
        }
        // Whoever has the way back may still use it: it gets the cell, and finds nobody there.
        slot.abandon();
        Err(self.no_answer(outcome, waited))
    }

    #[cold]
    fn no_answer(&self, outcome: Outcome<O>, waited: Duration) -> AskError<I> {
        let (kernel, message_type) = (Arc::clone(&self.shared.core.name), I::TYPE_NAME);
        match outcome {
            Outcome::Answer(Err(fault)) => AskError::Failed(*fault),
            Outcome::Answer(Ok(_)) | Outcome::NoReply => AskError::NoReply { kernel, message_type },
            Outcome::Ended(state) => AskError::Ended { kernel, message_type, state },
            Outcome::TimedOut => {
                let stats = self.shared.stats();
                AskError::TimedOut { kernel, message_type, waited, state: stats.state, queued: stats.queued }
            }
        }
    }

    #[cold]
    fn not_sent(&self, reason: Refusal, message: I) -> AskError<I> {
        let kernel = Arc::clone(&self.shared.core.name);
        AskError::NotSent(TellError { kernel, message_type: I::TYPE_NAME, reason, message })
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

/// Ready with the answer, or with the end of the ring kernel that should have given it.
fn poll_answer<O>(
    slot: &mut ReplySlot<Answer<O>>,
    watch: &mut Watch<'_>,
    cx: &mut Context<'_>,
) -> Poll<Outcome<O>> {
    if let Poll::Ready(answer) = slot.poll_take(cx) {
        return Poll::Ready(answer.map_or(Outcome::NoReply, Outcome::Answer));
    }
    match watch.poll(cx, State::has_ended) {
        Poll::Ready(state) => Poll::Ready(last_look(slot, state)),
        Poll::Pending => Poll::Pending,
    }
}

/// A ring kernel answers or buries everything before its state says that it has ended. What is not here now was taken over by
/// somebody else (`take_reply`), or is in the hands of a handler that does not return.
fn last_look<O>(slot: &mut ReplySlot<Answer<O>>, state: State) -> Outcome<O> {
    match slot.try_take() {
        Some(answer) => answer.map_or(Outcome::NoReply, Outcome::Answer),
        None => Outcome::Ended(state),
    }
}
