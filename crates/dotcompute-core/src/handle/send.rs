//! Putting a message into the input ring: at once, or when there is room.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::PushError;
use dotcompute_ring::mailbox::Band;
use dotcompute_ring::wait::spin_then_park;
use dotcompute_ring::wait_list::WaitToken;

use super::KernelHandle;
use super::timeout::within;
use super::wait_limit::Patience;
use crate::cell::typed_cell::Unposted;
use crate::envelope::Envelope;
use crate::error::Refusal;
use crate::lifecycle::State;
use crate::message::Message;

/// What came of posting: nothing, or why not and the envelope.
pub(super) type Posted<I, O> = Result<(), (Refusal, Envelope<I, O>)>;

impl<I: Message, O: Message> KernelHandle<I, O> {
    #[inline]
    pub(super) fn send(&self, envelope: Envelope<I, O>, patience: Patience) -> Posted<I, O> {
        if !self.shared.core.life.get().accepts_messages() {
            return Err((self.ended_or_not_activated(), envelope));
        }
        match self.shared.post(&self.input, envelope) {
            Ok(()) => Ok(()),
            Err(Unposted::Closed(envelope)) => Err((self.ended_or_not_activated(), envelope)),
            Err(Unposted::Full(envelope)) => self.send_into_full(envelope, patience),
        }
    }

    /// Sends and runs the ring kernel here, if this handle is for that and the ring kernel is idle. Otherwise the envelope comes back,
    /// to be sent as usual.
    #[inline]
    pub(super) fn send_inline(&self, envelope: Envelope<I, O>) -> Result<(), Envelope<I, O>> {
        let Some(shared_task) = &self.shared_task else { return Err(envelope) };
        let Some(turn) = shared_task.try_sit() else { return Err(envelope) };
        if !self.shared.core.life.get().accepts_messages() {
            return Err(envelope);
        }
        let band = Band::of(envelope.header.priority.get());
        // Nobody is woken for it: it is this thread that looks next.
        self.input.try_push_without_wake(band, envelope).map_err(PushError::into_inner)?;
        turn.run();
        Ok(())
    }

    #[cold]
    fn send_into_full(&self, envelope: Envelope<I, O>, patience: Patience) -> Posted<I, O> {
        let timeout = match patience {
            Patience::None => {
                self.shared.core.counters.rejected.bump();
                return Err((Refusal::Full { capacity: self.input.capacity() }, envelope));
            }
            Patience::For(time) => Some(time),
            Patience::Endless => None,
        };
        let deadline = timeout.map(|time| Instant::now() + time);
        let mut posting = Posting::new(self, envelope);
        let look = |cx: Option<&mut Context<'_>>| posting.look(cx);
        match spin_then_park(self.wait, deadline, look) {
            Some(outcome) => outcome,
            None => posting.give_up(timeout.unwrap_or_default()),
        }
    }

    pub(super) async fn send_async(&self, envelope: Envelope<I, O>, patience: Patience) -> Posted<I, O> {
        let timeout = match patience {
            Patience::None => return self.send(envelope, patience),
            Patience::For(time) => Some(time),
            Patience::Endless => None,
        };
        if !self.state().accepts_messages() {
            return Err((self.ended_or_not_activated(), envelope));
        }
        let mut posting = Posting::new(self, envelope);
        let outcome = within(timeout, std::future::poll_fn(|cx| posting.poll(cx))).await;
        match outcome {
            Some(outcome) => outcome,
            None => posting.give_up(timeout.unwrap_or_default()),
        }
    }

    /// Why a ring kernel that does not take messages does not.
    #[cold]
    pub(super) fn ended_or_not_activated(&self) -> Refusal {
        match self.state() {
            state @ (State::Created | State::Launched) => Refusal::NotActivated { state },
            // The input is closed a moment before the state says so.
            State::Active | State::Deactivated => Refusal::Ended { state: State::Terminating },
            state => Refusal::Ended { state },
        }
    }
}

/// At every so many-th look, a spinning sender looks at the ring: each time, the line that the ring kernel counts on has to travel.
const LOOKS_PER_GLANCE: u32 = 16;
/// At every so many-th look, it tries even if there is hardly any room: the ring kernel may be at rest.
const LOOKS_PER_TRY: u32 = 1024;

/// An envelope on its way into a full ring; gives up its place among the waiting when dropped.
struct Posting<'a, I: Message, O: Message> {
    handle: &'a KernelHandle<I, O>,
    envelope: Option<Envelope<I, O>>,
    ticket: WaitToken,
    looks: u32,
}

impl<'a, I: Message, O: Message> Posting<'a, I, O> {
    fn new(handle: &'a KernelHandle<I, O>, envelope: Envelope<I, O>) -> Self {
        Self { handle, envelope: Some(envelope), ticket: WaitToken::default(), looks: 0 }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Posted<I, O>> {
        self.look(Some(cx))
    }

    /// Tries; with a context, arranges to be woken where there is no room.
    ///
    /// Without one, this is a look of a spinning sender, which waits until there is ample room: if it took every slot as it came free,
    /// the two sides would pass each message on under each other's hands.
    fn look(&mut self, mut cx: Option<&mut Context<'_>>) -> Poll<Posted<I, O>> {
        let handle = self.handle;
        if cx.is_none() {
            self.looks = self.looks.wrapping_add(1);
            let glances = self.looks.is_multiple_of(LOOKS_PER_GLANCE);
            let tries = self.looks.is_multiple_of(LOOKS_PER_TRY) || (glances && self.is_half_free());
            if !tries {
                return Poll::Pending;
            }
        }
        while let Some(envelope) = self.envelope.take() {
            let band = Band::of(envelope.header.priority.get());
            match handle.shared.post(&handle.input, envelope) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(Unposted::Closed(envelope)) => {
                    return Poll::Ready(Err((handle.ended_or_not_activated(), envelope)));
                }
                Err(Unposted::Full(envelope)) => {
                    self.envelope = Some(envelope);
                    let Some(cx) = cx.as_deref_mut() else { return Poll::Pending };
                    if handle.input.poll_ready(band, &mut self.ticket, cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        unreachable!("a posting is not polled again after it is ready")
    }

    fn is_half_free(&self) -> bool {
        let band = self.envelope.as_ref().map(|envelope| Band::of(envelope.header.priority.get()));
        band.is_none_or(|band| self.handle.input.is_half_free(band))
    }

    fn give_up(mut self, waited: Duration) -> Posted<I, O> {
        match self.envelope.take() {
            Some(envelope) => {
                self.handle.shared.core.counters.rejected.bump();
                Err((Refusal::TimedOut { capacity: self.handle.input.capacity(), waited }, envelope))
            }
            None => Ok(()),
        }
    }
}

impl<I: Message, O: Message> Drop for Posting<'_, I, O> {
    fn drop(&mut self) {
        self.handle.input.cancel_wait(&mut self.ticket);
    }
}
