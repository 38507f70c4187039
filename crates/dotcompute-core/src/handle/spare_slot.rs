//! A cache for one idle reply slot, so that consecutive asks of a handle allocate nothing.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicPtr, Ordering};

use dotcompute_ring::reply::ReplySlot;

use crate::envelope::ReplyResult;

/// Holds at most one idle reply slot. Threads that share a handle share it.
pub(super) struct SpareSlot<O>(AtomicPtr<()>, PhantomData<ReplySlot<ReplyResult<O>>>);

impl<O> SpareSlot<O> {
    pub(super) const fn empty() -> Self {
        Self(AtomicPtr::new(std::ptr::null_mut()), PhantomData)
    }

    #[inline]
    pub(super) fn take(&self) -> ReplySlot<ReplyResult<O>> {
        // Acquire: pairs with the release in `put`; makes the slot's content visible.
        let raw = self.0.swap(std::ptr::null_mut(), Ordering::Acquire);
        if raw.is_null() {
            return ReplySlot::new();
        }
        // SAFETY: only `put` stores non-null pointers here, each from `ReplySlot::into_raw` with the same type parameter. The swap removed
        // the pointer, so no other thread can take it: this call owns the slot.
        unsafe { ReplySlot::from_raw(raw.cast()) }
    }

    #[inline]
    pub(super) fn put(&self, slot: ReplySlot<ReplyResult<O>>) {
        // Release: pairs with the acquire in `take`. Acquire: the old slot, if any, is dropped here.
        let old = self.0.swap(slot.into_raw().cast(), Ordering::AcqRel);
        if !old.is_null() {
            // SAFETY: `old` was stored by another `put` and removed by the swap, as in `take`. One spare slot is enough, so it is freed.
            drop(unsafe { ReplySlot::<ReplyResult<O>>::from_raw(old.cast()) });
        }
    }
}

impl<O> Drop for SpareSlot<O> {
    fn drop(&mut self) {
        let raw = *self.0.get_mut();
        if !raw.is_null() {
            // SAFETY: stored by `put`, as in `take`; `&mut self` excludes other threads.
            drop(unsafe { ReplySlot::<ReplyResult<O>>::from_raw(raw.cast()) });
        }
    }
}
