//! The handler's end of a reply slot.

use core::ptr::NonNull;

use super::{ABANDONED, ARMED, Cell, DROPPED, LOCKED, REPLIED, WAKER};
use crate::sync::Ordering;

/// The replier's end: good for one answer. Dropped without one, it tells the asker so.
pub struct ReplySender<T> {
    pub(super) cell: NonNull<Cell<T>>,
}

// SAFETY: as for `ReplySlot`.
unsafe impl<T: Send> Send for ReplySender<T> {}
// SAFETY: through a shared replier only the state word, an atomic, can be looked at.
unsafe impl<T: Send> Sync for ReplySender<T> {}

impl<T> ReplySender<T> {
    /// Answers.
    ///
    /// # Errors
    ///
    /// The value comes back if the asker has given up.
    #[inline]
    pub fn send(self, value: T) -> Result<(), T> {
        let cell = self.cell;
        core::mem::forget(self);
        // SAFETY: the asker cannot free the cell before it is answered; the value is the replier's until then.
        unsafe { cell.as_ref() }.value.with_mut(|storage| unsafe { (*storage).write(value) });
        if Self::complete(cell, REPLIED) {
            return Ok(());
        }
        // SAFETY: the asker has gone and the cell is the replier's alone; the value was written above.
        let value = unsafe { cell.as_ref() }.value.with(|storage| unsafe { (*storage).assume_init_read() });
        // SAFETY: as above; the value has been taken out.
        unsafe { Cell::free(cell) };
        Err(value)
    }

    /// Whether the answer is still wanted, for those who have to compute it first. May change at any moment.
    #[inline]
    #[must_use]
    pub fn caller_is_waiting(&self) -> bool {
        // SAFETY: alive until concluded, and concluding takes the replier.
        let cell = unsafe { self.cell.as_ref() };
        // Relaxed: only a hint.
        cell.state.load(Ordering::Relaxed) != ABANDONED
    }

    /// Ends the question with `outcome`. False if the asker has gone: the cell is then the caller's. After true it must not be touched.
    #[inline]
    fn complete(cell: NonNull<Cell<T>>, outcome: u32) -> bool {
        // SAFETY: alive until concluded.
        let state = unsafe { &cell.as_ref().state };
        // Release: the asker that sees the outcome sees the value.
        match state.compare_exchange(ARMED, outcome, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => true,
            Err(_) => Self::complete_and_wake(cell, outcome),
        }
    }

    #[cold]
    fn complete_and_wake(cell: NonNull<Cell<T>>, outcome: u32) -> bool {
        loop {
            // SAFETY: alive until concluded; this borrow ends before that.
            let this = unsafe { cell.as_ref() };
            match this.state.load(Ordering::Acquire) {
                ABANDONED => return false,
                WAKER => {
                    if this
                        .state
                        .compare_exchange(WAKER, LOCKED, Ordering::Acquire, Ordering::Relaxed)
                        .is_err()
                    {
                        continue;
                    }
                    // SAFETY: in the locked state the waker is the replier's.
                    let waker = this.waker.with_mut(|waker| unsafe { (*waker).take() });
                    // AcqRel: as in `complete`, and an asker that went away meanwhile is seen.
                    if this.state.swap(outcome, Ordering::AcqRel) == ABANDONED {
                        return false;
                    }
                    // The cell may be gone by now; the waker is ours.
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                    return true;
                }
                // The asker took its waker back to look once more.
                _ => {
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
            // SAFETY: the asker has gone and no value was written: the cell is the replier's alone.
            unsafe { Cell::free(self.cell) };
        }
    }
}
