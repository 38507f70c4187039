//! A ring kernel's mailbox: four priority bands, each an [`mpsc`](crate::mpsc) ring, with waiting on both sides.
//!
//! The receiver polls the bands from the highest to the lowest: popping is O(1), and first in first out within a band. Lower bands age, so
//! that higher ones do not starve them ([`BandOrder`]). A band is allocated by the first push into it, so that a hundred thousand idle
//! mailboxes cost little memory.
//!
//! ```
//! use dotcompute_ring::mailbox::{self, Band, Options};
//!
//! let (sender, mut receiver) = mailbox::channel(Options { capacity: 8, ..Options::default() })?;
//! sender.try_push(Band::Normal, "usual")?;
//! sender.try_push(Band::System, "urgent")?;
//! assert_eq!(receiver.try_pop(), Some("urgent"));
//! assert_eq!(receiver.try_pop(), Some("usual"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod band;
mod band_order;
mod lazy_band;

use alloc::sync::Arc;
use core::task::{Context, Poll};

use crate::error::{CapacityError, PushError};
use crate::fence::Fence;
use crate::layout::{RingMemory, slots_for};
use crate::mpsc::Ring;
use crate::notifier::Notifier;
use crate::pacing::Pacer;
use crate::prefetch::ReadPrefetcher;
use crate::sync::{AtomicU64, Ordering};
use crate::wait_list::WaitToken;

use band::BANDS;
pub use band::Band;
use band_order::BandClock;
pub use band_order::BandOrder;
use lazy_band::{BandRing, LazyBand, spin_or_yield};

/// What a push into a full band does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// The push is rejected.
    #[default]
    Reject,
    /// The oldest value of the band is returned to the sender, and its slot is used for the new one ([`Sender::push_drop_oldest`]).
    DropOldest,
}

/// Options of a mailbox.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Minimum number of slots per band, rounded up to a power of two.
    pub capacity: usize,
    /// What a push into a full band does.
    pub overflow: Overflow,
    /// Which side pays for waking.
    pub fence: Fence,
    /// In which order the bands are popped.
    pub order: BandOrder,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            capacity: 1024,
            overflow: Overflow::Reject,
            fence: Fence::Symmetric,
            order: BandOrder::default(),
        }
    }
}

/// Checks whether a mailbox of `T` with this capacity can be created, and its bands be allocated.
///
/// # Errors
///
/// [`CapacityError`] if the capacity is zero or the memory is not available.
pub fn check_capacity<T>(capacity: usize) -> Result<(), CapacityError> {
    RingMemory::<T>::check_available(slots_for::<T>(capacity)?)
}

/// Creates a mailbox. It allocates no band yet, but checks that memory for one is available.
///
/// # Errors
///
/// [`CapacityError`] if the capacity is zero or the memory is not available.
pub fn channel<T: Send>(options: Options) -> Result<(Sender<T>, Receiver<T>), CapacityError> {
    let slots = slots_for::<T>(options.capacity)?;
    RingMemory::<T>::check_available(slots)?;
    let mailbox = Arc::new(Mailbox {
        slots,
        drop_oldest: options.overflow == Overflow::DropOldest,
        bands: core::array::from_fn(|_| LazyBand::new()),
        fence: options.fence,
        receiver: Notifier::new(options.fence),
    });
    Ok((
        Sender::new(Arc::clone(&mailbox)),
        Receiver {
            mailbox,
            prefetcher: [ReadPrefetcher::default(); BANDS],
            pacer: [Pacer::default(); BANDS],
            last_band: Band::Normal as usize,
            clock: BandClock::new(options.order),
        },
    ))
}

struct Mailbox<T> {
    slots: usize,
    drop_oldest: bool,
    bands: [LazyBand<T>; BANDS],
    /// The receiver waits here for values.
    receiver: Notifier,
    fence: Fence,
}

impl<T> Mailbox<T> {
    fn rings(&self) -> impl Iterator<Item = &Ring<T>> {
        self.bands.iter().filter_map(LazyBand::get).map(|band| &**band)
    }

    fn close(&self) {
        for band in &self.bands {
            band.close();
        }
        // SYNC POINT: receiver park (notifier): the bands are closed.
        self.receiver.notify_with_full_fence();
    }

    fn len(&self) -> usize {
        self.rings().map(Ring::len).sum::<u64>() as usize
    }

    fn is_drained(&self) -> bool {
        self.bands.iter().all(|band| match band.get() {
            Some(ring) => ring.is_drained(),
            None => band.is_closed(),
        })
    }

    /// Wakes waiting senders after a pop, once the band is half free: the longest waiting ones, one for each free slot.
    ///
    /// Waking a sender at the first free slot would cost one wake-up per message on a full ring. No waiter is missed. The first in line
    /// parks only if the band was still full after it registered. By the fence, every later pop sees that registration, and the pop that
    /// makes the band half free wakes it. The others park behind it; a sender that leaves the line, with a slot or without, looks again. A
    /// receiver that stops earlier calls [`Receiver::wake_senders`].
    #[inline]
    fn wake_senders_if_half_free(&self, band: usize) {
        // SYNC POINT: half-free wake-up (notifier): the pop has published `head`; fences, then checks for registered senders.
        if let Some(ring) = self.bands[band].get()
            && ring.senders().has_waiters()
        {
            wake_senders(ring);
        }
    }

    /// Wakes as many waiting senders of each band as it has free slots.
    fn wake_senders(&self) {
        for ring in self.bands.iter().filter_map(LazyBand::get) {
            ring.senders().notify_many(ring.free_slots());
        }
    }

    /// Wakes one more waiting sender of each band, at least, before the receiver parks: those woken so far have not sent anything, and
    /// may never do so, such as a future that is kept and not polled.
    fn wake_senders_before_parking(&self) {
        for ring in self.bands.iter().filter_map(LazyBand::get) {
            if ring.senders().has_waiters() {
                ring.senders().notify_one_more(ring.slots_to_fill());
            }
        }
    }
}

#[cold]
fn wake_senders<T>(ring: &BandRing<T>) {
    ring.senders().notify_many(ring.slots_to_fill());
}

/// The sending end. Clone it for each sender. Dropping senders does not close the mailbox.
pub struct Sender<T> {
    mailbox: Arc<Mailbox<T>>,
    cached_heads: [AtomicU64; BANDS],
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        let cached_heads =
            core::array::from_fn(|band| AtomicU64::new(self.cached_heads[band].load(Ordering::Acquire)));
        Self { mailbox: Arc::clone(&self.mailbox), cached_heads }
    }
}

impl<T> Sender<T> {
    fn new(mailbox: Arc<Mailbox<T>>) -> Self {
        Self { mailbox, cached_heads: core::array::from_fn(|_| AtomicU64::new(0)) }
    }

    /// Pushes a value into a band and wakes a parked receiver.
    ///
    /// # Errors
    ///
    /// [`PushError`] with the value: the band is full or the mailbox is closed.
    #[inline]
    pub fn try_push(&self, band: Band, value: T) -> Result<(), PushError<T>> {
        self.try_push_without_wake(band, value)?;
        // SYNC POINT: receiver park (notifier): the push has published the value; fences, then checks for a registered receiver.
        self.mailbox.receiver.notify();
        Ok(())
    }

    /// Like [`try_push`](Self::try_push), but does not wake a parked receiver. The caller makes the receiver poll again by other means.
    ///
    /// # Errors
    ///
    /// Those of `try_push`.
    #[inline]
    pub fn try_push_without_wake(&self, band: Band, value: T) -> Result<(), PushError<T>> {
        let band = band as usize;
        let Some(ring) = self.mailbox.bands[band].get_or_init(self.mailbox.slots, self.mailbox.fence) else {
            return Err(PushError::Closed(value));
        };
        ring.try_push(&self.cached_heads[band], value)
    }

    /// Like [`try_push`](Self::try_push), but with [`Overflow::DropOldest`] it pops the oldest values of a full band, usually one, and
    /// passes them to `on_drop`.
    ///
    /// # Errors
    ///
    /// Those of `try_push`; `Full` only if the mailbox was created with [`Overflow::Reject`].
    pub fn push_drop_oldest(
        &self,
        band: Band,
        mut value: T,
        mut on_drop: impl FnMut(T),
    ) -> Result<(), PushError<T>> {
        loop {
            match self.try_push(band, value) {
                Err(PushError::Full(back)) if self.mailbox.drop_oldest => value = back,
                done => return done,
            }
            // SAFETY: `locking` is true, so the pop lock serializes this pop.
            match unsafe { self.mailbox.bands[band as usize].try_pop(true, &mut ReadPrefetcher::default()) } {
                Some(oldest) => on_drop(oldest),
                // Another sender is still writing the oldest value, or the receiver has just freed a slot.
                None => spin_or_yield(),
            }
        }
    }

    /// Returns whether at least half of a band is free, which is when its waiting senders are woken, or the mailbox is closed.
    #[must_use]
    pub fn is_half_free(&self, band: Band) -> bool {
        self.mailbox.bands[band as usize].get().is_none_or(|ring| ring.is_half_free() || ring.is_closed())
    }

    /// Returns whether a push into a band can succeed now, or the mailbox is closed.
    #[must_use]
    pub fn has_free_slot(&self, band: Band) -> bool {
        self.mailbox.bands[band as usize].get().is_none_or(|ring| ring.free_slots() > 0 || ring.is_closed())
    }

    /// Wakes senders that wait for free slots, even if less than half of the band is free. For when the receiver will not pop for a while.
    pub fn wake_senders(&self) {
        self.mailbox.wake_senders();
    }

    /// Returns whether senders wait for a free slot of a band. A sender that finds some should wait behind them. Only a hint.
    #[inline]
    #[must_use]
    pub fn has_waiting_senders(&self, band: Band) -> bool {
        self.mailbox.bands[band as usize].get().is_some_and(|ring| ring.senders().may_have_waiters())
    }

    /// Returns `Ready` if it is the caller's turn and a band has a free slot, or if the mailbox is closed; the next push shows which.
    /// Otherwise registers the task behind the senders that wait already. They are woken in that order, one for each free slot.
    ///
    /// A caller that stops waiting, with a slot or without, calls [`cancel_wait`](Self::cancel_wait): it passes a wake-up on that was not
    /// used.
    pub fn poll_ready(&self, band: Band, token: &mut WaitToken, cx: &mut Context<'_>) -> Poll<()> {
        if !token.is_released() && token.list != band as u8 {
            self.cancel_wait(token);
        }
        let Some(ring) = self.mailbox.bands[band as usize].get() else { return Poll::Ready(()) };
        let is_full = || ring.free_slots() == 0 && !ring.is_closed();
        if ring.senders().take_wake_up(token) && !is_full() {
            return Poll::Ready(());
        }
        // SYNC POINT: half-free wake-up (waiter): registers, fences (in `enqueue`), then checks for a free slot.
        let is_first = ring.senders().enqueue(token, cx.waker());
        token.list = band as u8;
        let waits = if is_first { is_full() } else { !ring.is_closed() };
        if waits { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Stops waiting for a free slot.
    pub fn cancel_wait(&self, token: &mut WaitToken) {
        if !token.is_released()
            && let Some(ring) = self.mailbox.bands[token.list as usize].get()
        {
            ring.senders().leave(token, || ring.slots_to_fill());
        }
    }

    /// Closes the mailbox: exactly the pushes ordered before are accepted.
    pub fn close(&self) {
        self.mailbox.close();
    }

    /// Returns whether the mailbox is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.mailbox.bands[Band::Normal as usize].is_closed()
    }

    /// Returns the number of values in the mailbox.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mailbox.len()
    }

    /// Returns whether the mailbox is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of slots per band.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.mailbox.slots
    }

    /// Returns whether a push into a full band may drop the oldest value.
    #[inline]
    #[must_use]
    pub fn drops_oldest(&self) -> bool {
        self.mailbox.drop_oldest
    }

    /// Returns the number of values accepted in total, over all bands.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.mailbox.rings().map(Ring::pushed).sum()
    }

    /// Returns the number of values popped or dropped as the oldest in total, over all bands.
    #[must_use]
    pub fn popped(&self) -> u64 {
        self.mailbox.rings().map(Ring::popped).sum()
    }

    /// Wakes the receiver for a reason other than a value.
    pub fn wake_receiver(&self) {
        self.mailbox.receiver.notify_with_full_fence();
    }
}

/// The receiving end. Dropping it closes the mailbox.
pub struct Receiver<T> {
    mailbox: Arc<Mailbox<T>>,
    prefetcher: [ReadPrefetcher; BANDS],
    pacer: [Pacer; BANDS],
    /// The band of the last value.
    last_band: usize,
    /// `None` if the order is strict.
    clock: Option<BandClock>,
}

impl<T: Send> Receiver<T> {
    /// Pops the oldest value of the band that is next in the mailbox's [`BandOrder`]: as a rule the highest that has one.
    ///
    /// If the mailbox is empty and values come fast, tens of millions a second, it waits up to some microseconds for a number of them.
    #[inline]
    pub fn try_pop(&mut self) -> Option<T> {
        let popped = self.pop_at_once();
        if popped.is_none() && self.should_poll_again() { self.pop_at_once() } else { popped }
    }

    /// Whether the mailbox, which was found empty, is worth another poll. May pause, for the band that had the last value.
    #[inline]
    fn should_poll_again(&mut self) -> bool {
        let band = self.last_band;
        // With `drop_oldest` senders pop too, so indices say nothing about this receiver's pops.
        !self.mailbox.drop_oldest && self.mailbox.bands[band].found_empty(&mut self.pacer[band])
    }

    #[inline]
    fn pop_at_once(&mut self) -> Option<T> {
        if self.clock.as_ref().is_some_and(BandClock::is_any_due)
            && let Some(value) = self.pop_due()
        {
            return Some(value);
        }
        for band in 0..BANDS {
            let popped = self.pop_from(band);
            if popped.is_some() {
                return popped;
            }
        }
        None
    }

    #[inline]
    fn pop_from(&mut self, band: usize) -> Option<T> {
        let mailbox = &*self.mailbox;
        // SAFETY: there is one receiver, which cannot be cloned, and `&mut self` excludes concurrent pops by it. With `drop_oldest`, where
        // senders also pop, the pop lock serializes all pops.
        let value = unsafe { mailbox.bands[band].try_pop(mailbox.drop_oldest, &mut self.prefetcher[band]) }?;
        if let Some(clock) = &mut self.clock {
            clock.popped(band);
        }
        self.last_band = band;
        mailbox.wake_senders_if_half_free(band);
        Some(value)
    }

    /// Pops from the band that is due for longest. `None` if no band that is due has a value. The system band comes first, unless the last
    /// value was from it.
    #[cold]
    fn pop_due(&mut self) -> Option<T> {
        let last_was_system = self.clock.as_ref().is_some_and(BandClock::last_was_system);
        if !last_was_system && let Some(value) = self.pop_from(Band::System as usize) {
            return Some(value);
        }
        while let Some(band) = self.clock.as_ref().and_then(BandClock::longest_due) {
            if let Some(value) = self.pop_from(band) {
                return Some(value);
            }
            if let Some(clock) = &mut self.clock {
                clock.restart(band);
            }
        }
        None
    }

    /// Like [`try_pop`](Self::try_pop), but registers the task if the mailbox is empty, and it is woken when that may have changed.
    /// `Ready(None)` if the mailbox is closed and drained.
    pub fn poll_pop(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            if let Some(value) = self.try_pop() {
                return Poll::Ready(Some(value));
            }
            if self.mailbox.is_drained() {
                return Poll::Ready(None);
            }
            if !self.mailbox.receiver.register(cx.waker()) {
                // A notifier holds the waker for a few instructions. Yield, in case it was preempted.
                spin_or_yield();
                continue;
            }
            // SYNC POINT: receiver park (waiter): recheck after registering. A value pushed before the registration did not trigger a
            // wake-up.
            if let Some(value) = self.try_pop() {
                self.mailbox.receiver.cancel();
                return Poll::Ready(Some(value));
            }
            if self.mailbox.is_drained() {
                self.mailbox.receiver.cancel();
                return Poll::Ready(None);
            }
            self.mailbox.wake_senders_before_parking();
            return Poll::Pending;
        }
    }

    /// Wakes senders that wait for free slots, even if less than half of the band is free. For a receiver that will not pop more for a
    /// while.
    pub fn wake_senders(&self) {
        self.mailbox.wake_senders();
    }

    /// Closes the mailbox: exactly the pushes ordered before are accepted, and can still be popped.
    pub fn close(&self) {
        self.mailbox.close();
    }

    /// Returns whether the mailbox is closed and every accepted value was popped.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.mailbox.is_drained()
    }

    /// Returns the number of values in the mailbox.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mailbox.len()
    }

    /// Returns whether the mailbox is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.mailbox.close();
    }
}
