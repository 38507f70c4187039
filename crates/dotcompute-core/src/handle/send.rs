//! Posts a message to the mailbox, waiting for a free slot as the wait limit allows.

use std::task::{Context, Poll};
use std::time::Duration;

use dotcompute_ring::PushError;
use dotcompute_ring::mailbox::Band;
use dotcompute_ring::reply::ReplySender;
use dotcompute_ring::wait_list::WaitToken;

use super::KernelHandle;
use super::wait_limit::WaitLimit;
use crate::backend::worker_pool::{block, check_may_block};
use crate::cell::current::CurrentKernel;
use crate::cell::typed_cell::PostError;
use crate::cell::wait_graph::{CallWait, WaitFor};
use crate::deadline;
use crate::envelope::{Envelope, ReplyResult};
use crate::error::Refusal;
use crate::lifecycle::State;
use crate::message::Message;
use crate::options::InlineAsks;
use crate::status::WaitCycle;

/// `Ok`, or the reason with the envelope, which the caller keeps.
pub(super) type SendResult<I, O> = Result<(), (Refusal, Envelope<I, O>)>;

impl<I: Message, O: Message> KernelHandle<I, O> {
    #[inline]
    pub(super) fn send(&self, envelope: Envelope<I, O>, wait_limit: WaitLimit) -> SendResult<I, O> {
        if !self.cell.untyped.lifecycle.get().accepts_messages() {
            return Err((self.ended_or_not_activated(), envelope));
        }
        match self.cell.post(&self.input, envelope) {
            Ok(()) => Ok(()),
            Err(PostError::Closed(envelope)) => Err((self.ended_or_not_activated(), envelope)),
            Err(PostError::Full(envelope)) => self.send_into_full(envelope, wait_limit),
        }
    }

    /// Posts the envelope and polls the ring kernel on the calling thread, if this handle may and the ring kernel is idle. Otherwise
    /// returns the envelope, to be sent as usual.
    #[inline]
    pub(super) fn send_inline(&self, envelope: Envelope<I, O>) -> Result<(), Envelope<I, O>> {
        // A large message is on the stack several times on either side; inline, one stack would have both.
        if size_of::<Envelope<I, O>>() > INLINE_BYTES {
            return Err(envelope);
        }
        let Some(shared_task) = &self.shared_task else { return Err(envelope) };
        if self.inline_asks == InlineAsks::IfShort
            && (!self.cell.untyped.pace.is_short() || CurrentKernel::is_any())
        {
            return Err(envelope);
        }
        let Some(guard) = shared_task.try_acquire() else { return Err(envelope) };
        if !self.cell.untyped.lifecycle.get().accepts_messages() {
            return Err(envelope);
        }
        let band = Band::of(envelope.header.priority.get());
        // No wake-up: this thread holds the task and polls it next.
        self.input.try_push_without_wake(band, envelope).map_err(PushError::into_inner)?;
        guard.run();
        Ok(())
    }

    #[cold]
    fn send_into_full(&self, envelope: Envelope<I, O>, wait_limit: WaitLimit) -> SendResult<I, O> {
        let timeout = match wait_limit {
            WaitLimit::NoWait => {
                self.cell.untyped.counters.rejected.increment();
                return Err((Refusal::Full { capacity: self.input.capacity() }, envelope));
            }
            WaitLimit::Timeout(time) => Some(time),
            WaitLimit::Unlimited => None,
        };
        let deadline = timeout.map(deadline::after);
        if let Err(exhausted) = check_may_block() {
            return Err((Refusal::PoolExhausted { limit: exhausted.max_blocked }, envelope));
        }
        let mut pending = PendingSend::new(self, envelope, true);
        let poll_send = |cx: Option<&mut Context<'_>>| pending.poll_send(cx);
        match block(self.wait, deadline, poll_send) {
            Some(outcome) => outcome,
            None => pending.time_out(timeout.unwrap_or_default()),
        }
    }

    /// Returns why a ring kernel that does not accept messages does not.
    #[cold]
    pub(super) fn ended_or_not_activated(&self) -> Refusal {
        match self.state() {
            state @ (State::Created | State::Launched) => Refusal::NotActivated { state },
            // The mailbox is closed shortly before the state changes.
            State::Active | State::Deactivated => Refusal::Ended { state: State::Terminating },
            state => Refusal::Ended { state },
        }
    }
}

/// Larger envelopes are not handled inline.
const INLINE_BYTES: usize = 1 << 13;

/// A spinning sender reads the ring only on every 16th poll: each read takes the cache line with the ring kernel's `head` away from the
/// consumer's core.
const POLLS_PER_RING_CHECK: u32 = 16;
/// A spinning sender attempts to send on every 1024th poll even if the band is not half free: the ring kernel may have parked or paused.
const POLLS_PER_SEND_ATTEMPT: u32 = 1024;

/// An envelope that waits for a free slot. Dropping it leaves the mailbox's wait list.
pub(super) struct PendingSend<'a, I: Message, O: Message> {
    handle: &'a KernelHandle<I, O>,
    envelope: Option<Envelope<I, O>>,
    token: WaitToken,
    /// Whether it waits in the mailbox's wait list, or is about to.
    is_in_line: bool,
    polls: u32,
    /// Set once the band was found full.
    wait: Option<CallWait>,
    /// Whether the wait blocks its thread.
    blocks: bool,
}

impl<'a, I: Message, O: Message> PendingSend<'a, I, O> {
    #[inline]
    pub(super) fn new(handle: &'a KernelHandle<I, O>, envelope: Envelope<I, O>, blocks: bool) -> Self {
        let token = WaitToken::default();
        Self { handle, envelope: Some(envelope), token, is_in_line: false, polls: 0, wait: None, blocks }
    }

    #[inline]
    pub(super) fn handle(&self) -> &'a KernelHandle<I, O> {
        self.handle
    }

    /// Sets the envelope's time and its reply sender.
    #[inline]
    pub(super) fn complete(&mut self, reply: Option<ReplySender<ReplyResult<O>>>) {
        if let Some(envelope) = &mut self.envelope {
            envelope.stamp = self.handle.sampler.stamp();
            envelope.reply = reply;
        }
    }

    /// Takes the envelope of a call that has not ended.
    #[inline]
    pub(super) fn take(&mut self) -> Envelope<I, O> {
        self.envelope.take().expect("a call is not polled again after it is ready")
    }

    /// Sends inline, if that is possible. Returns whether it was.
    #[inline]
    pub(super) fn send_inline(&mut self) -> bool {
        if size_of::<Envelope<I, O>>() > INLINE_BYTES {
            return false;
        }
        match self.handle.send_inline(self.take()) {
            Ok(()) => true,
            Err(envelope) => {
                self.envelope = Some(envelope);
                false
            }
        }
    }

    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SendResult<I, O>> {
        self.poll_send(Some(cx))
    }

    /// Attempts to send. With a context, registers the task's waker if the band is full.
    ///
    /// Without a context, this is one poll of a spinning sender, which sends once the band is half free. Taking each slot as it becomes
    /// free would bounce the slot's cache lines between producer and consumer for every message.
    fn poll_send(&mut self, mut cx: Option<&mut Context<'_>>) -> Poll<SendResult<I, O>> {
        let handle = self.handle;
        if cx.is_none() {
            self.polls = self.polls.wrapping_add(1);
            let checks_ring = self.polls.is_multiple_of(POLLS_PER_RING_CHECK);
            let attempts_send =
                self.polls.is_multiple_of(POLLS_PER_SEND_ATTEMPT) || (checks_ring && self.is_half_free());
            if !attempts_send {
                return Poll::Pending;
            }
        }
        while let Some(band) = self.band() {
            // A task waits behind those that wait already: they are woken one for each free slot, and it would take the slot of one.
            if let Some(cx) = cx.as_deref_mut()
                && (self.is_in_line || handle.input.has_waiting_senders(band))
            {
                self.is_in_line = true;
                // SYNC POINT: mailbox-half-free (sender). `poll_ready` registers in the wait list, then rechecks the band. Pairs with
                // `Inbox`: a pop that leaves the band half free, or `wake_senders`, wakes as many as there are free slots.
                if handle.input.poll_ready(band, &mut self.token, cx).is_pending() {
                    return self.poll_cycle_in_line(cx);
                }
            }
            let Some(envelope) = self.envelope.take() else { break };
            match handle.cell.post(&handle.input, envelope) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(PostError::Closed(envelope)) => {
                    return Poll::Ready(Err((handle.ended_or_not_activated(), envelope)));
                }
                Err(PostError::Full(envelope)) => {
                    if let Some(cycle) = self.poll_cycle(envelope.header.priority.get(), cx.as_deref_mut()) {
                        return Poll::Ready(Err((Refusal::Cycle { cycle }, envelope)));
                    }
                    self.envelope = Some(envelope);
                    if cx.is_none() {
                        return Poll::Pending;
                    }
                    self.is_in_line = true;
                }
            }
        }
        unreachable!("a `PendingSend` is not polled again after it is ready")
    }

    /// Ready with the envelope if this wait is part of a cycle.
    fn poll_cycle_in_line(&mut self, cx: &mut Context<'_>) -> Poll<SendResult<I, O>> {
        let Some(priority) = self.envelope.as_ref().map(|envelope| envelope.header.priority.get()) else {
            return Poll::Pending;
        };
        match self.poll_cycle(priority, Some(cx)).and_then(|cycle| Some((cycle, self.envelope.take()?))) {
            Some((cycle, envelope)) => Poll::Ready(Err((Refusal::Cycle { cycle }, envelope))),
            None => Poll::Pending,
        }
    }

    /// Returns the cycle that this wait is part of, if there is one.
    fn poll_cycle(&mut self, priority: u8, cx: Option<&mut Context<'_>>) -> Option<WaitCycle> {
        let wait = match &self.wait {
            // The band is full again: the wait may close a cycle now that it did not close before.
            Some(wait) => match wait.recheck() {
                Some(cycle) => return Some(cycle),
                None => wait,
            },
            None => match CurrentKernel::begin_wait(
                WaitFor::Slot(priority),
                &self.handle.cell.untyped,
                self.blocks,
            ) {
                Ok(wait) => self.wait.insert(wait),
                Err(cycle) => return Some(cycle),
            },
        };
        match cx.map(|cx| wait.poll_cycle(cx)) {
            Some(Poll::Ready(cycle)) => Some(cycle),
            Some(Poll::Pending) => None,
            None => wait.cycle(),
        }
    }

    fn band(&self) -> Option<Band> {
        self.envelope.as_ref().map(|envelope| Band::of(envelope.header.priority.get()))
    }

    fn is_half_free(&self) -> bool {
        self.band().is_none_or(|band| self.handle.input.is_half_free(band))
    }

    /// Ends the wait after `waited`.
    pub(super) fn time_out(&mut self, waited: Duration) -> SendResult<I, O> {
        self.leave();
        match self.envelope.take() {
            Some(envelope) => {
                self.handle.cell.untyped.counters.rejected.increment();
                let status = self.handle.status();
                Err((Refusal::TimedOut { capacity: self.handle.input.capacity(), waited, status }, envelope))
            }
            None => Ok(()),
        }
    }

    /// Leaves the mailbox's wait list and the wait-for graph.
    #[inline]
    pub(super) fn leave(&mut self) {
        self.handle.input.cancel_wait(&mut self.token);
        self.is_in_line = false;
        self.wait = None;
    }
}

impl<I: Message, O: Message> Drop for PendingSend<'_, I, O> {
    fn drop(&mut self) {
        self.handle.input.cancel_wait(&mut self.token);
    }
}
