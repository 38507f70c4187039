//! A way back for one answer: request and response in one hand-over of a cache line, with no allocation and no reference count.
//!
//! A [`ReplySlot`] belongs to the asker and is used for one question after another. Arming it gives the [`ReplySender`] that travels with
//! the question. Both are a pointer to one cell, whose state word says who may touch what:
//!
//! | state | value | waker | left by |
//! | --- | --- | --- | --- |
//! | idle | nobody | asker | asker: arms |
//! | armed | replier | asker | replier: answers; asker: registers a waker or abandons |
//! | waker | replier | nobody | replier: locks; asker: takes it back or abandons |
//! | locked | replier | replier | replier: answers; asker: abandons |
//! | answered, dropped | asker | asker | asker: takes |
//! | abandoned | replier | replier | replier: frees the cell |
//!
//! The replier answers with one compare-exchange and never touches the cell after it; whoever leaves last frees it.
//!
//! ```
//! use dotcompute_ring::reply::ReplySlot;
//!
//! let mut slot = ReplySlot::new();
//! let sender = slot.arm();
//! assert!(slot.try_take().is_none());
//! std::thread::spawn(move || sender.send(42)).join().unwrap().unwrap();
//! assert_eq!(slot.try_take(), Some(Ok(42)));
//! ```

mod sender;

use alloc::boxed::Box;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::task::{Context, Poll, Waker};

use crate::sync::{AtomicU32, Ordering, UnsafeCell};
#[cfg(all(feature = "std", not(loom)))]
use crate::wait::{WaitStrategy, spin_then_park};

pub use sender::ReplySender;

const IDLE: u32 = 0;
const ARMED: u32 = 1;
const WAKER: u32 = 2;
const LOCKED: u32 = 3;
const REPLIED: u32 = 4;
const DROPPED: u32 = 5;
const ABANDONED: u32 = 6;

/// The state comes first and the waker last, so that state and a small answer share a line.
#[repr(C, align(128))]
struct Cell<T> {
    state: AtomicU32,
    value: UnsafeCell<MaybeUninit<T>>,
    waker: UnsafeCell<Option<Waker>>,
}

impl<T> Cell<T> {
    fn allocate() -> NonNull<Self> {
        NonNull::from(Box::leak(Box::new(Self {
            state: AtomicU32::new(IDLE),
            value: UnsafeCell::new(MaybeUninit::uninit()),
            waker: UnsafeCell::new(None),
        })))
    }

    /// Frees a cell; its value, if any, has been taken out.
    ///
    /// # Safety
    ///
    /// The cell came from `allocate`, and the caller is the only one that still knows it.
    unsafe fn free(cell: NonNull<Self>) {
        // SAFETY: by the contract above.
        drop(unsafe { Box::from_raw(cell.as_ptr()) });
    }
}

/// The replier went away without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the question was dropped without an answer")]
pub struct ReplyDropped;

/// The asker's end.
pub struct ReplySlot<T> {
    /// Made at the first arming, and anew after one was abandoned.
    cell: Option<NonNull<Cell<T>>>,
}

// SAFETY: the slot hands values of `T` from the replier's thread to the asker's, by the protocol above.
unsafe impl<T: Send> Send for ReplySlot<T> {}
// SAFETY: through a shared slot only the state word, an atomic, can be looked at.
unsafe impl<T: Send> Sync for ReplySlot<T> {}

impl<T> ReplySlot<T> {
    /// An idle slot. Allocates nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { cell: None }
    }

    /// Makes the way back for one answer. An answer that was not taken, or is still on its way, is given up.
    #[inline]
    pub fn arm(&mut self) -> ReplySender<T> {
        if let Some(cell) = self.cell {
            // SAFETY: the asker has not abandoned the cell, so it is alive.
            if unsafe { cell.as_ref() }.state.load(Ordering::Relaxed) != IDLE {
                self.abandon();
            }
        }
        let cell = *self.cell.get_or_insert_with(Cell::allocate);
        // Relaxed: the replier gets to know the cell by whatever carries it, which publishes this store too.
        // SAFETY: alive, as above, or just made.
        unsafe { cell.as_ref() }.state.store(ARMED, Ordering::Relaxed);
        ReplySender { cell }
    }

    /// The answer, or that there will be none; `None` while it is open, or if nothing was asked.
    #[inline]
    pub fn try_take(&mut self) -> Option<Result<T, ReplyDropped>> {
        let cell = self.cell?;
        // SAFETY: not abandoned by the asker, so alive.
        let cell = unsafe { cell.as_ref() };
        // Acquire: pairs with the replier's release, so that the value is seen.
        match cell.state.load(Ordering::Acquire) {
            REPLIED => {
                // SAFETY: in the answered state the value is there and the asker's; leaving the state makes it unreachable.
                let value = cell.value.with(|value| unsafe { (*value).assume_init_read() });
                cell.state.store(IDLE, Ordering::Relaxed);
                Some(Ok(value))
            }
            DROPPED => {
                cell.state.store(IDLE, Ordering::Relaxed);
                Some(Err(ReplyDropped))
            }
            _ => None,
        }
    }

    /// As [`try_take`](Self::try_take), but arranges for the task to be woken by the answer.
    ///
    /// Stays pending if nothing was asked.
    pub fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, ReplyDropped>> {
        loop {
            if let Some(reply) = self.try_take() {
                return Poll::Ready(reply);
            }
            let Some(cell) = self.cell else { return Poll::Pending };
            // SAFETY: as in `try_take`.
            let cell = unsafe { cell.as_ref() };
            match cell.state.load(Ordering::Relaxed) {
                ARMED => {
                    cell.waker.with_mut(|waker| {
                        // SAFETY: in the armed state the waker is the asker's.
                        let waker = unsafe { &mut *waker };
                        if !waker.as_ref().is_some_and(|current| current.will_wake(cx.waker())) {
                            *waker = Some(cx.waker().clone());
                        }
                    });
                    // Release: the replier that locks it sees the waker. If the answer came first, look again.
                    if cell.state.compare_exchange(ARMED, WAKER, Ordering::Release, Ordering::Relaxed).is_ok()
                    {
                        return Poll::Pending;
                    }
                }
                // Taken back, to be replaced above. Relaxed: only the asker has written the waker so far.
                WAKER => {
                    let _ = cell.state.compare_exchange(WAKER, ARMED, Ordering::Relaxed, Ordering::Relaxed);
                }
                // The replier is between two instructions of its answer, and wakes the task that was here last; this one may be another.
                // Not waited for, since the replier may just have lost its core.
                LOCKED => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                IDLE => return Poll::Pending,
                // Answered or dropped since `try_take` looked.
                _ => {}
            }
        }
    }

    /// Waits for the answer on this thread. None when the deadline has passed first: the question is then still open, to be waited for
    /// again or [abandoned](Self::abandon).
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    /// use dotcompute_ring::reply::{ReplyDropped, ReplySlot};
    /// use dotcompute_ring::wait::WaitStrategy;
    ///
    /// let mut slot = ReplySlot::<u64>::new();
    /// let sender = slot.arm();
    /// let soon = Some(Instant::now() + Duration::from_millis(1));
    /// assert_eq!(slot.wait(WaitStrategy::Adaptive, soon), None);
    /// std::thread::spawn(move || drop(sender));
    /// assert_eq!(slot.wait(WaitStrategy::Adaptive, None), Some(Err(ReplyDropped)));
    /// ```
    #[cfg(all(feature = "std", not(loom)))]
    #[inline]
    pub fn wait(
        &mut self,
        strategy: WaitStrategy,
        deadline: Option<std::time::Instant>,
    ) -> Option<Result<T, ReplyDropped>> {
        spin_then_park(strategy, deadline, |cx| match cx {
            None => self.try_take().map_or(Poll::Pending, Poll::Ready),
            Some(cx) => self.poll_take(cx),
        })
    }

    /// Gives up an answer that is still open. The replier finds out when it answers.
    pub fn abandon(&mut self) {
        let Some(cell) = self.cell.take() else { return };
        // SAFETY: as in `try_take`.
        let state = unsafe { cell.as_ref() }.state.swap(ABANDONED, Ordering::AcqRel);
        match state {
            // Still open: the cell is the replier's now.
            ARMED | WAKER | LOCKED => {}
            _ => {
                if state == REPLIED {
                    // SAFETY: answered: the value is there, and the asker's alone.
                    unsafe { cell.as_ref() }.value.with_mut(|value| unsafe { (*value).assume_init_drop() });
                }
                // SAFETY: the replier is done with the cell (or there was none), so only the asker knows it.
                unsafe { Cell::free(cell) };
            }
        }
    }

    /// Whether a question is open.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        // SAFETY: as in `try_take`.
        self.cell.is_some_and(|cell| unsafe { cell.as_ref() }.state.load(Ordering::Relaxed) != IDLE)
    }

    /// The slot as a pointer, to be kept where a type cannot; null if there is nothing to keep. An open question is given up.
    #[inline]
    #[must_use]
    pub fn into_raw(mut self) -> *mut () {
        if self.is_armed() {
            self.abandon();
        }
        // Taken out, so that dropping `self` does nothing.
        self.cell.take().map_or(core::ptr::null_mut(), |cell| cell.as_ptr().cast())
    }

    /// The slot that was made a pointer.
    ///
    /// # Safety
    ///
    /// `raw` came from [`into_raw`](Self::into_raw) of a slot of the same type, and is used only once.
    #[inline]
    #[must_use]
    pub unsafe fn from_raw(raw: *mut ()) -> Self {
        Self { cell: NonNull::new(raw.cast()) }
    }
}

impl<T> Default for ReplySlot<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for ReplySlot<T> {
    fn drop(&mut self) {
        self.abandon();
    }
}

#[cfg(all(test, not(loom), feature = "std"))]
mod tests {
    use super::*;
    use alloc::sync::Arc;

    #[test]
    fn a_reply_is_taken_once_and_the_slot_is_reused() {
        let mut slot = ReplySlot::new();
        for round in 0..3 {
            let sender = slot.arm();
            assert!(slot.is_armed() && slot.try_take().is_none());
            sender.send(round).unwrap();
            assert_eq!(slot.try_take(), Some(Ok(round)));
            assert!(slot.try_take().is_none() && !slot.is_armed());
        }
    }

    #[test]
    fn a_dropped_sender_is_reported() {
        let mut slot = ReplySlot::<u8>::new();
        drop(slot.arm());
        assert_eq!(slot.try_take(), Some(Err(ReplyDropped)));
    }

    #[test]
    fn values_are_dropped_exactly_once_in_every_order() {
        let value = Arc::new(());
        let mut slot = ReplySlot::new();
        // Answered and taken; answered and not taken; abandoned before the answer; armed again over an open question.
        slot.arm().send(Arc::clone(&value)).unwrap();
        drop(slot.try_take());
        slot.arm().send(Arc::clone(&value)).unwrap();
        let sender = slot.arm();
        slot.abandon();
        assert!(sender.send(Arc::clone(&value)).is_err());
        let late = slot.arm();
        let next = slot.arm();
        assert!(late.send(Arc::clone(&value)).is_err());
        next.send(Arc::clone(&value)).unwrap();
        drop(slot);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    #[test]
    fn each_end_is_one_pointer() {
        assert_eq!(size_of::<Option<ReplySender<[u64; 8]>>>(), 8);
        assert_eq!(size_of::<ReplySlot<[u64; 8]>>(), 8);
    }

    #[test]
    fn a_sender_sees_that_its_caller_has_abandoned() {
        let mut slot = ReplySlot::new();
        let sender = slot.arm();
        assert!(sender.caller_is_waiting());
        slot.abandon();
        assert!(!sender.caller_is_waiting());
        assert_eq!(sender.send(1), Err(1));
    }

    #[test]
    fn an_idle_slot_becomes_a_pointer_and_a_busy_one_null() {
        assert!(ReplySlot::<u8>::new().into_raw().is_null());
        let mut slot = ReplySlot::new();
        slot.arm().send(1).unwrap();
        assert_eq!(slot.try_take(), Some(Ok(1)));
        let raw = slot.into_raw();
        assert!(!raw.is_null());
        // SAFETY: from `into_raw` of a slot of the same type, and used once.
        let mut slot = unsafe { ReplySlot::<i32>::from_raw(raw) };
        let sender = slot.arm();
        assert!(slot.into_raw().is_null());
        assert_eq!(sender.send(2), Err(2));
    }

    #[test]
    fn a_waker_that_changes_between_polls_is_the_one_woken() {
        struct Flag(AtomicU32);
        impl alloc::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let [first, second] = [(); 2].map(|()| Arc::new(Flag(AtomicU32::new(0))));
        let mut slot = ReplySlot::new();
        let sender = slot.arm();
        for flag in [&first, &second] {
            let waker = Waker::from(Arc::clone(flag));
            assert_eq!(slot.poll_take(&mut Context::from_waker(&waker)), Poll::Pending);
        }
        sender.send(7).unwrap();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
        assert_eq!(slot.try_take(), Some(Ok(7)));
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 1), "no waker is kept");
    }

    /// One slot, a replier on another thread that answers, drops, or finds the asker gone: every answer is for its own question.
    #[test]
    fn replies_match_their_requests_under_every_strategy() {
        const ROUNDS: u64 = if cfg!(miri) { 60 } else { 30_000 };
        let strategies = [WaitStrategy::Adaptive, WaitStrategy::Park, WaitStrategy::Spin];
        let (requests, inbox) = std::sync::mpsc::channel::<(u64, ReplySender<Box<u64>>)>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for (request, sender) in inbox {
                    if request % 5 == 0 {
                        drop(sender);
                    } else if let Err(back) = sender.send(Box::new(request)) {
                        assert_eq!(*back, request, "an answer that nobody takes comes back whole");
                    }
                }
            });
            let mut slot = ReplySlot::new();
            for request in 0..ROUNDS {
                requests.send((request, slot.arm())).unwrap();
                if request % 7 == 0 {
                    slot.abandon();
                    continue;
                }
                let reply = slot.wait(strategies[(request % 3) as usize], None).unwrap();
                let expected = if request % 5 == 0 { Err(ReplyDropped) } else { Ok(Box::new(request)) };
                assert_eq!(reply, expected);
            }
            drop(requests);
        });
    }
}
