//! One-shot reply channel with a reusable slot. A reply costs one cache-line transfer, no allocation and no reference count.
//!
//! A [`ReplySlot`] belongs to the caller and is used for one request after another. Arming it returns the [`ReplySender`] that travels with
//! the request. Both point to one cell. The cell's state word holds one of seven values; its other bits are zero. It says which side may
//! access the value and the waker:
//!
//! | state | value | access to the value | access to the waker | left by |
//! | --- | --- | --- | --- | --- |
//! | idle | 0 | none | caller | caller: arms |
//! | armed | 1 | sender | caller | sender: completes; caller: registers a waker or abandons |
//! | waker | 2 | sender | none | sender: locks; caller: takes the waker back or abandons |
//! | locked | 3 | sender | sender | sender: completes; caller: abandons |
//! | replied, dropped | 4, 5 | caller | caller | caller: takes |
//! | abandoned | 6 | sender | sender | sender: frees the cell |
//!
//! | transition | ordering | pair |
//! | --- | --- | --- |
//! | to replied or dropped | release | acquire in `try_take` and `abandon`: `SYNC POINT: reply complete` |
//! | armed to waker | release | acquire of waker to locked: `SYNC POINT: reply waker` |
//! | to abandoned | AcqRel | acquire load and AcqRel swap in the sender: `SYNC POINT: reply abandon` |
//!
//! The reply sender completes with one compare-exchange and does not touch the cell afterwards. If the caller has abandoned the cell, the
//! sender frees it; otherwise the reply slot does.
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

/// The state comes first and the waker last, so that the state and a small reply share a cache line.
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

    /// Frees a cell, whose value, if any, has been moved out.
    ///
    /// # Safety
    ///
    /// The cell came from `allocate`, and no other end uses it any more.
    unsafe fn free(cell: NonNull<Self>) {
        // SAFETY: by the contract of this function.
        drop(unsafe { Box::from_raw(cell.as_ptr()) });
    }
}

/// The sender was dropped without a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("waiting for a reply: the request was dropped without one; check why its handler did not reply")]
pub struct ReplyDropped;

/// The caller's end.
pub struct ReplySlot<T> {
    /// Allocated at the first arming, and again after an abandoned request.
    cell: Option<NonNull<Cell<T>>>,
}

// SAFETY: the slot moves a `T` from the sender's thread to the caller's, by the protocol of the state word.
unsafe impl<T: Send> Send for ReplySlot<T> {}
// SAFETY: a shared reference to a slot gives access to the state word only, which is atomic.
unsafe impl<T: Send> Sync for ReplySlot<T> {}

impl<T> ReplySlot<T> {
    /// Creates an idle slot. Allocates nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { cell: None }
    }

    /// Arms the slot for one request and returns its sender. Abandons a reply that is pending or was not taken.
    #[inline]
    pub fn arm(&mut self) -> ReplySender<T> {
        if let Some(cell) = self.cell {
            // SAFETY: the cell is alive, because only `abandon` gives it up, and that clears `self.cell`.
            if unsafe { cell.as_ref() }.state.load(Ordering::Relaxed) != IDLE {
                self.abandon();
            }
        }
        let cell = *self.cell.get_or_insert_with(Cell::allocate);
        // Relaxed: the request that carries the sender to another thread also publishes this store.
        // SAFETY: the cell is alive, as above, or was just allocated.
        unsafe { cell.as_ref() }.state.store(ARMED, Ordering::Relaxed);
        ReplySender { cell }
    }

    /// Takes the reply, or the error that there will be none. `None` while the reply is pending, or if the slot is idle.
    #[inline]
    pub fn try_take(&mut self) -> Option<Result<T, ReplyDropped>> {
        let cell = self.cell?;
        // SAFETY: the cell is alive, because only `abandon` gives it up, and that clears `self.cell`.
        let cell = unsafe { cell.as_ref() };
        // SYNC POINT: reply complete
        // Acquire: pairs with the release in `ReplySender::complete` and the AcqRel in `complete_and_wake`; the value is visible.
        match cell.state.load(Ordering::Acquire) {
            REPLIED => {
                // SAFETY: in the replied state the value is initialised and belongs to the caller. It is read once, because the next store
                // leaves that state.
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

    /// Like [`try_take`](Self::try_take), but registers the task to be woken by the reply.
    ///
    /// Stays pending if the slot is idle.
    pub fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, ReplyDropped>> {
        loop {
            if let Some(reply) = self.try_take() {
                return Poll::Ready(reply);
            }
            let Some(cell) = self.cell else { return Poll::Pending };
            // SAFETY: the cell is alive, as in `try_take`.
            let cell = unsafe { cell.as_ref() };
            match cell.state.load(Ordering::Relaxed) {
                ARMED => {
                    cell.waker.with_mut(|waker| {
                        // SAFETY: in the armed state the waker belongs to the caller.
                        let waker = unsafe { &mut *waker };
                        if !waker.as_ref().is_some_and(|current| current.will_wake(cx.waker())) {
                            *waker = Some(cx.waker().clone());
                        }
                    });
                    // SYNC POINT: reply waker
                    // Release: pairs with the acquire compare-exchange in `complete_and_wake`; publishes the waker. On failure the reply
                    // came first: poll again.
                    if cell.state.compare_exchange(ARMED, WAKER, Ordering::Release, Ordering::Relaxed).is_ok()
                    {
                        return Poll::Pending;
                    }
                }
                // Takes the waker back; the next iteration replaces it. Relaxed: only the caller has written the waker so far.
                WAKER => {
                    let _ = cell.state.compare_exchange(WAKER, ARMED, Ordering::Relaxed, Ordering::Relaxed);
                }
                // The sender is completing, and wakes the task that registered last, which may be another one. Schedule another poll
                // instead of spinning, because the sender may have been preempted.
                LOCKED => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                IDLE => return Poll::Pending,
                // Replied or dropped since `try_take` polled.
                _ => {}
            }
        }
    }

    /// Blocks this thread until the reply arrives. `None` if the deadline passes first: the request stays pending, to be waited for again
    /// or [abandoned](Self::abandon).
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

    /// Abandons a pending reply. Its sender gets the value back when it replies.
    pub fn abandon(&mut self) {
        let Some(cell) = self.cell.take() else { return };
        // SYNC POINT: reply abandon
        // AcqRel: acquire pairs with the release of a completed reply; release publishes the caller's last accesses to the sender, which
        // frees the cell.
        // SAFETY: the cell is alive, as in `try_take`.
        let state = unsafe { cell.as_ref() }.state.swap(ABANDONED, Ordering::AcqRel);
        match state {
            // Still pending: the sender owns the cell from now on.
            ARMED | WAKER | LOCKED => {}
            _ => {
                if state == REPLIED {
                    // SAFETY: in the replied state the value is initialised and belongs to the caller.
                    unsafe { cell.as_ref() }.value.with_mut(|value| unsafe { (*value).assume_init_drop() });
                }
                // SAFETY: the sender has completed, or there was none, so no other end uses the cell.
                unsafe { Cell::free(cell) };
            }
        }
    }

    /// Returns whether the slot is armed: a reply is pending or was not taken.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        // SAFETY: the cell is alive, as in `try_take`.
        self.cell.is_some_and(|cell| unsafe { cell.as_ref() }.state.load(Ordering::Relaxed) != IDLE)
    }

    /// Converts the slot to a pointer, for storage that has no type parameter. Null if there is no cell to keep. Abandons a pending
    /// request.
    #[inline]
    #[must_use]
    pub fn into_raw(mut self) -> *mut () {
        if self.is_armed() {
            self.abandon();
        }
        // Taken, so that dropping `self` does nothing.
        self.cell.take().map_or(core::ptr::null_mut(), |cell| cell.as_ptr().cast())
    }

    /// Converts a pointer back to a slot.
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
        // Replied and taken; replied and not taken; abandoned before the reply; armed again while a reply is pending.
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
        assert_eq!(
            (Arc::strong_count(&first), Arc::strong_count(&second)),
            (1, 1),
            "the cell holds no waker"
        );
    }

    /// One slot; the sender on another thread replies, is dropped, or finds the slot abandoned. Every reply belongs to its own request.
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
                        assert_eq!(*back, request, "an abandoned reply is returned whole");
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
