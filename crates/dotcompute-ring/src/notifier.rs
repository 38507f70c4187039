//! Waking a single waiter.
//!
//! The state word says which thread may access the waker beside it. It holds one of three values; its other bits are zero.
//!
//! | state | value | access to the waker | left by |
//! | --- | --- | --- | --- |
//! | idle | 0 | none | the waiter, which locks it to register |
//! | waiting | 1 | none | a notifier, which locks it to take the waker; the waiter, which locks it to replace the waker, or cancels |
//! | locked | 2 | the thread that locked it | the same thread, to idle or waiting |
//!
//! The lock is taken by an acquire compare-exchange and released by a release store (`SYNC POINT: waker lock`). The order between
//! registering and notifying comes from the two fences (`SYNC POINT: notifier park`).
//!
//! The lock never blocks. A waiter that finds it held is being notified and rechecks its condition. A notifier that finds it held may
//! return. If a waiter holds it, that waiter rechecks after registering. If another notifier holds it, that notifier wakes the waiter.

use core::task::Waker;

use crate::fence::Fence;
use crate::sync::{AtomicU32, Ordering, UnsafeCell, fence};

const IDLE: u32 = 0;
const WAITING: u32 = 1;
const LOCKED: u32 = 2;

/// One waiter, many notifiers. Notifying costs one load if there is no waiter.
///
/// The waiter's protocol: [`register`](Self::register), recheck the condition, and only then park. No wake-up is lost; spurious ones may
/// occur.
///
/// ```
/// use std::sync::atomic::{AtomicBool, Ordering};
/// use std::task::{Context, Poll};
/// use dotcompute_ring::fence::Fence;
/// use dotcompute_ring::notifier::Notifier;
/// use dotcompute_ring::wait::{WaitStrategy, block_on_poll};
///
/// let (ready, notifier) = (AtomicBool::new(false), Notifier::new(Fence::Asymmetric));
/// let poll = |cx: &mut Context<'_>| loop {
///     let registered = notifier.register(cx.waker());
///     if ready.load(Ordering::Acquire) {
///         notifier.cancel();
///         return Poll::Ready(());
///     }
///     if registered {
///         return Poll::Pending;
///     }
/// };
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         ready.store(true, Ordering::Release);
///         notifier.notify();
///     });
///     block_on_poll(WaitStrategy::Park, None, poll);
/// });
/// ```
pub struct Notifier {
    waker: UnsafeCell<Option<Waker>>,
    state: AtomicU32,
    fence: Fence,
}

// SAFETY: the waker is `Send + Sync`, and is accessed only through a `WakerGuard`, which at most one thread has at a time.
unsafe impl Send for Notifier {}
// SAFETY: see the `Send` implementation.
unsafe impl Sync for Notifier {}

// A waker is two words; loom's cells and atomics are larger.
#[cfg(not(loom))]
const _: () = assert!(size_of::<Notifier>() <= 32);

impl Notifier {
    /// Creates a notifier without a waiter.
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        Self { waker: UnsafeCell::new(None), state: AtomicU32::new(IDLE), fence: fence.available() }
    }

    /// Wakes the waiter, if there is one. Call it after publishing what the waiter waits for.
    #[inline]
    pub fn notify(&self) {
        self.fence.light();
        // SYNC POINT: notifier park (notifier): publish, light fence, load `state`.
        // Relaxed: the fence orders the load, and `wake` acquires before it accesses the waker.
        if self.state.load(Ordering::Relaxed) == WAITING {
            self.wake();
        }
    }

    /// Like [`notify`](Self::notify), for rare calls: not inlined, and always with a full fence.
    #[cold]
    pub fn notify_with_full_fence(&self) {
        // SYNC POINT: notifier park (notifier): publish, full fence, load `state`.
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::Relaxed) == WAITING {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        // If the lock is held, the waiter is awake, is being woken, or has yet to recheck. In each case its next registration comes after
        // the state that this notifier read, and so after its fence. The recheck that follows observes what this notifier published.
        let waker = self.try_lock_from(WAITING).and_then(WakerGuard::take);
        // Outside the lock: a waker may run any code, including that of the waiter.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Registers `waker` as the one to wake.
    ///
    /// After `true` the caller rechecks its condition, and then either parks or calls [`cancel`](Self::cancel). `false` means that a
    /// notifier holds the waker at this moment: the caller rechecks instead of parking.
    ///
    /// There is one waiter. If two tasks register, the later one replaces the earlier one, which is not woken any more.
    #[must_use = "after `false` no notifier wakes the caller"]
    pub fn register(&self, waker: &Waker) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state == LOCKED {
            return false;
        }
        let Some(guard) = self.try_lock_from(state) else { return false };
        let replaced = guard.register(waker);
        // Outside the lock: dropping a waker may run any code.
        drop(replaced);
        // SYNC POINT: notifier park (waiter): store `state`, heavy fence, recheck by the caller. Pairs with the light fence in `notify`.
        self.fence.heavy();
        true
    }

    /// Withdraws the registration. A wake-up already in progress still arrives.
    pub fn cancel(&self) {
        // Relaxed: the waker stays in place for the next registration. The thread that locks it next, from idle, must observe it, and does:
        // a compare-exchange continues the release sequence of the registration.
        let _ = self.state.compare_exchange(WAITING, IDLE, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn try_lock_from(&self, state: u32) -> Option<WakerGuard<'_>> {
        // SYNC POINT: waker lock
        // Acquire: pairs with the release store in `WakerGuard::drop`; orders the previous holder's accesses to the waker before this
        // one's.
        self.state.compare_exchange(state, LOCKED, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(WakerGuard { notifier: self, next_state: IDLE })
    }
}

/// Exclusive access to the waker. Dropping it, also during a panic, stores `next_state`.
struct WakerGuard<'a> {
    notifier: &'a Notifier,
    next_state: u32,
}

impl WakerGuard<'_> {
    fn take(self) -> Option<Waker> {
        self.notifier.waker.with_mut(|waker| {
            // SAFETY: `self` exists only after a successful transition to `LOCKED`, and only its `Drop` leaves that state. No other thread
            // can lock meanwhile, so this access is exclusive; the acquire in `try_lock_from` orders earlier accesses before it.
            unsafe { (*waker).take() }
        })
    }

    /// Registers `waker`. Returns the waker that it replaces, if any.
    fn register(mut self, waker: &Waker) -> Option<Waker> {
        let replaced = self.notifier.waker.with_mut(|current| {
            // SAFETY: exclusive while `self` exists, as in `take`.
            let current = unsafe { &mut *current };
            match current {
                Some(current) if current.will_wake(waker) => None,
                _ => current.replace(waker.clone()),
            }
        });
        self.next_state = WAITING;
        replaced
    }
}

impl Drop for WakerGuard<'_> {
    fn drop(&mut self) {
        // SYNC POINT: waker lock
        // Release: pairs with the acquire compare-exchange in `try_lock_from`; publishes the changes to the waker.
        self.notifier.state.store(self.next_state, Ordering::Release);
    }
}

#[cfg(all(test, not(loom), feature = "std"))]
mod tests {
    use super::*;
    use crate::wait::{WaitStrategy, block_on_poll, thread_waker};
    use alloc::sync::Arc;
    use alloc::task::Wake;
    use core::sync::atomic::{AtomicU64, AtomicUsize};
    use core::task::{Context, Poll};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counting() -> (Arc<Count>, Waker) {
        let count = Arc::new(Count::default());
        (Arc::clone(&count), Waker::from(count))
    }

    #[test]
    fn wakes_once_per_registration_and_not_after_a_cancel() {
        let notifier = Notifier::new(Fence::Symmetric);
        let (count, waker) = counting();
        notifier.notify();
        assert!(notifier.register(&waker));
        notifier.notify();
        notifier.notify_with_full_fence();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert!(notifier.register(&waker));
        notifier.cancel();
        notifier.notify();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn holds_only_the_last_waker() {
        let notifier = Notifier::new(Fence::Symmetric);
        let ((first, first_waker), (second, second_waker)) = (counting(), counting());
        assert!(notifier.register(&first_waker) && notifier.register(&second_waker));
        drop(first_waker);
        assert_eq!(Arc::strong_count(&first), 1, "the replaced waker is dropped");
        notifier.notify();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
        drop(second_waker);
        assert_eq!(Arc::strong_count(&second), 1, "the woken waker is dropped");
    }

    /// A waker that registers again at once when woken, as executors do that poll inside `wake`.
    #[test]
    fn a_waker_may_register_while_it_is_woken() {
        struct Again(Arc<Notifier>, AtomicUsize);
        impl Wake for Again {
            fn wake(self: Arc<Self>) {
                self.1.fetch_add(1, Ordering::Relaxed);
                assert!(self.0.register(Waker::noop()));
            }
        }
        let notifier = Arc::new(Notifier::new(Fence::Symmetric));
        let again = Arc::new(Again(Arc::clone(&notifier), AtomicUsize::new(0)));
        assert!(notifier.register(&Waker::from(Arc::clone(&again))));
        notifier.notify();
        assert_eq!(again.1.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn no_wake_up_is_lost_with_either_fence() {
        const EACH: u64 = if cfg!(miri) { 50 } else { 20_000 };
        for fence in [Fence::Symmetric, Fence::Asymmetric] {
            let (published, taken) = (AtomicU64::new(0), AtomicU64::new(0));
            let notifier = Notifier::new(fence);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        for _ in 0..EACH {
                            published.fetch_add(1, Ordering::Release);
                            notifier.notify();
                            // Published when the waiter has just parked, or is about to: this is when wake-ups get lost.
                            while published.load(Ordering::Relaxed) > taken.load(Ordering::Relaxed) + 1 {
                                std::thread::yield_now();
                            }
                        }
                    });
                }
                for next in 1..=2 * EACH {
                    let waited = block_on_poll(WaitStrategy::Park, None, |cx: &mut Context<'_>| {
                        let registered = notifier.register(cx.waker());
                        if published.load(Ordering::Acquire) >= next {
                            notifier.cancel();
                            return Poll::Ready(());
                        }
                        if !registered {
                            thread_waker().wake();
                        }
                        Poll::Pending
                    });
                    assert!(waited.is_some());
                    taken.store(next, Ordering::Relaxed);
                }
            });
            assert_eq!(published.into_inner(), 2 * EACH);
        }
    }
}
