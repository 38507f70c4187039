//! `ask`: sends a request and waits for its reply.

use std::sync::Arc;
use std::task::Context;
use std::time::{Duration, Instant};

use dotcompute_ring::reply::ReplySlot;
use dotcompute_ring::wait::{Backoff, Step};

use super::KernelHandle;
use super::ask_outcome::{AskOutcome, final_check, poll_reply};
use super::async_call::AsyncAsk;
use super::wait_limit::WaitLimit;
use crate::backend::worker_pool::{block_parked, check_may_block, spin_strategy};
use crate::cell::any_kernel::AnyKernel;
use crate::cell::current::CurrentKernel;
use crate::cell::wait_graph::{CallWait, WaitFor};
use crate::deadline;
use crate::envelope::ReplyResult;
use crate::error::{AskError, Refusal};
use crate::lifecycle::{State, StateWaiter};
use crate::message::Message;
use crate::stack::{self, Copies};

/// Number of polls of a spinning caller between two checks of the deadline and of the ring kernel's state.
const POLLS_PER_LIVENESS_CHECK: u32 = 1 << 14;

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Sends a message and waits for the reply.
    ///
    /// Waits until the ring kernel replies or ends. [`ask_timeout`](Self::ask_timeout) limits the wait. If the ring kernel is idle and its
    /// handler was short so far, the handler runs on the calling thread: see [`InlineAsks`](crate::options::InlineAsks).
    ///
    /// # Errors
    ///
    /// [`AskError`]: the message was not accepted, the handler failed (with its panic or error text), the handler returned without a reply,
    /// or the ring kernel ended.
    #[inline]
    pub fn ask(&self, message: I) -> Result<O, AskError<I>> {
        self.ask_with_limits(message, None, self.wait_limit())
    }

    /// Like [`ask`](Self::ask), but a full mailbox rejects the message at once, whatever the backpressure. Still waits for the reply.
    ///
    /// # Errors
    ///
    /// As for `ask`. A full mailbox is [`Refusal::Full`] in [`AskError::NotSent`].
    pub fn try_ask(&self, message: I) -> Result<O, AskError<I>> {
        self.ask_with_limits(message, None, WaitLimit::NoWait)
    }

    /// Like [`ask`](Self::ask), but waits at most `timeout` in total.
    ///
    /// # Errors
    ///
    /// As for `ask`, and [`AskError::TimedOut`]. A request that times out may still be handled.
    pub fn ask_timeout(&self, message: I, timeout: Duration) -> Result<O, AskError<I>> {
        self.ask_with_limits(message, Some(timeout), self.wait_limit_within(timeout))
    }

    /// Like [`ask`](Self::ask), for async code. Dropping the future abandons the reply; the message may still be handled.
    ///
    /// # Errors
    ///
    /// As for `ask`.
    #[inline]
    pub fn ask_async(&self, message: I) -> impl Future<Output = Result<O, AskError<I>>> {
        let mut ask = AsyncAsk::new(self, message, None);
        std::future::poll_fn(move |cx| ask.poll(cx))
    }

    /// Like [`ask_timeout`](Self::ask_timeout), for async code.
    ///
    /// # Errors
    ///
    /// As for `ask_timeout`.
    pub fn ask_timeout_async(
        &self,
        message: I,
        timeout: Duration,
    ) -> impl Future<Output = Result<O, AskError<I>>> {
        let mut ask = AsyncAsk::new(self, message, Some(timeout));
        std::future::poll_fn(move |cx| ask.poll(cx))
    }

    /// Adds an edge to the wait-for graph if the caller is user code of a ring kernel.
    ///
    /// # Errors
    ///
    /// [`Refusal::Cycle`] if that would close a cycle.
    #[inline]
    pub(super) fn begin_wait_for_reply(&self) -> Result<CallWait, Refusal> {
        CurrentKernel::begin_wait(WaitFor::Reply, &self.cell.untyped, false)
            .map_err(|cycle| Refusal::Cycle { cycle })
    }

    /// Like [`begin_wait_for_reply`](Self::begin_wait_for_reply), for a call that blocks its thread.
    ///
    /// # Errors
    ///
    /// Also [`Refusal::PoolExhausted`].
    #[inline]
    pub(super) fn begin_blocking_wait_for_reply(&self) -> Result<CallWait, Refusal> {
        check_may_block().map_err(|exhausted| Refusal::PoolExhausted { limit: exhausted.max_blocked })?;
        CurrentKernel::begin_wait(WaitFor::Reply, &self.cell.untyped, true)
            .map_err(|cycle| Refusal::Cycle { cycle })
    }

    /// Returns the wait limit of the ring kernel's backpressure, but at most `timeout`.
    pub(super) fn wait_limit_within(&self, timeout: Duration) -> WaitLimit {
        match self.wait_limit() {
            WaitLimit::NoWait => WaitLimit::NoWait,
            WaitLimit::Timeout(time) => WaitLimit::Timeout(time.min(timeout)),
            WaitLimit::Unlimited => WaitLimit::Timeout(timeout),
        }
    }

    #[inline]
    fn ask_with_limits(
        &self,
        message: I,
        timeout: Option<Duration>,
        wait_limit: WaitLimit,
    ) -> Result<O, AskError<I>> {
        // Two functions, as for `tell`.
        match stack::refusal::<I, O>(Copies::BLOCKING) {
            None => self.send_and_wait(message, timeout, wait_limit),
            Some(reason) => Err(self.not_sent_error(reason, message)),
        }
    }

    #[inline]
    fn send_and_wait(
        &self,
        message: I,
        timeout: Option<Duration>,
        wait_limit: WaitLimit,
    ) -> Result<O, AskError<I>> {
        let deadline = timeout.map(deadline::after);
        let wait = match self.begin_blocking_wait_for_reply() {
            Ok(wait) => wait,
            Err(reason) => return Err(self.not_sent_error(reason, message)),
        };
        let mut slot = self.spare.take();
        let mut unsent = Err(self.envelope(message, Some(slot.arm())));
        if timeout.is_none() || self.polls_device {
            unsent = unsent.or_else(|envelope| self.send_inline(envelope));
        }
        if let Err(envelope) = unsent
            && let Err((reason, unsent)) = self.send(envelope, wait_limit)
        {
            return Err(self.not_sent_error(reason, unsent.message));
        }
        let outcome = self.wait_for_reply(&mut slot, &wait, deadline);
        self.finish_ask(slot, outcome, timeout.unwrap_or_default())
    }

    /// Waits for the reply: spins as long as the wait strategy says, then parks until the reply arrives or the ring kernel ends.
    #[inline]
    pub(super) fn wait_for_reply(
        &self,
        slot: &mut ReplySlot<ReplyResult<O>>,
        wait: &CallWait,
        deadline: Option<Instant>,
    ) -> AskOutcome<O> {
        let mut backoff = Backoff::new(spin_strategy(self.wait));
        let mut polls = 0u32;
        loop {
            if let Some(reply) = slot.try_take() {
                return reply.map_or(AskOutcome::NoReply, AskOutcome::Reply);
            }
            if self.polls_device {
                self.poll_device_inline();
            }
            if backoff.snooze() == Step::Park {
                break;
            }
            polls += 1;
            if polls == POLLS_PER_LIVENESS_CHECK {
                polls = 0;
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return AskOutcome::TimedOut;
                }
                if let Some(cycle) = wait.cycle() {
                    return AskOutcome::Cycle(cycle);
                }
                if let Some(state) = self.cell.untyped.lifecycle.ended() {
                    return final_check(slot, state);
                }
            }
        }
        let mut waiter = StateWaiter::new(&self.cell.untyped.lifecycle);
        let poll =
            |cx: &mut Context<'_>| poll_reply(slot, Some(wait), cx, |cx| waiter.poll(cx, State::has_ended));
        block_parked(self.wait, deadline, poll).unwrap_or(AskOutcome::TimedOut)
    }

    /// Polls the device proxy once on the calling thread, unless another thread is polling it.
    pub(super) fn poll_device_inline(&self) {
        if let Some(guard) = self.shared_task.as_ref().and_then(|shared_task| shared_task.try_acquire()) {
            guard.run();
        }
    }

    #[inline]
    pub(super) fn finish_ask(
        &self,
        mut slot: ReplySlot<ReplyResult<O>>,
        outcome: AskOutcome<O>,
        waited: Duration,
    ) -> Result<O, AskError<I>> {
        if let AskOutcome::Reply(Ok(reply)) = outcome {
            self.spare.put(slot);
            return Ok(reply);
        }
        // The reply sender may still exist. Abandoning the slot passes ownership of the cell to it; a later reply is returned to the
        // sender as an error.
        slot.abandon();
        Err(self.no_reply_error(outcome, waited))
    }

    #[cold]
    pub(super) fn no_reply_error(&self, outcome: AskOutcome<O>, waited: Duration) -> AskError<I> {
        let (kernel, message_type) = (Arc::clone(&self.cell.untyped.name), I::TYPE_NAME);
        match outcome {
            AskOutcome::Reply(Err(fault)) => AskError::Failed(*fault),
            AskOutcome::Reply(Ok(_)) | AskOutcome::NoReply => AskError::NoReply { kernel, message_type },
            AskOutcome::Ended(state) => AskError::Ended { kernel, message_type, state },
            AskOutcome::TimedOut => {
                let stats = self.cell.stats();
                AskError::TimedOut {
                    kernel,
                    message_type,
                    waited,
                    status: stats.status(),
                    queued: stats.queued,
                }
            }
            AskOutcome::Cycle(cycle) => AskError::Cycle { kernel, message_type, cycle },
        }
    }

    #[cold]
    pub(super) fn not_sent_error(&self, reason: Refusal, message: I) -> AskError<I> {
        AskError::NotSent(self.tell_error(reason, message))
    }
}
