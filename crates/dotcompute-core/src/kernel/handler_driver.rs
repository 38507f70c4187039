//! Driver of a ring kernel in handler form.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use futures_timer::Delay;

use super::context::Context;
use super::inbox::{Inbox, InboxEvent};
use super::poll_step::{POLL_BUDGET, PollStep};
use super::ring_kernel::RingKernel;
use crate::cell::current::CurrentKernel;
use crate::error::HandlerResult;
use crate::fault::Reason;
use crate::lifecycle::State;
use crate::options::Placement;
use crate::supervision::{Decision, Supervisor};
use crate::user_code::{catch_panic, drop_contained, error_text};

/// The future of one ring kernel in handler form.
pub(crate) struct HandlerDriver<K: RingKernel, F> {
    /// `None` between a fault and the restart. Before `inbox`, which ends the ring kernel when the driver is dropped: the resources of the
    /// state are free by then.
    kernel: Option<K>,
    inbox: Inbox<K::Input, K::Output>,
    factory: F,
    supervisor: Supervisor,
    backoff: Option<Delay>,
    /// Polls until the next one that is timed for [`HandlerPace`](crate::cell::handler_pace::HandlerPace).
    untimed_polls: u8,
}

/// A handler that is known to be short is timed in one poll of this many: reading the clock twice takes as long as the rest of an inline ask.
const POLLS_PER_TIMED: u8 = 16;

// Nothing in a driver is pinned: the state is used by reference only and never polled.
impl<K: RingKernel, F> Unpin for HandlerDriver<K, F> {}

impl<K, F> HandlerDriver<K, F>
where
    K: RingKernel,
    F: Fn() -> K + Send + 'static,
{
    pub(crate) fn new(inbox: Inbox<K::Input, K::Output>, kernel: K, factory: F) -> Self {
        let supervisor = Supervisor::new(inbox.cell.untyped.options.supervision);
        Self { inbox, factory, kernel: Some(kernel), supervisor, backoff: None, untimed_polls: 0 }
    }

    /// Returns the time if this poll is to be timed.
    #[inline]
    fn begin_timed_poll(&mut self) -> Option<Instant> {
        let untyped = &self.inbox.cell.untyped;
        if untyped.options.placement != Placement::Pool {
            return None;
        }
        if self.untimed_polls > 0 && !untyped.pace.is_undecided() {
            self.untimed_polls -= 1;
            return None;
        }
        self.untimed_polls = POLLS_PER_TIMED - 1;
        Some(Instant::now())
    }

    /// Records the duration of a timed poll that has handled this many messages.
    #[inline]
    fn end_timed_poll(&self, start: Option<Instant>, messages: u32) {
        if let Some(start) = start
            && messages > 0
        {
            self.inbox.cell.untyped.pace.record(messages, start.elapsed());
        }
    }

    #[inline]
    fn step(&mut self, cx: &mut TaskContext<'_>) -> PollStep {
        if self.kernel.is_none() {
            return self.poll_restart(cx);
        }
        match self.inbox.poll_next(self.inbox.wait, cx) {
            Poll::Ready(InboxEvent::Message(message)) => {
                self.call_user_code(|kernel, ctx| kernel.handle(message, ctx))
            }
            Poll::Ready(InboxEvent::Activated) => self.call_user_code(K::on_activate),
            Poll::Ready(InboxEvent::Deactivated) => self.call_user_code(K::on_deactivate),
            Poll::Ready(InboxEvent::Drained) => self.terminate(),
            Poll::Ready(InboxEvent::Aborted) => self.end(State::Terminated, Reason::Aborted, ""),
            Poll::Pending => PollStep::Pending,
        }
    }

    /// Calls user code at a message boundary. A panic or an error in it goes to supervision.
    #[inline]
    fn call_user_code(
        &mut self,
        call: impl FnOnce(&mut K, &mut Context<K::Output>) -> HandlerResult,
    ) -> PollStep {
        let Some(kernel) = self.kernel.as_mut() else { return PollStep::Continue };
        let ctx = &mut self.inbox.ctx;
        let result = catch_panic(|| call(kernel, ctx));
        let within_limit = ctx.check_output_limit();
        match result.map(|result| result.and(within_limit)) {
            Ok(Ok(())) => {
                self.inbox.complete_current();
                PollStep::Continue
            }
            Ok(Err(error)) => self.fault(Reason::HandlerErrored, &error_text(error)),
            Err(panic) => self.fault(Reason::HandlerPanicked, &panic),
        }
    }

    #[cold]
    fn fault(&mut self, reason: Reason, cause: &str) -> PollStep {
        self.inbox.fail_current(reason, cause);
        match self.supervisor.on_fault(Instant::now()) {
            Decision::Resume => {
                self.inbox.complete_failed();
                PollStep::Continue
            }
            Decision::Fail => self.end(State::Failed, Reason::KernelFailed, cause),
            Decision::RestartAfter(pause) => {
                self.inbox.cell.untyped.counters.restarts.increment_single_writer();
                self.inbox.complete_failed();
                self.drop_state();
                self.backoff = (!pause.is_zero()).then(|| Delay::new(pause));
                PollStep::Continue
            }
        }
    }

    /// Rebuilds the state once the backoff has passed. An abort ends the backoff early.
    #[cold]
    fn poll_restart(&mut self, cx: &mut TaskContext<'_>) -> PollStep {
        if self.inbox.is_aborted() {
            return self.end(State::Terminated, Reason::Aborted, "");
        }
        if let Some(backoff) = &mut self.backoff {
            if Pin::new(backoff).poll(cx).is_pending() {
                return if self.inbox.poll_abort(cx).is_pending() {
                    PollStep::Pending
                } else {
                    PollStep::Continue
                };
            }
            self.backoff = None;
        }
        match catch_panic(&self.factory) {
            Ok(kernel) => {
                self.kernel = Some(kernel);
                if self.inbox.is_activated() {
                    self.call_user_code(K::on_activate)
                } else {
                    PollStep::Continue
                }
            }
            Err(panic) => self.fault(Reason::HandlerPanicked, &panic),
        }
    }

    fn terminate(&mut self) -> PollStep {
        if !self.inbox.claim_terminate_hook() {
            return self.end(State::Terminated, Reason::Aborted, "");
        }
        let Some(kernel) = self.kernel.as_mut() else { return PollStep::Continue };
        let ctx = &mut self.inbox.ctx;
        let result = catch_panic(|| kernel.on_terminate(ctx));
        let within_limit = ctx.check_output_limit();
        match result.map(|result| result.and(within_limit)) {
            // The outputs of the hook are still delivered: the inbox reports `Drained` again after that.
            Ok(Ok(())) => PollStep::Continue,
            Ok(Err(error)) => self.end(State::Failed, Reason::KernelFailed, &error_text(error)),
            Err(panic) => self.end(State::Failed, Reason::KernelFailed, &panic),
        }
    }

    fn end(&mut self, to: State, reason: Reason, cause: &str) -> PollStep {
        // Drop the state first: a caller that sees the ended state may rely on the resources being free.
        self.drop_state();
        self.inbox.end(to, reason, cause);
        PollStep::Done
    }

    /// Drops the state. A panic in its `drop` must not end the worker.
    fn drop_state(&mut self) {
        drop_contained(self.kernel.take());
    }
}

impl<K: RingKernel, F> Drop for HandlerDriver<K, F> {
    /// Has a state to drop only if the runtime is dropped while the ring kernel is alive.
    fn drop(&mut self) {
        drop_contained(self.kernel.take());
    }
}

impl<K, F> Future for HandlerDriver<K, F>
where
    K: RingKernel,
    F: Fn() -> K + Send + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let driver = self.get_mut();
        let _current = CurrentKernel::enter(&driver.inbox.cell.untyped);
        let start = driver.begin_timed_poll();
        for messages in 0..POLL_BUDGET {
            match driver.step(cx) {
                PollStep::Continue => {}
                PollStep::Pending => {
                    driver.end_timed_poll(start, messages);
                    return Poll::Pending;
                }
                PollStep::Done => return Poll::Ready(()),
            }
        }
        driver.end_timed_poll(start, POLL_BUDGET);
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
