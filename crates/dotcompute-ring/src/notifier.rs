//! Waking the one task that waits at a ring.
//!
//! The state word says who may touch the waker beside it:
//!
//! | state | the waker | left by |
//! | --- | --- | --- |
//! | idle | nobody | the waiter, who locks it to register |
//! | waiting | nobody | a notifier, who locks it to take the waker; the waiter, who locks it to replace the waker, or cancels |
//! | locked | whoever locked it | the same, for idle or waiting |
//!
//! Nobody waits for the lock. A waiter that finds it taken is being notified and looks again. A notifier that finds it taken may go:
//! if a waiter has it, that waiter has yet to announce itself and look; if another notifier has it, the waiter is woken.

use core::task::Waker;

use crate::fence::Fence;
use crate::sync::{AtomicU32, Ordering, UnsafeCell, fence};

const IDLE: u32 = 0;
const WAITING: u32 = 1;
const LOCKED: u32 = 2;

/// One waiter, many notifiers. Notifying costs one load where nobody waits.
///
/// The waiter's protocol: [`register`](Self::prepare), look at the condition once more, and only then sleep. A wake-up is never
/// lost; one too many may come.
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

// SAFETY: the waker, itself `Send + Sync`, is touched only through `WakerGuard`, which one thread at a time can have.
unsafe impl Send for Notifier {}
// SAFETY: as above.
unsafe impl Sync for Notifier {}

// Wakers are two words; loom's cells and atomics are larger.
#[cfg(not(loom))]
const _: () = assert!(size_of::<Notifier>() <= 32);

impl Notifier {
    /// A signal with nobody waiting.
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        Self { waker: UnsafeCell::new(None), state: AtomicU32::new(IDLE), fence: fence.available() }
    }

    /// Wakes the waiter if there is one. Call after publishing what it waits for.
    #[inline]
    pub fn notify(&self) {
        self.fence.light();
        // Relaxed: the fence orders it, and `wake` acquires before it touches the waker.
        if self.state.load(Ordering::Relaxed) == WAITING {
            self.wake();
        }
    }

    /// As [`notify`](Self::notify), for rare callers: out of line, and with a full fence whoever pays for it otherwise.
    #[cold]
    pub fn notify_with_full_fence(&self) {
        fence(Ordering::SeqCst);
        if self.state.load(Ordering::Relaxed) == WAITING {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        // If the lock cannot be had, the waiter is awake, being woken, or about to look again. In each case its next announcement
        // comes after the state just read, so after this notifier's fence: its look after that sees what this notifier published.
        let waker = self.try_lock_from(WAITING).and_then(WakerGuard::take);
        // Unlocked: a waker may run any code, also the waiter's.
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Announces that the caller is going to wait and is to be woken through `waker`.
    ///
    /// After `true` the caller looks at its condition once more and then sleeps, or calls [`cancel`](Self::cancel). `false` means that
    /// a notifier is at work this moment: look again instead of sleeping.
    ///
    /// There is one waiter: of two tasks that prepare, the later takes the place of the earlier, which is not woken any more.
    #[must_use = "after `false` nobody will wake the caller"]
    pub fn register(&self, waker: &Waker) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state == LOCKED {
            return false;
        }
        let Some(guard) = self.try_lock_from(state) else { return false };
        let replaced = guard.register(waker);
        // Unlocked: dropping a waker, like waking it, may run any code.
        drop(replaced);
        // Between the announcement and the caller's second look; pairs with the light fence in `notify`.
        self.fence.heavy();
        true
    }

    /// Takes an announcement back. A wake-up that is under way still comes.
    pub fn cancel(&self) {
        // Relaxed: the waker is left where it is, for the next announcement; whoever locks it then, from idle, has to see it, and does:
        // a compare-exchange continues the release sequence of the announcement.
        let _ = self.state.compare_exchange(WAITING, IDLE, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn try_lock_from(&self, state: u32) -> Option<WakerGuard<'_>> {
        // Acquire: pairs with the release at the end of the last lock, so that its accesses to the waker come before those of this one.
        self.state.compare_exchange(state, LOCKED, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(WakerGuard { notifier: self, next_state: IDLE })
    }
}

/// The right to touch the waker; given up, also in a panic, for the state `next_state`.
struct WakerGuard<'a> {
    notifier: &'a Notifier,
    next_state: u32,
}

impl WakerGuard<'_> {
    fn take(self) -> Option<Waker> {
        self.notifier.waker.with_mut(|waker| {
            // SAFETY: the state was moved to locked by whoever made `self`, and leaves it only when `self` is dropped; everybody else
            // fails to lock until then. The accesses before are ordered before by the acquire in `try_lock_from`.
            unsafe { (*waker).take() }
        })
    }

    /// Makes `waker` the one to be woken and announces it. Gives the one that was there instead.
    fn register(mut self, waker: &Waker) -> Option<Waker> {
        let replaced = self.notifier.waker.with_mut(|current| {
            // SAFETY: as in `take`.
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
        // Release: whoever locks next sees what was done to the waker.
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

    /// A waker that, when woken, waits again at once: executors that poll inside `wake` do this.
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
                            // Published when the waiter has just gone to sleep, or is about to: that is where wake-ups get lost.
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
