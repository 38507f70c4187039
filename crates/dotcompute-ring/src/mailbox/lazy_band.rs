//! One priority band of a mailbox, whose ring is created at its first use.

use alloc::boxed::Box;
use core::ptr::NonNull;

use crate::mpsc::Ring;
use crate::prefetch::ReadPrefetcher;
use crate::sync::{AtomicPtr, AtomicU32, Ordering, spin_loop};

/// One band: not made yet (null), made, or closed before it was made ([`closed_sentinel`]).
pub(super) struct LazyBand<T> {
    pub(super) ring: AtomicPtr<Ring<T>>,
    /// Held for one pop, and only in evicting mailboxes. There, taking the oldest value is for the receiver and for full-handed
    /// senders; two consumers without a lock would need a second writer to the slots' words, in every ring, to serve the few that evict.
    pop_lock: AtomicU32,
}

/// A place that no ring can be at: the mark of a band closed before its first use.
fn closed_sentinel<T>() -> *mut Ring<T> {
    NonNull::dangling().as_ptr()
}

impl<T> LazyBand<T> {
    pub(super) fn new() -> Self {
        Self { ring: AtomicPtr::new(core::ptr::null_mut()), pop_lock: AtomicU32::new(0) }
    }

    /// The ring, if it has been made.
    #[inline]
    pub(super) fn get(&self) -> Option<&Ring<T>> {
        // Acquire: pairs with the release that put it here.
        let ring = self.ring.load(Ordering::Acquire);
        if ring.is_null() || ring == closed_sentinel() {
            return None;
        }
        // SAFETY: neither null nor the mark, so it is a ring from `Box::into_raw`, freed only when the mailbox is.
        Some(unsafe { &*ring })
    }

    /// The ring, made now if it has to be. `Err` if the band is closed, `Ok(None)` if there is no memory for it.
    #[inline]
    pub(super) fn get_or_init(&self, slots: usize) -> Result<Option<&Ring<T>>, ()> {
        match self.get() {
            Some(ring) => Ok(Some(ring)),
            None => self.init(slots),
        }
    }

    #[cold]
    fn init(&self, slots: usize) -> Result<Option<&Ring<T>>, ()> {
        if self.ring.load(Ordering::Relaxed) == closed_sentinel() {
            return Err(());
        }
        let Ok(ring) = Ring::new(slots) else { return Ok(None) };
        let ring = Box::into_raw(Box::new(ring));
        // Release: whoever finds the ring finds it initialised. Acquire: so does this thread, if another was quicker.
        match self.ring.compare_exchange(core::ptr::null_mut(), ring, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just made, and now owned by the mailbox.
            Ok(_) => Ok(Some(unsafe { &*ring })),
            Err(current) => {
                // SAFETY: just made here, and nobody else has seen it.
                drop(unsafe { Box::from_raw(ring) });
                if current == closed_sentinel() { Err(()) } else { Ok(self.get()) }
            }
        }
    }

    /// From now on nothing is accepted, also if the band was never made.
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
        }
    }

    /// Takes the oldest value.
    ///
    /// # Safety
    ///
    /// Only the receiver's owner calls this with `locking` false, and only in a mailbox that does not evict.
    #[inline]
    pub(super) unsafe fn try_pop(&self, locking: bool, prefetcher: &mut ReadPrefetcher) -> Option<T> {
        let ring = self.get()?;
        if locking {
            return self.try_pop_locked(ring);
        }
        // SAFETY: the one receiver is the only one who pops, by the contract above.
        unsafe { ring.try_pop(prefetcher) }
    }

    fn try_pop_locked(&self, ring: &Ring<T>) -> Option<T> {
        // Acquire and release order the pops of different threads.
        while self.pop_lock.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // Held for a few instructions; should its holder have lost its core, this one is better given to it.
            spin_or_yield();
        }
        // SAFETY: the lock is held, and in a mailbox that evicts everybody takes it.
        let value = unsafe { ring.try_pop(&mut ReadPrefetcher::default()) };
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
            // SAFETY: from `Box::into_raw`, and `&mut self`: nobody uses it any more.
            drop(unsafe { Box::from_raw(ring) });
        }
    }
}
