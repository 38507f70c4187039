//! A ring kernel's mailbox: four priority bands, each a ring of [`mpsc`](crate::mpsc) kind, with waiting on both sides.
//!
//! Taking looks at the bands from the highest down: O(1), and first in first out within a band. Only the normal band has memory from the
//! start; another is made at its first use, so that a hundred thousand idle mailboxes cost little.
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

mod lazy_band;

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::task::{Context, Poll};

use crate::error::{CapacityError, PushError};
use crate::fence::Fence;
use crate::layout::slots_for;
use crate::mpsc::Ring;
use crate::notifier::Notifier;
use crate::prefetch::ReadPrefetcher;
use crate::sync::{AtomicU64, Ordering};
use crate::wait_list::{WaitList, WaitToken};

use lazy_band::{LazyBand, spin_or_yield};

const BANDS: usize = 4;

/// A priority band.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Band {
    /// Priorities 224 to 255.
    System = 0,
    /// Priorities 160 to 223.
    High = 1,
    /// Priorities 64 to 159.
    Normal = 2,
    /// Priorities 0 to 63.
    Low = 3,
}

impl Band {
    /// The band of a priority.
    #[inline]
    #[must_use]
    pub const fn of(priority: u8) -> Self {
        match priority {
            224.. => Self::System,
            160..=223 => Self::High,
            64..=159 => Self::Normal,
            ..=63 => Self::Low,
        }
    }
}

/// What a push into a full band does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overflow {
    /// It is refused.
    #[default]
    Reject,
    /// The oldest value of the band is handed to the pusher, who takes its place ([`Sender::push_drop_oldest`]).
    DropOldest,
}

/// How a mailbox is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Values each band has room for, rounded up to a power of two.
    pub capacity: usize,
    /// Whether senders may evict.
    pub overflow: Overflow,
    /// Who pays for waking.
    pub fence: Fence,
}

impl Default for Options {
    fn default() -> Self {
        Self { capacity: 1024, overflow: Overflow::Reject, fence: Fence::Symmetric }
    }
}

/// Whether a mailbox of `T` with this capacity can be made, as far as can be known without making it.
///
/// # Errors
///
/// [`CapacityError`] if the capacity is zero or too large.
pub fn check_capacity<T>(capacity: usize) -> Result<(), CapacityError> {
    slots_for::<T>(capacity).map(drop)
}

/// Makes a mailbox.
///
/// # Errors
///
/// [`CapacityError`] if the capacity is zero or cannot be had.
pub fn channel<T: Send>(options: Options) -> Result<(Sender<T>, Receiver<T>), CapacityError> {
    let slots = slots_for::<T>(options.capacity)?;
    let mailbox = Mailbox {
        slots,
        drop_oldest: options.overflow == Overflow::DropOldest,
        bands: core::array::from_fn(|_| LazyBand::new()),
        receiver: Notifier::new(options.fence),
        senders: WaitList::new(options.fence),
    };
    let normal = Box::into_raw(Box::new(Ring::new(slots)?));
    mailbox.bands[Band::Normal as usize].ring.store(normal, Ordering::Release);
    let mailbox = Arc::new(mailbox);
    Ok((
        Sender::new(Arc::clone(&mailbox)),
        Receiver { mailbox, prefetcher: [ReadPrefetcher::default(); BANDS] },
    ))
}

struct Mailbox<T> {
    slots: usize,
    drop_oldest: bool,
    bands: [LazyBand<T>; BANDS],
    /// Where the receiver waits for values.
    receiver: Notifier,
    /// Where senders wait for room.
    senders: WaitList,
}

impl<T> Mailbox<T> {
    fn rings(&self) -> impl Iterator<Item = &Ring<T>> {
        self.bands.iter().filter_map(LazyBand::get)
    }

    fn close(&self) {
        for band in &self.bands {
            band.close();
        }
        self.senders.notify_all();
        self.receiver.notify_with_full_fence();
    }

    fn len(&self) -> usize {
        self.rings().map(Ring::len).sum::<u64>() as usize
    }

    fn is_drained(&self) -> bool {
        self.bands.iter().all(|band| match band.get() {
            Some(ring) => ring.is_drained(),
            None => !band.ring.load(Ordering::Acquire).is_null(),
        })
    }

    /// After a pop: wakes senders who wait for room, once half of the band is free again.
    ///
    /// Waking at the first free slot would have a full ring pass its messages one by one, with a wake-up each. Nobody is forgotten: a
    /// sender sleeps only if it saw the band full after it announced itself; by the fence, the receiver then sees the announcement
    /// after every pop that followed, and on its way to an empty band it passes the half. A receiver that stops before that says so
    /// ([`Receiver::wake_senders`]).
    #[inline]
    fn wake_senders_if_half_free(&self, band: usize) {
        if self.senders.has_waiters() {
            self.wake_senders(band);
        }
    }

    #[cold]
    fn wake_senders(&self, band: usize) {
        if self.bands[band].get().is_some_and(Ring::is_half_free) {
            self.senders.notify_all();
        }
    }
}

/// A sender's end. Clone it for another sender. Dropping senders does not close the mailbox.
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

    /// Puts a value into a band and wakes the receiver if it sleeps.
    ///
    /// # Errors
    ///
    /// [`PushError`] with the value in it: the band is full or the mailbox is closed.
    #[inline]
    pub fn try_push(&self, band: Band, value: T) -> Result<(), PushError<T>> {
        self.try_push_without_wake(band, value)?;
        self.mailbox.receiver.notify();
        Ok(())
    }

    /// As [`try_push`](Self::try_push), but leaves a sleeping receiver asleep: for a caller that sees to it by other means that the
    /// receiver looks again.
    ///
    /// # Errors
    ///
    /// As for `try_push`.
    #[inline]
    pub fn try_push_without_wake(&self, band: Band, value: T) -> Result<(), PushError<T>> {
        let band = band as usize;
        let ring = match self.mailbox.bands[band].get_or_init(self.mailbox.slots) {
            Ok(Some(ring)) => ring,
            Ok(None) => return Err(PushError::Full(value)),
            Err(()) => return Err(PushError::Closed(value)),
        };
        ring.try_push(&self.cached_heads[band], value)
    }

    /// As [`try_push`](Self::try_push), but in a mailbox made with [`Overflow::DropOldest`] a full band gives up its oldest values, usually
    /// one, to `on_drop`.
    ///
    /// # Errors
    ///
    /// As for `try_push`; `Full` only in a mailbox that does not evict.
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
            // SAFETY: `locking` is true.
            match unsafe { self.mailbox.bands[band as usize].try_pop(true, &mut ReadPrefetcher::default()) } {
                Some(oldest) => on_drop(oldest),
                // Its oldest value is being written this moment, or the receiver has just made room.
                None => spin_or_yield(),
            }
        }
    }

    /// Whether half of a band is free, which is when its waiting senders are woken, or the mailbox is closed.
    #[must_use]
    pub fn is_half_free(&self, band: Band) -> bool {
        self.mailbox.bands[band as usize].get().is_none_or(|ring| ring.is_half_free() || ring.is_closed())
    }

    /// Ready when there is room in a band, or the mailbox is closed: pushing again then tells which. Otherwise the task is woken when there
    /// may be. Give the ticket back with [`cancel_wait`](Self::cancel_wait).
    pub fn poll_ready(&self, band: Band, token: &mut WaitToken, cx: &mut Context<'_>) -> Poll<()> {
        self.mailbox.senders.register(token, cx.waker());
        let full = self.mailbox.bands[band as usize]
            .get()
            .is_some_and(|ring| ring.len() >= ring.capacity() && !ring.is_closed());
        if full { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Stops waiting for room.
    pub fn cancel_wait(&self, token: &mut WaitToken) {
        self.mailbox.senders.cancel(token);
    }

    /// Closes the mailbox: exactly the pushes that came before are accepted.
    pub fn close(&self) {
        self.mailbox.close();
    }

    /// Whether the mailbox is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.mailbox.bands[Band::Normal as usize].get().is_none_or(Ring::is_closed)
    }

    /// Values in the mailbox.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mailbox.len()
    }

    /// Whether the mailbox is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values each band has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.mailbox.slots
    }

    /// Whether this mailbox evicts.
    #[inline]
    #[must_use]
    pub fn drops_oldest(&self) -> bool {
        self.mailbox.drop_oldest
    }

    /// Values accepted, ever, in all bands.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.mailbox.rings().map(Ring::pushed).sum()
    }

    /// Values taken or evicted, ever, from all bands.
    #[must_use]
    pub fn popped(&self) -> u64 {
        self.mailbox.rings().map(Ring::popped).sum()
    }

    /// Wakes the receiver for a reason other than a value.
    pub fn wake_receiver(&self) {
        self.mailbox.receiver.notify_with_full_fence();
    }
}

/// The receiver's end. Dropping it closes the mailbox.
pub struct Receiver<T> {
    mailbox: Arc<Mailbox<T>>,
    prefetcher: [ReadPrefetcher; BANDS],
}

impl<T: Send> Receiver<T> {
    /// Takes the oldest value of the highest band that has one.
    #[inline]
    pub fn try_pop(&mut self) -> Option<T> {
        let mailbox = &*self.mailbox;
        for (index, (band, prefetcher)) in mailbox.bands.iter().zip(&mut self.prefetcher).enumerate() {
            // SAFETY: there is one receiver, not cloneable, and this takes it by `&mut`; evicting mailboxes lock.
            if let Some(value) = unsafe { band.try_pop(mailbox.drop_oldest, prefetcher) } {
                mailbox.wake_senders_if_half_free(index);
                return Some(value);
            }
        }
        None
    }

    /// As [`try_pop`](Self::try_pop); where there is nothing, the task is woken when there may be. None when the mailbox is closed and drained.
    pub fn poll_pop(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        loop {
            if let Some(value) = self.try_pop() {
                return Poll::Ready(Some(value));
            }
            if self.mailbox.is_drained() {
                return Poll::Ready(None);
            }
            if !self.mailbox.receiver.register(cx.waker()) {
                // A notifier is at work, for a few instructions; should it have lost its core, this one is better given to it.
                spin_or_yield();
                continue;
            }
            // Looked at again after the announcement: what was pushed in between did not see it.
            if let Some(value) = self.try_pop() {
                self.mailbox.receiver.cancel();
                return Poll::Ready(Some(value));
            }
            if self.mailbox.is_drained() {
                self.mailbox.receiver.cancel();
                return Poll::Ready(None);
            }
            return Poll::Pending;
        }
    }

    /// Wakes senders who wait for room even if less than half is free: for a receiver that is not going to take more for a while.
    pub fn wake_senders(&self) {
        self.mailbox.senders.notify_all();
    }

    /// Closes the mailbox: exactly the pushes that came before are accepted, and can still be taken.
    pub fn close(&self) {
        self.mailbox.close();
    }

    /// Whether the mailbox is closed and everything accepted has been taken.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.mailbox.is_drained()
    }

    /// Values in the mailbox.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mailbox.len()
    }

    /// Whether the mailbox is empty.
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
