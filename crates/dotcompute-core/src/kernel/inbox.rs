//! Taking messages: the part of a driver that handler form and loop form share. It looks at the commands, lets outputs out
//! first, takes the next message, and keeps the books at every message boundary.

use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use dotcompute_ring::mailbox::Receiver;
use dotcompute_ring::wait::{Backoff, Step, WaitStrategy};

use super::context::{Context, Current};
use crate::cell::any_kernel::AnyKernel;
use crate::cell::typed_cell::Shared;
use crate::envelope::Envelope;
use crate::fault::Reason;
use crate::lifecycle::{Command, State};
use crate::message::Message;
use crate::options::Placement;
use crate::output::ring_sink::RingOutlet;
use crate::output::router::Outlets;
use crate::telemetry::Stamp;

/// What comes next at a message boundary.
pub(crate) enum Next<I> {
    /// A message; it is now the context's current one.
    Message(I),
    /// The ring kernel has been activated or reactivated.
    Activated,
    /// It is to pause; it is `Deactivated` when the next thing is asked for.
    Deactivated,
    /// Its input is closed, and everything accepted has been handled and let out.
    Drained,
    /// It is to end at once.
    Aborted,
}

/// Of a timed message: how long it was queued, and when its handling began.
type Timing = Option<(Duration, Stamp)>;

/// A message that has been taken and not finished, without its body.
pub(crate) struct InHand<O> {
    pub(crate) current: Current<O>,
    timing: Timing,
}

/// There is more to do than to take a message.
pub(crate) struct NotNow;

/// A ring kernel's consuming end with its books.
pub(crate) struct Intake<I: Message, O: Message> {
    pub(crate) shared: Arc<Shared<I, O>>,
    pub(crate) ctx: Context<O>,
    receiver: Receiver<Envelope<I, O>>,
    /// The command that was last acted upon.
    obeyed: Command,
    /// How a driver is to wait within a poll, before the task or thread is given up.
    pub(crate) wait: WaitStrategy,
    /// Of a timed message in hand: how long it was queued, and when its handling began.
    timing: Timing,
    /// Whether it ever was active: only then is there something to terminate.
    activated: bool,
    terminate_hook_ran: bool,
    ended: bool,
}

impl<I: Message, O: Message> Intake<I, O> {
    pub(crate) fn new(shared: Arc<Shared<I, O>>, receiver: Receiver<Envelope<I, O>>) -> Self {
        let outlets =
            Outlets::new(Arc::clone(&shared.routes), Box::new(RingOutlet::new(Arc::clone(&shared))));
        let options = &shared.core.options;
        // A pool worker has other ring kernels to run, so it never waits inside one.
        let wait = if options.placement == Placement::Pool { WaitStrategy::Park } else { options.wait };
        let ctx = Context::new(Arc::clone(&shared.core), outlets);
        Self {
            shared,
            ctx,
            receiver,
            obeyed: Command::Hold,
            wait,
            timing: None,
            activated: false,
            terminate_hook_ran: false,
            ended: false,
        }
    }

    /// Looks for what comes next, waiting as `wait` says while there is none. Pending only after arranging to be woken by whatever may
    /// change the answer.
    #[inline]
    pub(crate) fn poll_next(&mut self, wait: WaitStrategy, cx: &mut TaskContext<'_>) -> Poll<Next<I>> {
        loop {
            let command = self.shared.core.life.command();
            if command != self.obeyed || command != Command::Run {
                match self.poll_command(command, cx) {
                    Poll::Ready(Some(next)) => return Poll::Ready(next),
                    // What has ended the pause, an abort perhaps, goes before the messages.
                    Poll::Ready(None) if matches!(command, Command::Pause | Command::Hold) => continue,
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.ctx.outlets.is_backed_up() && self.ctx.outlets.poll_flush(&self.ctx.core, cx).is_pending()
            {
                // Held up, it takes no more for a while: senders must not wait for it to empty the ring by half.
                self.receiver.wake_senders();
                if self.poll_new_command(cx).is_pending() {
                    return Poll::Pending;
                }
                continue;
            }
            if let Some(envelope) = self.receiver.try_pop() {
                return Poll::Ready(Next::Message(self.begin(envelope)));
            }
            match self.wait_for_message(wait, cx) {
                Poll::Ready(Some(next)) => return Poll::Ready(next),
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// As [`poll_next`](Self::poll_next), but takes no message.
    pub(crate) fn poll_next_command(&mut self, cx: &mut TaskContext<'_>) -> Poll<Next<I>> {
        loop {
            let command = self.shared.core.life.command();
            match self.poll_command(command, cx) {
                Poll::Ready(Some(next)) => return Poll::Ready(next),
                Poll::Ready(None) if self.poll_new_command(cx).is_pending() => return Poll::Pending,
                Poll::Ready(None) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Acts on a command. Ready with nothing: go on to the messages; after a pause or before activation, look at the command again.
    #[cold]
    fn poll_command(&mut self, command: Command, cx: &mut TaskContext<'_>) -> Poll<Option<Next<I>>> {
        let changed = command != self.obeyed;
        self.obeyed = command;
        match command {
            Command::Run if changed => {
                self.activated = true;
                Poll::Ready(Some(Next::Activated))
            }
            Command::Pause if changed => Poll::Ready(Some(Next::Deactivated)),
            Command::Pause => {
                self.receiver.wake_senders();
                loop {
                    // Not if it is being terminated meanwhile: then the state stays `Terminating`.
                    self.shared.core.has_paused();
                    if self.poll_new_command(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    // Reactivated and paused anew between those two looks: the command is the one obeyed, and whoever gave it found
                    // nobody to wake and waits for this pause too.
                    if self.shared.core.life.get() != State::Active {
                        return Poll::Pending;
                    }
                }
            }
            Command::Hold => self.poll_new_command(cx).map(|()| None),
            Command::Abort => Poll::Ready(Some(Next::Aborted)),
            // Activated and told to end before this was ever polled: what was accepted is handled all the same.
            Command::Drain if !self.activated && self.shared.core.was_activated() => {
                self.activated = true;
                Poll::Ready(Some(Next::Activated))
            }
            Command::Run | Command::Drain => Poll::Ready(None),
        }
    }

    /// Ready once there is another command than the one obeyed.
    pub(crate) fn poll_new_command(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        let core = &self.shared.core;
        let registered = core.control.register(cx.waker());
        if !registered || core.life.command() != self.obeyed { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether it is to handle what it has accepted and end.
    pub(crate) fn is_draining(&self) -> bool {
        self.shared.core.life.command() == Command::Drain
    }

    /// Whether it is to end at once.
    pub(crate) fn is_aborted(&self) -> bool {
        self.shared.core.life.command() == Command::Abort
    }

    /// Ready once it is to end at once.
    pub(crate) fn poll_abort(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        self.shared.core.poll_command_is(Command::Abort, cx)
    }

    /// Ready once a loop may start, or need not start any more.
    pub(crate) fn poll_activation(&mut self, cx: &mut TaskContext<'_>) -> Poll<()> {
        if self.obeyed != Command::Hold || self.shared.core.life.command() != Command::Hold {
            return Poll::Ready(());
        }
        self.poll_new_command(cx)
    }

    /// Whether it is to end before it was ever activated.
    pub(crate) fn ends_unstarted(&self) -> bool {
        !self.shared.core.was_activated() && self.shared.core.life.command() == Command::Drain
    }

    /// Whether it has been activated and not paused since.
    pub(crate) fn is_activated(&self) -> bool {
        self.activated && self.obeyed != Command::Pause
    }

    /// Whether `on_terminate` is to be called; true at most once.
    pub(crate) fn claim_terminate_hook(&mut self) -> bool {
        self.activated && !std::mem::replace(&mut self.terminate_hook_ran, true)
    }

    /// The next message, if taking one is all there is to do now: no command to act on, no output to let out first. Otherwise the answer is
    /// in [`poll_next`](Self::poll_next).
    #[inline]
    pub(crate) fn try_next(&mut self) -> Result<Option<I>, NotNow> {
        let command = self.shared.core.life.command();
        if command != Command::Run || command != self.obeyed || self.ctx.outlets.is_backed_up() {
            return Err(NotNow);
        }
        Ok(self.receiver.try_pop().map(|envelope| self.begin(envelope)))
    }

    /// The ring was empty: waits as the strategy says. Ready with nothing: look again.
    fn wait_for_message(&mut self, wait: WaitStrategy, cx: &mut TaskContext<'_>) -> Poll<Option<Next<I>>> {
        if self.obeyed == Command::Run {
            let mut backoff = Backoff::new(wait);
            while backoff.snooze() == Step::Retry {
                if let Some(envelope) = self.receiver.try_pop() {
                    return Poll::Ready(Some(Next::Message(self.begin(envelope))));
                }
                if self.shared.core.life.command() != Command::Run {
                    return Poll::Ready(None);
                }
            }
        }
        match self.receiver.poll_pop(cx) {
            Poll::Ready(Some(envelope)) => Poll::Ready(Some(Next::Message(self.begin(envelope)))),
            Poll::Ready(None) if self.obeyed == Command::Drain => Poll::Ready(Some(Next::Drained)),
            // The input is closed before the command to drain is given; that is a few instructions away.
            Poll::Ready(None) => self.poll_new_command(cx).map(|()| None),
            // Registered for messages now; a command given before that is seen here, one given later wakes the input.
            Poll::Pending if self.shared.core.life.command() != self.obeyed => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    #[inline]
    fn begin(&mut self, envelope: Envelope<I, O>) -> I {
        let Envelope { header, stamp, reply, message } = envelope;
        self.ctx.current = Some(Current { header, reply });
        if stamp.is_some() {
            self.timing = Some(stamp.lap());
        }
        message
    }

    /// Puts the message in hand aside: it is being handled elsewhere.
    pub(crate) fn set_aside(&mut self) -> Option<InHand<O>> {
        let current = self.ctx.current.take()?;
        Some(InHand { current, timing: self.timing.take() })
    }

    /// Takes a message in hand again.
    pub(crate) fn take_up(&mut self, in_hand: InHand<O>) {
        self.ctx.current = Some(in_hand.current);
        self.timing = in_hand.timing;
    }

    /// The message in hand, if any, was handled well.
    #[inline]
    pub(crate) fn finish(&mut self) {
        self.finish_after(None);
    }

    /// As [`finish`](Self::finish), where the time that the handler took was measured elsewhere.
    #[inline]
    pub(crate) fn finish_after(&mut self, handling: Option<Duration>) {
        if let Some(current) = self.ctx.current.take() {
            self.shared.core.counters.handled.bump_exclusively();
            self.record_times(handling);
            // Dropped after counting: an asker who gets no answer finds its question counted.
            drop(current);
        }
    }

    /// Handling the message in hand, if any, failed: it becomes a dead letter.
    pub(crate) fn finish_badly(&mut self, reason: Reason, cause: &str) {
        if let Some(Current { header, reply }) = self.ctx.current.take() {
            self.record_times(None);
            self.shared.core.bury(header, reply, None, reason, cause.to_owned());
        }
    }

    fn record_times(&mut self, handling: Option<Duration>) {
        if let Some((queued, began)) = self.timing.take() {
            self.shared.core.latencies.record(queued, handling.unwrap_or_else(|| began.lap().0));
        }
    }

    /// Ends the ring kernel. What is still queued becomes dead letters with this reason.
    pub(crate) fn end(&mut self, to: State, reason: Reason, cause: &str) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.shared.close_input();
        loop {
            match self.receiver.try_pop() {
                Some(envelope) => self.shared.core.dead_letter_envelope(envelope, reason, cause),
                None if self.receiver.is_drained() => break,
                // A sender has claimed a slot and is about to fill it.
                None => std::thread::yield_now(),
            }
        }
        self.ctx.outlets.bury_backlog(&self.shared.core);
        self.shared.core.end(to);
        // Readers learn that nothing more will come from the state; `end` has woken those who watch it.
    }
}

impl<I: Message, O: Message> Drop for Intake<I, O> {
    fn drop(&mut self) {
        // Reached without an end only when the runtime is dropped with the ring kernel alive.
        self.finish_badly(Reason::Aborted, "the runtime was dropped");
        self.end(State::Terminated, Reason::Aborted, "the runtime was dropped");
    }
}
