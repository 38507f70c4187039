//! One priority band of a mailbox, whose ring is created at its first use.

use alloc::boxed::Box;
use core::ptr::NonNull;

use crate::mpsc::Ring;
use crate::prefetch::ReadAhead;
use crate::sync::{AtomicPtr, AtomicU32, Ordering, spin_loop};

/// One band: not made yet (null), made, or closed before it was made ([`never`]).
pub(super) struct BandCell<T> {
    pub(super) ring: AtomicPtr<Ring<T>>,
    /// Held for one pop, and only in evicting mailboxes. There, taking the oldest value is for the receiver and for full-handed
    /// senders; two consumers without a lock would need a second writer to the slots' words, in every ring, to serve the few that evict.
    popping: AtomicU32,
}

/// A place that no ring can be at: the mark of a band closed before its first use.
fn never<T>() -> *mut Ring<T> {
    NonNull::dangling().as_ptr()
}

impl<T> BandCell<T> {
    pub(super) fn new() -> Self {
        Self { ring: AtomicPtr::new(core::ptr::null_mut()), popping: AtomicU32::new(0) }
    }

    /// The ring, if it has been made.
    #[inline]
    pub(super) fn made(&self) -> Option<&Ring<T>> {
        // Acquire: pairs with the release that put it here.
        let ring = self.ring.load(Ordering::Acquire);
        if ring.is_null() || ring == never() {
            return None;
        }
        // SAFETY: neither null nor the mark, so it is a ring from `Box::into_raw`, freed only when the mailbox is.
        Some(unsafe { &*ring })
    }

    /// The ring, made now if it has to be. `Err` if the band is closed, `Ok(None)` if there is no memory for it.
    #[inline]
    pub(super) fn get_or_make(&self, slots: usize) -> Result<Option<&Ring<T>>, ()> {
        match self.made() {
            Some(ring) => Ok(Some(ring)),
            None => self.make(slots),
        }
    }

    #[cold]
    fn make(&self, slots: usize) -> Result<Option<&Ring<T>>, ()> {
        if self.ring.load(Ordering::Relaxed) == never() {
            return Err(());
        }
        let Ok(ring) = Ring::new(slots) else { return Ok(None) };
        let ring = Box::into_raw(Box::new(ring));
        // Release: whoever finds the ring finds it initialised. Acquire: so does this thread, if another was quicker.
        match self.ring.compare_exchange(core::ptr::null_mut(), ring, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just made, and now owned by the mailbox.
            Ok(_) => Ok(Some(unsafe { &*ring })),
            Err(present) => {
                // SAFETY: just made here, and nobody else has seen it.
                drop(unsafe { Box::from_raw(ring) });
                if present == never() { Err(()) } else { Ok(self.made()) }
            }
        }
    }

    /// From now on nothing is accepted, also if the band was never made.
    pub(super) fn close(&self) {
        let closed_unmade =
            self.ring.compare_exchange(core::ptr::null_mut(), never(), Ordering::AcqRel, Ordering::Acquire);
        if closed_unmade.is_err()
            && let Some(ring) = self.made()
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
    pub(super) unsafe fn try_pop(&self, locking: bool, read_ahead: &mut ReadAhead) -> Option<T> {
        let ring = self.made()?;
        if locking {
            return self.try_pop_locked(ring);
        }
        // SAFETY: the one receiver is the only one who pops, by the contract above.
        unsafe { ring.try_pop(read_ahead) }
    }

    fn try_pop_locked(&self, ring: &Ring<T>) -> Option<T> {
        // Acquire and release order the pops of different threads.
        while self.popping.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            // Held for a few instructions; should its holder have lost its core, this one is better given to it.
            give_way();
        }
        // SAFETY: the lock is held, and in a mailbox that evicts everybody takes it.
        let value = unsafe { ring.try_pop(&mut ReadAhead::default()) };
        self.popping.store(0, Ordering::Release);
        value
    }
}

pub(super) fn give_way() {
    #[cfg(feature = "std")]
    crate::sync::yield_now();
    spin_loop();
}

impl<T> Drop for BandCell<T> {
    fn drop(&mut self) {
        let ring = self.ring.load(Ordering::Acquire);
        if !ring.is_null() && ring != never() {
            // SAFETY: from `Box::into_raw`, and `&mut self`: nobody uses it any more.
            drop(unsafe { Box::from_raw(ring) });
        }
    }
}
