//! Driver of a ring kernel in loop form.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::WaitStrategy;
use dotcompute_ring::wait_list::WaitToken;
use futures_timer::Delay;

use super::inbox::Inbox;
use super::loops::{InboxSlot, LoopContext};
use crate::cell::any_kernel::AnyKernel;
use crate::cell::current::CurrentKernel;
use crate::cell::typed_cell::TypedCell;
use crate::cell::wait_graph::park_loop;
use crate::error::HandlerResult;
use crate::fault::Reason;
use crate::lifecycle::{Command, State};
use crate::message::Message;
use crate::supervision::{Decision, Supervisor};
use crate::user_code::{catch_panic, drop_contained, error_text};

/// How one run of a loop ended.
type RunOutcome = Result<(), (Reason, String)>;

/// The future of a loop, or the reason why it could not be created.
type Started = Result<LoopFuture, (Reason, String)>;

type LoopFuture = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

/// Creates the future of one run of a loop.
pub(crate) type LoopFactory<I, O> = Box<dyn Fn(LoopContext<I, O>) -> LoopFuture + Send>;

/// The future of one ring kernel in loop form.
pub(crate) struct LoopDriver<I: Message, O: Message> {
    factory: LoopFactory<I, O>,
    inbox_slot: InboxSlot<I, O>,
    running: Option<LoopFuture>,
    backoff: Option<Delay>,
    supervisor: Supervisor,
    wait: WaitStrategy,
    cell: Arc<TypedCell<I, O>>,
    /// Waits for an abort. The loop waits for commands on its own, with wakers that may differ from the driver's.
    abort_token: WaitToken,
}

impl<I: Message, O: Message> LoopDriver<I, O> {
    pub(crate) fn new(inbox: Inbox<I, O>, factory: LoopFactory<I, O>) -> Self {
        let cell = Arc::clone(&inbox.cell);
        cell.untyped.waits.set_loop();
        let options = &cell.untyped.options;
        let supervisor = Supervisor::new(options.supervision);
        let wait = options.wait;
        Self {
            factory,
            inbox_slot: Arc::new(Mutex::new(Some(inbox))),
            running: None,
            backoff: None,
            supervisor,
            wait,
            cell,
            abort_token: WaitToken::default(),
        }
    }

    fn take_inbox(&self) -> Option<Inbox<I, O>> {
        self.inbox_slot.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put_inbox(&self, inbox: Inbox<I, O>) {
        *self.inbox_slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(inbox);
    }

    /// Before the first run and between runs: waits for activation and for the end of a backoff.
    fn poll_start(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<Started>> {
        let Some(mut inbox) = self.take_inbox() else { return Poll::Ready(None) };
        if inbox.is_aborted() || inbox.terminates_unactivated() {
            inbox.end(State::Terminated, Reason::Aborted, "");
            return Poll::Ready(None);
        }
        let waiting = match &mut self.backoff {
            Some(backoff) => Pin::new(backoff).poll(cx).is_pending() && inbox.poll_abort(cx).is_pending(),
            None => inbox.poll_activation(cx).is_pending(),
        };
        if waiting {
            self.put_inbox(inbox);
            return Poll::Pending;
        }
        self.backoff = None;
        let ctx = LoopContext::new(inbox, Arc::clone(&self.inbox_slot), self.wait);
        let started = catch_panic(|| (self.factory)(ctx));
        Poll::Ready(Some(started.map_err(|panic| (Reason::HandlerPanicked, panic))))
    }

    /// Polls the loop. Ready with its result.
    fn poll_loop(&mut self, running: &mut LoopFuture, cx: &mut TaskContext<'_>) -> Poll<RunOutcome> {
        self.cell.untyped.waits.unpark();
        let polled = catch_panic(|| running.as_mut().poll(cx));
        if let Ok(Poll::Pending) = polled {
            park_loop(&self.cell.untyped);
        }
        Poll::Ready(match polled {
            // The loop may wait for something that never happens, so an abort does not wait for the loop.
            Ok(Poll::Pending) if self.poll_abort(cx).is_ready() => Ok(()),
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(Ok(()))) => Ok(()),
            Ok(Poll::Ready(Err(error))) => Err((Reason::HandlerErrored, error_text(error))),
            Err(panic) => Err((Reason::HandlerPanicked, panic)),
        })
    }

    fn poll_abort(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        self.cell.untyped.poll_command_is(Command::Abort, &mut self.abort_token, cx)
    }

    /// The loop has ended without its context: leaked it, or moved it elsewhere. The messages cannot be taken back from there, but no more
    /// are accepted, and the callers of those see the end in the state. A context that still exists receives nothing more; if it is
    /// dropped, it turns its messages into dead letters.
    #[cold]
    fn end_without_context(&self) {
        let untyped = &self.cell.untyped;
        let to =
            if untyped.lifecycle.command() == Command::Abort { State::Terminated } else { State::Failed };
        untyped.leaked_context();
        (&*self.cell as &dyn AnyKernel).request_end(Command::Abort);
        untyped.end(to);
    }

    /// Cleans up after a run. Returns whether there is to be another.
    fn finish_run(&mut self, outcome: RunOutcome) -> bool {
        let Some(mut inbox) = self.take_inbox() else {
            self.end_without_context();
            return false;
        };
        match outcome {
            Ok(()) => {
                inbox.complete_current();
                let (reason, cause) = match inbox.is_aborted() {
                    true => (Reason::Aborted, ""),
                    false => (Reason::LoopEnded, "it returned before `receive` had returned `None`"),
                };
                inbox.end(State::Terminated, reason, cause);
                false
            }
            Err((reason, cause)) => {
                inbox.fail_current(reason, &cause);
                let pause = match self.supervisor.on_fault(Instant::now()) {
                    Decision::Fail => {
                        inbox.end(State::Failed, Reason::KernelFailed, &cause);
                        return false;
                    }
                    // A loop's state is lost with its stack frame: to resume is to restart.
                    Decision::Resume => Duration::ZERO,
                    Decision::RestartAfter(pause) => pause,
                };
                inbox.cell.untyped.counters.restarts.increment_single_writer();
                inbox.complete_failed();
                self.backoff = (!pause.is_zero()).then(|| Delay::new(pause));
                self.put_inbox(inbox);
                true
            }
        }
    }
}

impl<I: Message, O: Message> Future for LoopDriver<I, O> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let driver = self.get_mut();
        let _current = CurrentKernel::enter(&driver.cell.untyped);
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
                        // Its context is dropped with it and returns the inbox. The outcome stands, even if a `drop` panics.
                        drop_contained(running);
                        outcome
                    }
                },
            };
            if !driver.finish_run(outcome) {
                return Poll::Ready(());
            }
        }
    }
}

impl<I: Message, O: Message> Drop for LoopDriver<I, O> {
    /// Has a loop to drop only if the runtime is dropped while the ring kernel is alive.
    fn drop(&mut self) {
        self.cell.untyped.control.cancel(&mut self.abort_token);
        drop_contained(self.running.take());
    }
}
