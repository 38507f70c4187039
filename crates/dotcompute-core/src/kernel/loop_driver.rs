//! Loop driver.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::WaitStrategy;
use futures_timer::Delay;

use super::inbox::Intake;
use super::loops::{LoopContext, Shelf};
use crate::cell::kernel_cell::Core;
use crate::error::{HandlerResult, error_text, panic_text};
use crate::fault::Reason;
use crate::lifecycle::{Command, State};
use crate::message::Message;
use crate::supervision::{Supervisor, Verdict};

/// How a run of a loop ended.
type Outcome = Result<(), (Reason, String)>;

/// A loop's future, or why it could not be made.
type Started = Result<LoopFuture, (Reason, String)>;

type LoopFuture = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

/// Makes the future of one run of a loop.
pub(crate) type LoopFactory<I, O> = Box<dyn Fn(LoopContext<I, O>) -> LoopFuture + Send>;

/// Running a ring kernel in loop form.
pub(crate) struct LoopDriver<I: Message, O: Message> {
    factory: LoopFactory<I, O>,
    shelf: Shelf<I, O>,
    running: Option<LoopFuture>,
    backoff: Option<Delay>,
    supervisor: Supervisor,
    wait: WaitStrategy,
    /// Known from the first run on.
    core: Option<Arc<Core>>,
}

impl<I: Message, O: Message> LoopDriver<I, O> {
    pub(crate) fn new(intake: Intake<I, O>, factory: LoopFactory<I, O>) -> Self {
        let options = &intake.shared.core.options;
        let supervisor = Supervisor::new(options.supervision);
        let wait = options.wait;
        Self {
            factory,
            shelf: Arc::new(Mutex::new(Some(intake))),
            running: None,
            backoff: None,
            supervisor,
            wait,
            core: None,
        }
    }

    fn take_intake(&self) -> Option<Intake<I, O>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put_intake(&self, intake: Intake<I, O>) {
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = Some(intake);
    }

    /// Before the first run and between runs: waits for activation and for the end of a backoff.
    fn poll_start(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<Started>> {
        let Some(mut intake) = self.take_intake() else { return Poll::Ready(None) };
        if intake.is_aborted() || intake.ends_unstarted() {
            intake.end(State::Terminated, Reason::Aborted, "");
            return Poll::Ready(None);
        }
        let waiting = match &mut self.backoff {
            Some(backoff) => Pin::new(backoff).poll(cx).is_pending() && intake.poll_abort(cx).is_pending(),
            None => intake.poll_activation(cx).is_pending(),
        };
        if waiting {
            self.put_intake(intake);
            return Poll::Pending;
        }
        self.backoff = None;
        self.core = Some(Arc::clone(&intake.shared.core));
        let ctx = LoopContext::new(intake, Arc::clone(&self.shelf), self.wait);
        let started = catch_unwind(AssertUnwindSafe(|| (self.factory)(ctx)));
        Poll::Ready(Some(started.map_err(|panic| (Reason::HandlerPanicked, panic_text(&*panic)))))
    }

    /// Lets the loop run until it waits. Ready with how it ended.
    fn poll_loop(&mut self, running: &mut LoopFuture, cx: &mut TaskContext<'_>) -> Poll<Outcome> {
        Poll::Ready(match catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(cx))) {
            // It may wait for something that never comes, so an abort does not wait for it.
            Ok(Poll::Pending) if self.poll_abort(cx).is_ready() => Ok(()),
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => Ok(()),
            Ok(Poll::Ready(Err(error))) => Err((Reason::HandlerErrored, error_text(&error))),
            Err(panic) => Err((Reason::HandlerPanicked, panic_text(&*panic))),
        })
    }

    fn poll_abort(&self, cx: &mut TaskContext<'_>) -> Poll<()> {
        match &self.core {
            Some(core) if core.poll_command_is(Command::Abort, cx).is_ready() => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// After a run: true if there is to be another.
    fn settle(&mut self, outcome: Outcome) -> bool {
        // A loop that leaked its context took the messages with it; its handles report the end of it.
        let Some(mut intake) = self.take_intake() else { return false };
        match outcome {
            Ok(()) => {
                intake.finish();
                let reason = if intake.is_aborted() { Reason::Aborted } else { Reason::LoopEnded };
                intake.end(State::Terminated, reason, "");
                false
            }
            Err((reason, cause)) => {
                intake.finish_badly(reason, &cause);
                let pause = match self.supervisor.judge(Instant::now()) {
                    Verdict::Fail => {
                        intake.end(State::Failed, Reason::KernelFailed, &cause);
                        return false;
                    }
                    // A loop's state is lost with its frame: to resume is to start it again.
                    Verdict::Resume => Duration::ZERO,
                    Verdict::RestartAfter(pause) => pause,
                };
                intake.shared.core.counters.restarts.bump_exclusively();
                self.backoff = (!pause.is_zero()).then(|| Delay::new(pause));
                self.put_intake(intake);
                true
            }
        }
    }
}

impl<I: Message, O: Message> Future for LoopDriver<I, O> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let driver = self.get_mut();
        loop {
            let outcome = match driver.running.take() {
                None => match driver.poll_start(cx) {
                    Poll::Ready(Some(Ok(future))) => {
                        driver.running = Some(future);
                        continue;
                    }
                    Poll::Ready(Some(Err(fault))) => Err(fault),
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                },
                Some(mut running) => match driver.poll_loop(&mut running, cx) {
                    Poll::Pending => {
                        driver.running = Some(running);
                        return Poll::Pending;
                    }
                    Poll::Ready(outcome) => {
                        // Its context, dropped with it, puts the intake back on the shelf.
                        let _ = catch_unwind(AssertUnwindSafe(|| drop(running)));
                        outcome
                    }
                },
            };
            if !driver.settle(outcome) {
                return Poll::Ready(());
            }
        }
    }
}
