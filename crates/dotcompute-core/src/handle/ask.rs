//! Asking: a message with a way back, and waiting for the answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dotcompute_ring::reply::ReplySlot;
use dotcompute_ring::wait::{Backoff, Step, block_on_poll};

use super::KernelHandle;
use super::ask_outcome::{Outcome, last_look, poll_answer};
use super::timeout::within;
use super::wait_limit::Patience;
use crate::cell::any_kernel::AnyKernel;
use crate::envelope::Answer;
use crate::error::{AskError, Refusal, TellError};
use crate::lifecycle::Watch;
use crate::message::Message;

/// How often a spinning asker looks for an answer before it looks whether anybody is left to give one.
const LOOKS_BETWEEN_CHECKS: u32 = 1 << 14;

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
    pub(super) fn wait_for_answer(
        &self,
        slot: &mut ReplySlot<Answer<O>>,
        deadline: Option<Instant>,
    ) -> Outcome<O> {
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
    pub(super) fn conclude(
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
    pub(super) fn no_answer(&self, outcome: Outcome<O>, waited: Duration) -> AskError<I> {
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
    pub(super) fn not_sent(&self, reason: Refusal, message: I) -> AskError<I> {
        let kernel = Arc::clone(&self.shared.core.name);
        AskError::NotSent(TellError { kernel, message_type: I::TYPE_NAME, reason, message })
    }
}
