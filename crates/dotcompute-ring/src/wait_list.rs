//! Waking all tasks that wait for a free slot, for an output or for a change of state.

use alloc::collections::VecDeque;
use core::mem;
use core::task::Waker;

use crate::fence::Fence;
use crate::sync::{AtomicUsize, Mutex, Ordering};

/// Many waiters, many notifiers. Notifying costs one load if there are no waiters; waiting takes a lock.
///
/// The waiters' protocol is that of [`Notifier`](crate::notifier::Notifier): [`register`](Self::register), recheck, park.
///
/// ```
/// use std::sync::atomic::{AtomicU32, Ordering};
/// use std::task::Poll;
/// use dotcompute_ring::fence::Fence;
/// use dotcompute_ring::wait::{WaitStrategy, block_on_poll};
/// use dotcompute_ring::wait_list::{WaitToken, WaitList};
///
/// let (stage, waiters) = (AtomicU32::new(0), WaitList::new(Fence::Symmetric));
/// let reached = |wanted| {
///     let mut token = WaitToken::default();
///     block_on_poll(WaitStrategy::Adaptive, None, |cx| {
///         waiters.register(&mut token, cx.waker());
///         if stage.load(Ordering::Acquire) >= wanted { Poll::Ready(()) } else { Poll::Pending }
///     });
///     waiters.cancel(&mut token);
/// };
/// std::thread::scope(|scope| {
///     scope.spawn(|| reached(1));
///     scope.spawn(|| reached(2));
///     for next in 1..=2 {
///         stage.store(next, Ordering::Release);
///         waiters.notify_all();
///     }
/// });
/// ```
pub struct WaitList {
    /// Number of waiters, all bits. Written relaxed under the lock; read relaxed without it. The fences order it: `SYNC POINT: wait list
    /// park`.
    waiting: AtomicUsize,
    fence: Fence,
    entries: Mutex<Entries>,
}

#[cfg(all(not(loom), target_pointer_width = "64"))]
const _: () = assert!(size_of::<WaitList>() <= 64);

struct Entries {
    next_key: u64,
    /// Sorted by key. A queue, because waiters leave mostly in the order in which they registered.
    wakers: VecDeque<(u64, Waker)>,
}

impl Entries {
    fn position(&self, token: &WaitToken) -> Option<usize> {
        self.wakers.binary_search_by_key(&token.key, |(key, _)| *key).ok()
    }

    /// Returns the waker that was replaced, if any.
    fn insert_or_replace(&mut self, token: &mut WaitToken, waker: &Waker) -> Option<Waker> {
        if let Some(position) = self.position(token) {
            let current = &mut self.wakers[position].1;
            return (!current.will_wake(waker)).then(|| mem::replace(current, waker.clone()));
        }
        self.wakers.push_back((self.next_key, waker.clone()));
        token.key = self.next_key;
        self.next_key += 1;
        None
    }
}

/// Identifies a waiter of one [`WaitList`]; the default token is not registered.
///
/// Release it with [`WaitList::cancel`]. A token that is dropped instead leaves its waker on the list until the next notification.
#[derive(Debug, Default)]
pub struct WaitToken {
    /// Zero: not registered. A list never reuses a key, so a stale token does not affect another waiter.
    key: u64,
}

impl WaitList {
    /// Creates an empty list. Allocates nothing.
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        let entries = Mutex::new(Entries { next_key: 1, wakers: VecDeque::new() });
        Self { waiting: AtomicUsize::new(0), fence: fence.available(), entries }
    }

    fn with_entries<R>(&self, f: impl FnOnce(&mut Entries) -> R) -> R {
        // A waker's `clone` may panic under the lock; the entries are consistent nevertheless.
        let mut entries = self.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let result = f(&mut entries);
        // Relaxed: the lock orders the writers, and the fences order this store before a waiter's recheck.
        self.waiting.store(entries.wakers.len(), Ordering::Relaxed);
        result
    }

    /// Registers the caller, or replaces its waker. The caller then rechecks the condition before it parks.
    pub fn register(&self, token: &mut WaitToken, waker: &Waker) {
        let replaced = self.with_entries(|entries| entries.insert_or_replace(token, waker));
        // Outside the lock: dropping a waker may run any code, including code that waits here.
        drop(replaced);
        // SYNC POINT: wait list park (waiter): store `waiting`, heavy fence, recheck by the caller. Pairs with the light fence in
        // `has_waiters`.
        self.fence.heavy();
    }

    /// Deregisters the caller, if it is still registered.
    pub fn cancel(&self, token: &mut WaitToken) {
        let token = mem::take(token);
        if token.key == 0 {
            return;
        }
        let removed = self.with_entries(|entries| {
            let position = entries.position(&token)?;
            entries.wakers.remove(position)
        });
        // Outside the lock, as in `register`.
        drop(removed);
    }

    /// Returns whether there are waiters, as of after this thread's last publication.
    #[inline]
    pub fn has_waiters(&self) -> bool {
        // SYNC POINT: wait list park (notifier): publish, light fence, load `waiting`. Pairs with the heavy fence in `register`.
        self.fence.light();
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Wakes all waiters and empties the list. Call it after publishing what they wait for.
    #[inline]
    pub fn notify_all(&self) {
        if self.has_waiters() {
            self.wake_all();
        }
    }

    #[cold]
    fn wake_all(&self) {
        let wakers = self.with_entries(|entries| mem::take(&mut entries.wakers));
        // Outside the lock: a waker may run code that registers here again.
        for (_, waker) in wakers {
            waker.wake();
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::wait::{WaitStrategy, block_on_poll};
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use core::sync::atomic::AtomicU64;
    use core::task::Poll;

    /// Counts its wake-ups. On drop, checks that the list's lock is free.
    struct Probe {
        woken: AtomicUsize,
        list: Arc<WaitList>,
    }

    impl Wake for Probe {
        fn wake(self: Arc<Self>) {
            self.woken.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            assert!(self.list.entries.try_lock().is_ok(), "a waker was dropped under the lock");
        }
    }

    fn probe(list: &Arc<WaitList>) -> (Arc<Probe>, Waker) {
        let probe = Arc::new(Probe { woken: AtomicUsize::new(0), list: Arc::clone(list) });
        (Arc::clone(&probe), Waker::from(probe))
    }

    #[test]
    fn wakes_every_waiter_once_and_no_cancelled_one() {
        let list = Arc::new(WaitList::new(Fence::Symmetric));
        let mut waiters: [(WaitToken, _); 4] = core::array::from_fn(|_| (WaitToken::default(), probe(&list)));
        for (token, (_, waker)) in &mut waiters {
            list.register(token, waker);
            list.register(token, waker);
        }
        list.cancel(&mut waiters[1].0);
        assert!(list.has_waiters());
        list.notify_all();
        list.notify_all();
        let woken = waiters.each_ref().map(|(_, (probe, _))| probe.woken.load(Ordering::Relaxed));
        assert_eq!(woken, [1, 0, 1, 1]);
        assert!(!list.has_waiters());
    }

    #[test]
    fn a_stale_token_affects_no_other_waiter() {
        let list = Arc::new(WaitList::new(Fence::Symmetric));
        let (old, old_waker) = probe(&list);
        let mut stale = WaitToken::default();
        list.register(&mut stale, &old_waker);
        list.notify_all();
        let (new, new_waker) = probe(&list);
        let mut token = WaitToken::default();
        list.register(&mut token, &new_waker);
        list.cancel(&mut stale);
        list.notify_all();
        assert_eq!((old.woken.load(Ordering::Relaxed), new.woken.load(Ordering::Relaxed)), (1, 1));
    }

    #[test]
    fn a_list_holds_one_waker_per_token_and_drops_it_unlocked() {
        let list = Arc::new(WaitList::new(Fence::Symmetric));
        let mut token = WaitToken::default();
        for _ in 0..3 {
            let (probe, waker) = probe(&list);
            list.register(&mut token, &waker);
            drop(waker);
            assert_eq!(Arc::strong_count(&probe), 2, "the list holds the only waker");
            // The list drops its waker when the next round replaces it, or on `cancel`.
        }
        list.cancel(&mut token);
        assert_eq!(Arc::strong_count(&list), 1, "every waker was dropped");
        assert!(!list.has_waiters());
    }

    #[test]
    fn no_wake_up_is_lost_with_either_fence() {
        const STAGES: u64 = if cfg!(miri) { 20 } else { 5_000 };
        for fence in [Fence::Symmetric, Fence::Asymmetric] {
            let (stage, list) = (AtomicU64::new(0), WaitList::new(fence));
            let arrived = AtomicU64::new(0);
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| {
                        let mut token = WaitToken::default();
                        for next in 1..=STAGES {
                            block_on_poll(WaitStrategy::Park, None, |cx| {
                                list.register(&mut token, cx.waker());
                                if stage.load(Ordering::Acquire) >= next {
                                    Poll::Ready(())
                                } else {
                                    Poll::Pending
                                }
                            });
                            arrived.fetch_add(1, Ordering::Relaxed);
                        }
                        list.cancel(&mut token);
                    });
                }
                for next in 1..=STAGES {
                    stage.store(next, Ordering::Release);
                    list.notify_all();
                    while arrived.load(Ordering::Relaxed) < 3 * next {
                        std::thread::yield_now();
                    }
                }
            });
            assert!(!list.has_waiters());
        }
    }
}
