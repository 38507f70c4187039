//! One priority band of a mailbox, whose ring is created at its first use.

use alloc::alloc::{Layout, handle_alloc_error};
use alloc::boxed::Box;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;

use crate::fence::Fence;
use crate::mpsc::Ring;
use crate::pacing::Pacer;
use crate::prefetch::ReadPrefetcher;
use crate::sync::{AtomicPtr, AtomicU32, Ordering, spin_loop};
use crate::wait_list::WaitList;

/// One band: not initialised (null), initialised, or closed before it was initialised ([`closed_sentinel`]).
///
/// `ring`: null, then the address of the ring or [`closed_sentinel`], either of which is final. Written by an AcqRel compare-exchange from
/// null, of the push that initialises the band or of `close`; read by both ends with acquire. `SYNC POINT: band publish`.
///
/// `pop_lock`: bit 0 is set while a pop is in progress; bits 1-31 are zero. Taken by an acquire compare-exchange to 1, and released by a
/// release store of 0. `SYNC POINT: pop lock`.
pub(super) struct LazyBand<T> {
    ring: AtomicPtr<BandRing<T>>,
    /// Lock held during one pop, in drop-oldest mailboxes only: there, senders that find the band full also pop. A lock-free pop by several
    /// consumers would need a second writer to the sequence tags of every ring.
    pop_lock: AtomicU32,
    /// The band owns the ring: `AtomicPtr` alone would make it `Send` and `Sync` for every `T`.
    owned: PhantomData<BandRing<T>>,
}

/// A ring, and the senders that wait for its free slots.
pub(super) struct BandRing<T> {
    ring: Ring<T>,
    senders: Senders,
}

/// On lines of its own: waiting senders write it, and both ends read the address of the ring beside it for every message.
#[repr(align(64))]
struct Senders(WaitList);

impl<T> Deref for BandRing<T> {
    type Target = Ring<T>;

    #[inline]
    fn deref(&self) -> &Ring<T> {
        &self.ring
    }
}

impl<T> BandRing<T> {
    /// Returns the senders that wait for a free slot.
    #[inline]
    pub(super) fn senders(&self) -> &WaitList {
        &self.senders.0
    }

    pub(super) fn free_slots(&self) -> usize {
        (self.ring.capacity() - self.ring.len().min(self.ring.capacity())) as usize
    }

    /// Returns how many senders may be woken: one for each free slot, once half of the slots are free; all if the band is closed.
    pub(super) fn slots_to_fill(&self) -> usize {
        if self.ring.is_closed() {
            return usize::MAX;
        }
        if self.ring.is_half_free() { self.free_slots() } else { 0 }
    }
}

/// An address that no ring has: marks a band that was closed before its first use.
fn closed_sentinel<T>() -> *mut BandRing<T> {
    NonNull::dangling().as_ptr()
}

impl<T> LazyBand<T> {
    pub(super) fn new() -> Self {
        Self { ring: AtomicPtr::new(core::ptr::null_mut()), pop_lock: AtomicU32::new(0), owned: PhantomData }
    }

    /// Returns the ring, if it is initialised.
    #[inline]
    pub(super) fn get(&self) -> Option<&BandRing<T>> {
        // SYNC POINT: band publish
        // Acquire: pairs with the release of the compare-exchange in `init`; the ring is initialised.
        let ring = self.ring.load(Ordering::Acquire);
        if ring.is_null() || ring == closed_sentinel() {
            return None;
        }
        // SAFETY: `ring` is neither null nor the sentinel, so it came from `Box::into_raw`. It is freed only when the mailbox is dropped,
        // and `self` borrows from the mailbox.
        Some(unsafe { &*ring })
    }

    /// Returns the ring, and initialises it if necessary. `None` if the band was closed before its first use.
    #[inline]
    pub(super) fn get_or_init(&self, slots: usize, fence: Fence) -> Option<&BandRing<T>> {
        self.get().or_else(|| self.init(slots, fence))
    }

    #[cold]
    fn init(&self, slots: usize, fence: Fence) -> Option<&BandRing<T>> {
        if self.ring.load(Ordering::Relaxed) == closed_sentinel() {
            return None;
        }
        // The mailbox checked at its creation that this much memory is available. If it is not any more, the process is out of memory, as
        // for any other allocation.
        let ring = Ring::new(slots).unwrap_or_else(|_| handle_alloc_error(Layout::new::<T>()));
        let ring = Box::into_raw(Box::new(BandRing { ring, senders: Senders(WaitList::new(fence)) }));
        // SYNC POINT: band publish
        // Release: pairs with the acquire load in `get`; publishes the ring. Acquire: if another thread was first, its ring is initialised
        // here too.
        match self.ring.compare_exchange(core::ptr::null_mut(), ring, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: the pointer was just created by `Box::into_raw`, and the mailbox owns it from now on.
            Ok(_) => Some(unsafe { &*ring }),
            Err(_) => {
                // SAFETY: the pointer was just created by `Box::into_raw`, and the failed compare-exchange did not publish it.
                drop(unsafe { Box::from_raw(ring) });
                self.get()
            }
        }
    }

    /// Returns whether the band is closed.
    pub(super) fn is_closed(&self) -> bool {
        match self.get() {
            Some(ring) => ring.is_closed(),
            None => self.ring.load(Ordering::Acquire) == closed_sentinel(),
        }
    }

    /// Closes the band: nothing more is accepted, even if the band was never initialised.
    pub(super) fn close(&self) {
        let closed_before_init = self.ring.compare_exchange(
            core::ptr::null_mut(),
            closed_sentinel(),
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        if closed_before_init.is_err()
            && let Some(ring) = self.get()
        {
            ring.close();
            // SYNC POINT: half-free wake-up (notifier): the band is closed; every sender is woken.
            ring.senders().notify_all();
        }
    }

    /// Pops the oldest value.
    ///
    /// # Safety
    ///
    /// `locking` is false only in calls by the owner of the receiver, and only in a mailbox without `drop_oldest`.
    #[inline]
    pub(super) unsafe fn try_pop(&self, locking: bool, prefetcher: &mut ReadPrefetcher) -> Option<T> {
        let ring = self.get()?;
        if locking {
            return self.try_pop_locked(ring);
        }
        // SAFETY: by the contract of this function, only the receiver pops from this ring.
        unsafe { ring.try_pop(prefetcher) }
    }

    /// Called by the receiver of a mailbox without `drop_oldest`, after it found no value. See [`Pacer`].
    #[inline]
    pub(super) fn found_empty(&self, pacer: &mut Pacer) -> bool {
        self.get().is_some_and(|ring| ring.found_empty(pacer))
    }

    fn try_pop_locked(&self, ring: &BandRing<T>) -> Option<T> {
        // SYNC POINT: pop lock
        // Acquire: pairs with the release store of 0 below; orders the pops of different threads.
        while self.pop_lock.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // The lock is held for a few instructions. Yield, in case its holder was preempted.
            spin_or_yield();
        }
        // SAFETY: this thread holds the lock, and every pop of a drop-oldest mailbox takes it.
        let value = unsafe { ring.try_pop(&mut ReadPrefetcher::default()) };
        // SYNC POINT: pop lock
        // Release: pairs with the acquire compare-exchange above.
        self.pop_lock.store(0, Ordering::Release);
        value
    }
}

pub(super) fn spin_or_yield() {
    #[cfg(feature = "std")]
    crate::sync::yield_now();
    spin_loop();
}

impl<T> Drop for LazyBand<T> {
    fn drop(&mut self) {
        let ring = self.ring.load(Ordering::Acquire);
        if !ring.is_null() && ring != closed_sentinel() {
            // SAFETY: the pointer came from `Box::into_raw`, and `&mut self` excludes all other users.
            drop(unsafe { Box::from_raw(ring) });
        }
    }
}
