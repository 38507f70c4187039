//! Spare slot.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering};

use dotcompute_ring::reply::ReplySlot;

use crate::envelope::Answer;

/// A place for one idle reply slot, shared by the threads that share a handle.
pub(super) struct SpareSlot<O>(AtomicPtr<()>, PhantomData<ReplySlot<Answer<O>>>);

impl<O> SpareSlot<O> {
    pub(super) const fn empty() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()), PhantomData)
    }

    #[inline]
    pub(super) fn take(&self) -> ReplySlot<Answer<O>> {
        // Acquire: pairs with the release in `give`, so that the slot's content is seen.
        let raw = self.0.swap(std::ptr::null_mut(), Ordering::Acquire);
        if raw.is_null() {
            return ReplySlot::new();
        }
        // SAFETY: every non-null pointer in this place was put there by `give`, from `into_raw` of a slot of this very type
        // (the type parameter is the place's own), and the swap has taken it out, so it is owned here alone.
        unsafe { ReplySlot::from_raw(raw.cast()) }
    }

    #[inline]
    pub(super) fn give(&self, slot: ReplySlot<Answer<O>>) {
        let old = self.0.swap(slot.into_raw().cast(), Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: as in `take`. Another thread's slot was here; one spare is enough.
            drop(unsafe { ReplySlot::<Answer<O>>::from_raw(old.cast()) });
        }
    }
}

impl<O> Drop for SpareSlot<O> {
    fn drop(&mut self) {
        let raw = *self.0.get_mut();
        if !raw.is_null() {
            // SAFETY: as in `take`; `&mut self` shows that nobody else uses the place.
            drop(unsafe { ReplySlot::<Answer<O>>::from_raw(raw.cast()) });
        }
    }
}
