//! Running a ring kernel in handler form: one task that a pool worker or a thread of its own polls.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use futures_timer::Delay;

use super::context::Context;
use super::inbox::{Intake, Next};
use super::poll_step::{After, TURN};
use super::ring_kernel::RingKernel;
use crate::error::{HandlerResult, error_text, panic_text};
use crate::fault::Reason;
use crate::lifecycle::State;
use crate::supervision::{Supervisor, Verdict};

/// The task of one ring kernel.
pub(crate) struct HandlerDriver<K: RingKernel, F> {
    intake: Intake<K::Input, K::Output>,
    factory: F,
    /// None between a fault and the restart.
    kernel: Option<K>,
    supervisor: Supervisor,
    backoff: Option<Delay>,
}

// Nothing in a driver is pinned: the state is only ever used by reference and never polled.
impl<K: RingKernel, F> Unpin for HandlerDriver<K, F> {}

impl<K, F> HandlerDriver<K, F>
where
    K: RingKernel,
    F: Fn() -> K + Send + 'static,
{
    pub(crate) fn new(intake: Intake<K::Input, K::Output>, kernel: K, factory: F) -> Self {
        let supervisor = Supervisor::new(intake.shared.core.options.supervision);
        Self { intake, factory, kernel: Some(kernel), supervisor, backoff: None }
    }

    #[inline]
    fn step(&mut self, cx: &mut TaskContext<'_>) -> After {
        if self.kernel.is_none() {
            return self.restart(cx);
        }
        match self.intake.poll_next(self.intake.wait, cx) {
            Poll::Ready(Next::Message(message)) => self.guarded(|kernel, ctx| kernel.handle(message, ctx)),
            Poll::Ready(Next::Activated) => self.guarded(K::on_activate),
            Poll::Ready(Next::Deactivated) => self.guarded(K::on_deactivate),
            Poll::Ready(Next::Drained) => self.terminate(),
            Poll::Ready(Next::Aborted) => self.end(State::Terminated, Reason::Aborted, ""),
            Poll::Pending => After::Wait,
        }
    }

    /// Runs user code at a message boundary; a panic or an error in it is judged here.
    #[inline]
    fn guarded(&mut self, call: impl FnOnce(&mut K, &mut Context<K::Output>) -> HandlerResult) -> After {
        let Some(kernel) = self.kernel.as_mut() else { return After::GoOn };
        let ctx = &mut self.intake.ctx;
        // Unwind safe: after a panic the state is thrown away, or the user has chosen `Resume` for it.
        match catch_unwind(AssertUnwindSafe(|| call(kernel, ctx))) {
            Ok(Ok(())) => {
                self.intake.finish();
                After::GoOn
            }
            Ok(Err(error)) => self.fault(Reason::HandlerErrored, &error_text(&error)),
            Err(panic) => self.fault(Reason::HandlerPanicked, &panic_text(&*panic)),
        }
    }

    #[cold]
    fn fault(&mut self, reason: Reason, cause: &str) -> After {
        self.intake.finish_badly(reason, cause);
        match self.supervisor.judge(Instant::now()) {
            Verdict::Resume => After::GoOn,
            Verdict::Fail => self.end(State::Failed, Reason::KernelFailed, cause),
            Verdict::RestartAfter(pause) => {
                self.intake.shared.core.counters.restarts.bump_exclusively();
                self.drop_state();
                self.backoff = (!pause.is_zero()).then(|| Delay::new(pause));
                After::GoOn
            }
        }
    }

    /// Makes the state anew once the backoff is over. An abort cuts the backoff short.
    #[cold]
    fn restart(&mut self, cx: &mut TaskContext<'_>) -> After {
        if self.intake.is_aborted() {
            return self.end(State::Terminated, Reason::Aborted, "");
        }
        if let Some(backoff) = &mut self.backoff {
            if Pin::new(backoff).poll(cx).is_pending() {
                return if self.intake.poll_abort(cx).is_pending() { After::Wait } else { After::GoOn };
            }
            self.backoff = None;
        }
        match catch_unwind(AssertUnwindSafe(&self.factory)) {
            Ok(kernel) => {
                self.kernel = Some(kernel);
                if self.intake.is_activated() { self.guarded(K::on_activate) } else { After::GoOn }
            }
            Err(panic) => self.fault(Reason::HandlerPanicked, &panic_text(&*panic)),
        }
    }

    fn terminate(&mut self) -> After {
        if !self.intake.claim_terminate_hook() {
            return self.end(State::Terminated, Reason::Aborted, "");
        }
        let Some(kernel) = self.kernel.as_mut() else { return After::GoOn };
        let ctx = &mut self.intake.ctx;
        match catch_unwind(AssertUnwindSafe(|| kernel.on_terminate(ctx))) {
            // What the hook sent must go out too: the intake reports `Drained` once more when it has.
            Ok(Ok(())) => After::GoOn,
            Ok(Err(error)) => self.end(State::Failed, Reason::KernelFailed, &error_text(&error)),
            Err(panic) => self.end(State::Failed, Reason::KernelFailed, &panic_text(&*panic)),
        }
    }

    fn end(&mut self, to: State, reason: Reason, cause: &str) -> After {
        // The state goes first: who sees the ring kernel ended may rely on its resources being free.
        self.drop_state();
        self.intake.end(to, reason, cause);
        After::End
    }

    /// Drops the state; a panic in its `drop` must not take the worker with it.
    fn drop_state(&mut self) {
        let kernel = self.kernel.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(kernel)));
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
        for _ in 0..TURN {
            match driver.step(cx) {
                After::GoOn => {}
                After::Wait => return Poll::Pending,
                After::End => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
