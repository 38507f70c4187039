//! The handler's end of a reply slot.

use core::ptr::NonNull;

use super::{ABANDONED, ARMED, Cell, DROPPED, LOCKED, REPLIED, WAKER};
use crate::sync::Ordering;

/// The handler's end, good for one reply. Dropping it without a reply reports [`ReplyDropped`](super::ReplyDropped) to the caller.
pub struct ReplySender<T> {
    pub(super) cell: NonNull<Cell<T>>,
}

// SAFETY: the sender moves a `T` to the caller's thread, by the protocol of the state word.
unsafe impl<T: Send> Send for ReplySender<T> {}
// SAFETY: a shared reference to a sender gives access to the state word only, which is atomic.
unsafe impl<T: Send> Sync for ReplySender<T> {}

impl<T> ReplySender<T> {
    /// Sends the reply.
    ///
    /// # Errors
    ///
    /// Returns the value if the caller has abandoned the request.
    #[inline]
    pub fn send(self, value: T) -> Result<(), T> {
        let cell = self.cell;
        core::mem::forget(self);
        // SAFETY: the caller does not free the cell before the sender completes, and the value belongs to the sender until then.
        unsafe { cell.as_ref() }.value.with_mut(|storage| unsafe { (*storage).write(value) });
        if Self::complete(cell, REPLIED) {
            return Ok(());
        }
        // SAFETY: `complete` found the cell abandoned, so it belongs to the sender. The value was written above.
        let value = unsafe { cell.as_ref() }.value.with(|storage| unsafe { (*storage).assume_init_read() });
        // SAFETY: the cell belongs to the sender, and its value was moved out.
        unsafe { Cell::free(cell) };
        Err(value)
    }

    /// Returns whether the caller still waits, for handlers that have yet to compute the reply. May change at any moment.
    #[inline]
    #[must_use]
    pub fn caller_is_waiting(&self) -> bool {
        // SAFETY: the cell is alive until the sender completes, which consumes the sender.
        let cell = unsafe { self.cell.as_ref() };
        // Relaxed: only a hint.
        cell.state.load(Ordering::Relaxed) != ABANDONED
    }

    /// Moves the cell to `outcome`. False if the caller has abandoned it: the cell then belongs to this function's caller. After true it
    /// must not be touched.
    #[inline]
    fn complete(cell: NonNull<Cell<T>>, outcome: u32) -> bool {
        // SAFETY: the cell is alive until the sender completes.
        let state = unsafe { &cell.as_ref().state };
        // SYNC POINT: reply complete
        // Release: pairs with the acquire in `ReplySlot::try_take` and `abandon`; publishes the value.
        match state.compare_exchange(ARMED, outcome, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => true,
            Err(_) => Self::complete_and_wake(cell, outcome),
        }
    }

    #[cold]
    fn complete_and_wake(cell: NonNull<Cell<T>>, outcome: u32) -> bool {
        loop {
            // SAFETY: the cell is alive until the sender completes; this borrow ends before that.
            let this = unsafe { cell.as_ref() };
            // SYNC POINT: reply abandon
            // Acquire: pairs with the AcqRel swap in `ReplySlot::abandon`; the caller accesses the cell no more.
            match this.state.load(Ordering::Acquire) {
                ABANDONED => return false,
                WAKER => {
                    // SYNC POINT: reply waker
                    // Acquire: pairs with the release compare-exchange in `ReplySlot::poll_take`; the waker is visible.
                    if this
                        .state
                        .compare_exchange(WAKER, LOCKED, Ordering::Acquire, Ordering::Relaxed)
                        .is_err()
                    {
                        continue;
                    }
                    // SAFETY: in the locked state the waker belongs to the sender.
                    let waker = this.waker.with_mut(|waker| unsafe { (*waker).take() });
                    // SYNC POINT: reply complete
                    // SYNC POINT: reply abandon
                    // AcqRel: release as in `complete`; acquire pairs with the swap in `abandon`, if the caller has abandoned the cell since the load.
                    if this.state.swap(outcome, Ordering::AcqRel) == ABANDONED {
                        return false;
                    }
                    // The caller may have freed the cell by now; the waker was moved out of it.
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    return true;
                }
                // The caller took its waker back to poll once more.
                _ => {
                    // SYNC POINT: reply complete
                    // Release: as in `complete`.
                    if this
                        .state
                        .compare_exchange(ARMED, outcome, Ordering::Release, Ordering::Relaxed)
                        .is_ok()
                    {
                        return true;
                    }
                }
            }
        }
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        if !Self::complete(self.cell, DROPPED) {
            // SAFETY: `complete` found the cell abandoned and no value was written, so the sender frees it.
            unsafe { Cell::free(self.cell) };
        }
    }
}
