//! Waking tasks that wait for a free slot, for an output or for a change of state: all of them, or the longest waiting ones.

use alloc::collections::VecDeque;
use core::mem;
use core::task::Waker;

use crate::fence::Fence;
use crate::sync::{AtomicUsize, Mutex, Ordering};

/// Many waiters, many notifiers. Notifying costs one load if there are no waiters; waiting takes a lock.
///
/// The waiters' protocol is that of [`Notifier`](crate::notifier::Notifier): [`register`](Self::register), recheck, park. Waiters that
/// compete for something countable, such as free slots, [`enqueue`](Self::enqueue) instead and are woken one for each
/// ([`notify_many`](Self::notify_many)).
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
const _: () = assert!(size_of::<WaitList>() <= 96);

struct Entries {
    next_key: u64,
    /// Sorted by key. A queue, because waiters leave mostly in the order in which they registered.
    wakers: VecDeque<(u64, Waker)>,
    /// Keys of waiters that `notify_many` has woken and that have not acted on it yet. Sorted.
    woken: VecDeque<u64>,
}

impl Entries {
    /// Registers the waker of `token`, at the place of its key: a waiter that was woken in vain keeps its place. Returns that place, and
    /// the waker that was replaced, if any.
    fn insert_or_replace(&mut self, token: &mut WaitToken, waker: &Waker) -> (usize, Option<Waker>) {
        if token.key == 0 {
            token.key = self.next_key;
            self.next_key += 1;
        }
        match self.wakers.binary_search_by_key(&token.key, |(key, _)| *key) {
            Ok(position) => {
                let current = &mut self.wakers[position].1;
                (position, (!current.will_wake(waker)).then(|| mem::replace(current, waker.clone())))
            }
            Err(position) => {
                self.wakers.insert(position, (token.key, waker.clone()));
                (position, None)
            }
        }
    }

    fn remove(&mut self, token: &WaitToken) -> Option<Waker> {
        let position = self.wakers.binary_search_by_key(&token.key, |(key, _)| *key).ok()?;
        self.wakers.remove(position).map(|(_, waker)| waker)
    }

    /// Returns whether the waiter was woken by `notify_many`, and forgets it.
    fn take_woken(&mut self, token: &WaitToken) -> bool {
        let position = self.woken.binary_search(&token.key);
        position.is_ok_and(|position| self.woken.remove(position).is_some())
    }

    /// Takes the wakers of the longest waiting waiters, so that `available` are woken and have not acted on it.
    fn take_wakers(&mut self, available: usize) -> VecDeque<(u64, Waker)> {
        let count = available.saturating_sub(self.woken.len()).min(self.wakers.len());
        let taken: VecDeque<_> = self.wakers.drain(..count).collect();
        for &(key, _) in &taken {
            // At the end, unless a waiter was woken in vain before.
            let position = self.woken.partition_point(|&woken| woken < key);
            self.woken.insert(position, key);
        }
        taken
    }
}

/// Identifies a waiter of one [`WaitList`]; the default token is not registered.
///
/// Release it with [`WaitList::cancel`]. A token that is dropped instead leaves its waker on the list until the next notification.
#[derive(Debug, Default)]
pub struct WaitToken {
    /// Zero: not registered. A list never reuses a key, so a stale token does not affect another waiter.
    key: u64,
    /// For an owner of several lists: to which of them the key belongs.
    pub(crate) list: u8,
}

impl WaitToken {
    /// Returns whether the token was never registered, or was released.
    #[inline]
    pub(crate) fn is_released(&self) -> bool {
        self.key == 0
    }
}

impl WaitList {
    /// Creates an empty list. Allocates nothing.
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        let entries = Mutex::new(Entries { next_key: 1, wakers: VecDeque::new(), woken: VecDeque::new() });
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
        let (_, replaced) = self.with_entries(|entries| entries.insert_or_replace(token, waker));
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
        let removed = self.with_entries(|entries| entries.remove(&token));
        // Outside the lock, as in `register`.
        drop(removed);
    }

    /// Registers the caller behind those that wait already, or replaces its waker, for [`notify_many`](Self::notify_many).
    ///
    /// If true, the caller is the first in line and rechecks the condition before it parks. If false, it may park: the waiters before it
    /// recheck, and each passes the wake-up on when it leaves. A caller that was woken takes that back with this call, and keeps its place.
    ///
    /// After it was woken, or when it gives up, the caller must call [`take_wake_up`](Self::take_wake_up) or [`leave`](Self::leave).
    pub fn enqueue(&self, token: &mut WaitToken, waker: &Waker) -> bool {
        let (position, replaced) = self.with_entries(|entries| {
            entries.take_woken(token);
            entries.insert_or_replace(token, waker)
        });
        drop(replaced);
        if position > 0 {
            return false;
        }
        // SYNC POINT: wait list park (waiter), as in `register`. A waiter behind another needs no fence: the count that `has_waiters` loads
        // is not zero before that one leaves, and `leave` looks again under the lock.
        self.fence.heavy();
        true
    }

    /// Returns whether the caller was woken by [`notify_many`](Self::notify_many). It then uses what it was woken for, or
    /// [`enqueue`](Self::enqueue)s again.
    pub fn take_wake_up(&self, token: &WaitToken) -> bool {
        !token.is_released() && self.with_entries(|entries| entries.take_woken(token))
    }

    /// Deregisters the caller of [`enqueue`](Self::enqueue), and wakes others instead: `available` returns how many may be woken in total.
    pub fn leave(&self, token: &mut WaitToken, available: impl FnOnce() -> usize) {
        let token = mem::take(token);
        if token.is_released() {
            return;
        }
        let (removed, wakers) = self.with_entries(|entries| {
            entries.take_woken(&token);
            let removed = entries.remove(&token);
            // SYNC POINT: wait list hand-over (waiter). Under the lock: a notifier that counted this waiter as woken has published before it
            // took the lock, so `available` finds it; a later one no longer counts this waiter.
            let available = if entries.wakers.is_empty() { 0 } else { available() };
            (removed, entries.take_wakers(available))
        });
        drop(removed);
        wake_each(wakers);
    }

    /// Wakes the longest waiting waiters, so that at most `available` are woken and have not acted on it. Call it after publishing what
    /// they wait for.
    pub fn notify_many(&self, available: usize) {
        if self.has_waiters() {
            // SYNC POINT: wait list hand-over (notifier): publish, then lock. Pairs with `leave`.
            wake_each(self.with_entries(|entries| entries.take_wakers(available)));
        }
    }

    /// Like [`notify_many`](Self::notify_many), but wakes at least one of the waiters, however many have not acted yet.
    pub fn notify_one_more(&self, available: usize) {
        if self.has_waiters() {
            wake_each(self.with_entries(|entries| {
                let woken = entries.woken.len();
                entries.take_wakers(available.max(woken.saturating_add(1)))
            }));
        }
    }

    /// Returns whether there are waiters. Only a hint: it orders nothing.
    #[inline]
    pub fn may_have_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) != 0
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
        wake_each(self.with_entries(|entries| mem::take(&mut entries.wakers)));
    }
}

/// Outside the lock: a waker may run code that registers here again.
fn wake_each(wakers: VecDeque<(u64, Waker)>) {
    for (_, waker) in wakers {
        waker.wake();
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
