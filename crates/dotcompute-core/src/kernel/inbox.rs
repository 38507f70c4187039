//! The inbox: the consumer side of one ring kernel, shared by all drivers.
//!
//! It obeys commands, waits until queued outputs are sent, takes the next message, and does the accounting at every message boundary.

use std::any::Any;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use dotcompute_ring::mailbox::Receiver;
use dotcompute_ring::reply::ReplySender;
use dotcompute_ring::wait::{Backoff, Step, WaitStrategy};
use dotcompute_ring::wait_list::WaitToken;

use super::context::{Context, Current};
use crate::cell::any_kernel::AnyKernel;
use crate::cell::typed_cell::TypedCell;
use crate::envelope::{Envelope, ReplyResult};
use crate::fault::{Fault, Reason};
use crate::lifecycle::{Command, State};
use crate::message::Message;
use crate::options::Placement;
use crate::output::ring_sink::RingSink;
use crate::output::router::OutputRouter;
use crate::telemetry::Stamp;
use crate::user_code::catch_panic;

/// What happens next at a message boundary.
pub(crate) enum InboxEvent<I> {
    /// A message. It is now the current message of the context.
    Message(I),
    /// The ring kernel was activated or reactivated.
    Activated,
    /// The ring kernel is to pause. It becomes `Deactivated` when the next event is polled.
    Deactivated,
    /// The mailbox is closed, all accepted messages are handled, and all outputs are sent.
    Drained,
    /// The ring kernel is to end at once.
    Aborted,
}

/// Of a timed message: how long it was queued, and the start of its handling.
type Timing = Option<(Duration, Stamp)>;

/// A message in flight: taken from the mailbox and not completed. Without its body.
pub(crate) struct InFlight<O> {
    pub(crate) current: Current<O>,
    timing: Timing,
}

/// There is more to do than to take a message.
pub(crate) struct NeedsFullPoll;

/// The consumer side of a ring kernel, with its accounting.
pub(crate) struct Inbox<I: Message, O: Message> {
    pub(crate) cell: Arc<TypedCell<I, O>>,
    pub(crate) ctx: Context<O>,
    receiver: Receiver<Envelope<I, O>>,
    /// The last command that was obeyed.
    last_command: Command,
    /// How a driver waits inside one poll, before it returns `Pending`.
    pub(crate) wait: WaitStrategy,
    /// Waits for commands.
    control_token: WaitToken,
    /// Timing of the current message, if it is timed.
    timing: Timing,
    /// Whether the ring kernel was ever active: only then does it have an `on_terminate` to call.
    activated: bool,
    terminate_hook_ran: bool,
    ended: bool,
    /// Requests that are counted as dead letters and not completed yet.
    failed: Vec<FailedRequest<O>>,
}

/// The reply sender of a request, and the fault that it is to be completed with.
type FailedRequest<O> = (ReplySender<ReplyResult<O>>, Box<Fault>);

impl<I: Message, O: Message> Inbox<I, O> {
    pub(crate) fn new(cell: Arc<TypedCell<I, O>>, receiver: Receiver<Envelope<I, O>>) -> Self {
        let router =
            OutputRouter::new(Arc::clone(&cell.connections), Box::new(RingSink::new(Arc::clone(&cell))));
        let options = &cell.untyped.options;
        // A pool worker has other ring kernels to run, so it never waits inside one.
        let wait = if options.placement == Placement::Pool { WaitStrategy::Park } else { options.wait };
        let kernel = Arc::clone(&cell) as Arc<dyn AnyKernel>;
        let ctx = Context::new(Arc::clone(&cell.untyped), kernel, router);
        Self {
            cell,
            ctx,
            receiver,
            last_command: Command::Hold,
            wait,
            control_token: WaitToken::default(),
            timing: None,
            activated: false,
            terminate_hook_ran: false,
            ended: false,
            failed: Vec::new(),
        }
    }

    /// Polls for the next event, waiting as `wait` says while there is none. Returns `Pending` only after the task's waker is registered
    /// with everything that can produce an event.
    #[inline]
    pub(crate) fn poll_next(&mut self, wait: WaitStrategy, cx: &mut TaskContext<'_>) -> Poll<InboxEvent<I>> {
        loop {
            let command = self.cell.untyped.lifecycle.command();
            if command != self.last_command || command != Command::Run {
                match self.poll_command(command, cx) {
                    Poll::Ready(Some(next)) => return Poll::Ready(next),
                    // The command that ended the pause, such as an abort, comes before messages.
                    Poll::Ready(None) if matches!(command, Command::Pause | Command::Hold) => continue,
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.ctx.router.has_backlog() && self.ctx.router.poll_flush(&self.ctx.cell, cx).is_pending() {
                // SYNC POINT: mailbox-half-free (driver). Pairs with `PendingSend::poll_send`, which registers, then rechecks.
                // While blocked on output it takes no messages, so the band may not become half free for a long time: wake waiting
                // senders now.
                self.receiver.wake_senders();
                if self.poll_new_command(cx).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            if let Some(envelope) = self.receiver.try_pop() {
                return Poll::Ready(InboxEvent::Message(self.start_message(envelope)));
            }
            match self.wait_for_message(wait, cx) {
                Poll::Ready(Some(next)) => return Poll::Ready(next),
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Like [`poll_next`](Self::poll_next), but takes no message.
    pub(crate) fn poll_next_command(&mut self, cx: &mut TaskContext<'_>) -> Poll<InboxEvent<I>> {
        loop {
            let command = self.cell.untyped.lifecycle.command();
            match self.poll_command(command, cx) {
                Poll::Ready(Some(next)) => return Poll::Ready(next),
                Poll::Ready(None) if self.poll_new_command(cx).is_pending() => return Poll::Pending,
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Obeys a command. Ready with `None`: continue with messages or, after a pause or before activation, read the command again.
    #[cold]
    fn poll_command(&mut self, command: Command, cx: &mut TaskContext<'_>) -> Poll<Option<InboxEvent<I>>> {
        let changed = command != self.last_command;
        self.last_command = command;
        match command {
            Command::Run if changed => {
                self.activated = true;
                Poll::Ready(Some(InboxEvent::Activated))
            }
            Command::Pause if changed => Poll::Ready(Some(InboxEvent::Deactivated)),
            Command::Pause => {
                // SYNC POINT: mailbox-half-free (driver). A paused driver takes no messages, as above.
                self.receiver.wake_senders();
                loop {
                    // SYNC POINT: pause-confirmation (driver). Confirms, then registers for the next command and rechecks the state.
                    // Has no effect on a ring kernel that is terminated meanwhile: its state stays `Terminating`.
                    self.cell.untyped.confirm_paused();
                    if self.poll_new_command(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    // The kernel may have been reactivated and paused again between the two checks. `last_command` still matches and the
                    // second pause found no registered waker, so confirm that pause as well.
                    if self.cell.untyped.lifecycle.get() != State::Active {
                        return Poll::Pending;
                    }
                }
            }
            Command::Hold => self.poll_new_command(cx).map(|()| None),
            Command::Abort => Poll::Ready(Some(InboxEvent::Aborted)),
            // Activated and terminated before the first poll: accepted messages are handled nevertheless.
            Command::Drain if !self.activated && self.cell.untyped.was_activated() => {
                self.activated = true;
                Poll::Ready(Some(InboxEvent::Activated))
            }
            Command::Run | Command::Drain => Poll::Ready(None),
        }
    }

    /// Ready once there is a command other than the last one obeyed.
    pub(crate) fn poll_new_command(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let untyped = &self.cell.untyped;
        // SYNC POINT: command (driver). Registers, then rechecks. Pairs with `TypedCell::command`, which stores, then notifies.
        untyped.control.register(&mut self.control_token, cx.waker());
        if untyped.lifecycle.command() != self.last_command { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether the ring kernel is to handle its accepted messages and end.
    pub(crate) fn is_draining(&self) -> bool {
        self.cell.untyped.lifecycle.command() == Command::Drain
    }

    /// Whether the ring kernel is to end at once.
    pub(crate) fn is_aborted(&self) -> bool {
        self.cell.untyped.lifecycle.command() == Command::Abort
    }

    /// Ready once the ring kernel is to end at once.
    pub(crate) fn poll_abort(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        self.cell.untyped.poll_command_is(Command::Abort, &mut self.control_token, cx)
    }

    /// Ready once a loop may start, or no longer needs to.
    pub(crate) fn poll_activation(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if self.last_command != Command::Hold || self.cell.untyped.lifecycle.command() != Command::Hold {
            return Poll::Ready(());
        }
        self.poll_new_command(cx)
    }

    /// Whether the ring kernel is to end without ever having been activated.
    pub(crate) fn terminates_unactivated(&self) -> bool {
        !self.cell.untyped.was_activated() && self.cell.untyped.lifecycle.command() == Command::Drain
    }

    /// Whether the ring kernel was activated and has not been paused since.
    pub(crate) fn is_activated(&self) -> bool {
        self.activated && self.last_command != Command::Pause
    }

    /// Whether `on_terminate` is to be called. Returns `true` at most once.
    pub(crate) fn claim_terminate_hook(&mut self) -> bool {
        self.activated && !std::mem::replace(&mut self.terminate_hook_ran, true)
    }

    /// Takes the next message if there is nothing else to do: no new command and no queued outputs. Otherwise the caller must use
    /// [`poll_next`](Self::poll_next).
    #[inline]
    pub(crate) fn try_next(&mut self) -> Result<Option<I>, NeedsFullPoll> {
        let command = self.cell.untyped.lifecycle.command();
        if command != Command::Run || command != self.last_command || self.ctx.router.has_backlog() {
            return Err(NeedsFullPoll);
        }
        Ok(self.receiver.try_pop().map(|envelope| self.start_message(envelope)))
    }

    /// The mailbox was empty: waits as the strategy says. Ready with `None`: poll again.
    fn wait_for_message(
        &mut self,
        wait: WaitStrategy,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<InboxEvent<I>>> {
        if self.last_command == Command::Run {
            let mut backoff = Backoff::new(wait);
            while backoff.snooze() == Step::Retry {
                if let Some(envelope) = self.receiver.try_pop() {
                    return Poll::Ready(Some(InboxEvent::Message(self.start_message(envelope))));
                }
                if self.cell.untyped.lifecycle.command() != Command::Run {
                    return Poll::Ready(None);
                }
            }
        }
        match self.receiver.poll_pop(cx) {
            Poll::Ready(Some(envelope)) => {
                Poll::Ready(Some(InboxEvent::Message(self.start_message(envelope))))
            }
            Poll::Ready(None) if self.last_command == Command::Drain => {
                Poll::Ready(Some(InboxEvent::Drained))
            }
            // The mailbox is closed a few instructions before the `Drain` command is stored.
            Poll::Ready(None) => self.poll_new_command(cx).map(|()| None),
            // SYNC POINT: message (driver) and command (driver). `poll_pop` has registered for messages and rechecked the mailbox
            // (`TypedCell::post`). A command stored before that is seen here; a later one wakes the receiver (`TypedCell::command`).
            Poll::Pending if self.cell.untyped.lifecycle.command() != self.last_command => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    #[inline]
    fn start_message(&mut self, envelope: Envelope<I, O>) -> I {
        let Envelope { header, stamp, reply, message } = envelope;
        self.ctx.current = Some(Current { header, asked: reply.is_some(), reply });
        if stamp.is_some() {
            self.timing = Some(stamp.elapsed_and_now());
        }
        message
    }

    /// Suspends the current message: a device handles it.
    pub(crate) fn suspend_current(&mut self) -> Option<InFlight<O>> {
        let current = self.ctx.current.take()?;
        Some(InFlight { current, timing: self.timing.take() })
    }

    /// Makes a suspended message the current one again.
    pub(crate) fn resume_current(&mut self, in_flight: InFlight<O>) {
        self.ctx.current = Some(in_flight.current);
        self.timing = in_flight.timing;
    }

    /// Counts the current message, if any, as handled.
    #[inline]
    pub(crate) fn complete_current(&mut self) {
        self.complete_after(None);
    }

    /// Like [`complete_current`](Self::complete_current), with a handler time that was measured by the device.
    #[inline]
    pub(crate) fn complete_after(&mut self, handler_time: Option<Duration>) {
        if let Some(current) = self.ctx.current.take() {
            self.cell.untyped.counters.handled.increment_single_writer();
            self.record_times(handler_time);
            // Dropped after counting: a caller that gets `NoReply` finds its message counted.
            drop(current);
        }
    }

    /// Turns the current message, if any, into a dead letter: its handler failed.
    ///
    /// Its caller gets the fault from [`complete_failed`](Self::complete_failed), or from [`end`](Self::end) if the fault ends the ring
    /// kernel: a caller that has the error then also finds the ended state.
    pub(crate) fn fail_current(&mut self, reason: Reason, cause: &str) {
        if let Some(current) = self.ctx.current.take() {
            self.record_times(None);
            self.fail(current, None, reason, cause);
        }
    }

    /// Turns a message that will never be handled into a dead letter. Its request is completed as after `fail_current`.
    pub(crate) fn fail(
        &mut self,
        Current { header, reply, .. }: Current<O>,
        message: Option<Box<dyn Any + Send>>,
        reason: Reason,
        cause: &str,
    ) {
        let fault = self.cell.untyped.count_dead_letter(header, message, reason, cause.to_owned());
        if let Some(reply) = reply {
            self.failed.push((reply, Box::new(fault)));
        }
    }

    /// Completes failed requests.
    pub(crate) fn complete_failed(&mut self) {
        complete(&mut self.failed);
    }

    fn record_times(&mut self, handler_time: Option<Duration>) {
        if let Some((queue_time, start)) = self.timing.take() {
            self.cell
                .untyped
                .latencies
                .record(queue_time, handler_time.unwrap_or_else(|| start.elapsed_and_now().0));
        }
    }

    /// Ends the ring kernel. Queued messages become dead letters with this reason.
    pub(crate) fn end(&mut self, to: State, reason: Reason, cause: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.cell.close_input();
        loop {
            match self.receiver.try_pop() {
                Some(Envelope { header, reply, message, .. }) => {
                    self.fail(
                        Current { header, asked: reply.is_some(), reply },
                        Some(Box::new(message)),
                        reason,
                        cause,
                    );
                }
                None if self.receiver.is_drained() => break,
                // A sender has claimed a slot and is about to fill it.
                None => std::thread::yield_now(),
            }
        }
        self.ctx.router.dead_letter_backlog(&self.cell.untyped);
        self.ctx.router.close();
        let failed = &mut self.failed;
        self.cell.untyped.end_then(to, || complete(failed));
        // Callers in `receive` see the end in the state; they have been woken.
    }
}

/// Completes each request with its fault.
fn complete<O>(failed: &mut Vec<FailedRequest<O>>) {
    for (reply, fault) in failed.drain(..) {
        // A waker that panics must not keep the other callers waiting. An error means that the caller no longer waits; its own call has
        // already returned an error.
        let _ = catch_panic(|| reply.send(Err(fault)).is_ok());
    }
}

impl<I: Message, O: Message> Drop for Inbox<I, O> {
    fn drop(&mut self) {
        self.cell.untyped.control.cancel(&mut self.control_token);
        // No `end` before this only if the runtime is dropped while the ring kernel is alive.
        self.fail_current(Reason::Aborted, "the runtime was dropped");
        self.end(State::Terminated, Reason::Aborted, "the runtime was dropped");
    }
}
