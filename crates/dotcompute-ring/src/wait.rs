//! How to wait: spinning, sleeping, or first the one and then the other.

use crate::sync::spin_loop;
#[cfg(feature = "std")]
use crate::sync::yield_now;

/// How a thread waits for a message, an answer or room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WaitStrategy {
    /// Looks again and again and never gives its core away: the lowest latency, for threads that have a core of their own.
    Spin,
    /// Spins for some microseconds, then offers its core to others a few times, then sleeps until it is woken.
    #[default]
    Adaptive,
    /// Sleeps at once until it is woken.
    Park,
}

/// What to do after having looked in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Look again.
    Retry,
    /// Arrange to be woken, look once more, and sleep.
    Park,
}

/// Looks without a pause at first: what a pause costs (up to 140 cycles on recent x86) is more than the answer may take.
const EAGER: u32 = 64;
/// Looks of an adaptive wait before it offers its core to others: 5 to 20 µs, by how long the processor's pause takes.
const SPINS: u32 = 400;
/// Times an adaptive wait offers its core before it sleeps. Without an operating system there is nobody to offer it to.
const YIELDS: u32 = if cfg!(feature = "std") { 4 } else { 0 };

/// Paces the looks of one wait.
///
/// ```
/// use dotcompute_ring::wait::{Backoff, Step, WaitStrategy};
///
/// let mut backoff = Backoff::new(WaitStrategy::Adaptive);
/// let mut looks = 1;
/// while backoff.snooze() == Step::Retry {
///     looks += 1; // Look here.
/// }
/// assert!(looks > 1); // Now sleep.
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    strategy: WaitStrategy,
    looks: u32,
}

impl Backoff {
    /// The beginning of a wait.
    #[inline]
    #[must_use]
    pub const fn new(strategy: WaitStrategy) -> Self {
        Self { strategy, looks: 0 }
    }

    /// Begins anew: what was waited for came, and there is more to wait for.
    #[inline]
    pub const fn reset(&mut self) {
        self.looks = 0;
    }

    /// Waits a moment, or says that the time has come to sleep.
    #[inline]
    pub fn snooze(&mut self) -> Step {
        match self.strategy {
            WaitStrategy::Park => Step::Park,
            // Not even a pause: its core is its own.
            WaitStrategy::Spin => {
                // Loom has to be told, or it would let this thread look for ever.
                #[cfg(loom)]
                spin_loop();
                Step::Retry
            }
            WaitStrategy::Adaptive => self.snooze_adaptively(),
        }
    }

    #[inline]
    fn snooze_adaptively(&mut self) -> Step {
        if self.looks < EAGER && !is_single_core() {
            self.looks += 1;
            return Step::Retry;
        }
        self.relax()
    }

    fn relax(&mut self) -> Step {
        if self.looks < SPINS && is_single_core() {
            self.looks = SPINS;
        }
        if self.looks == SPINS + YIELDS {
            return Step::Park;
        }
        self.looks += 1;
        if self.looks <= SPINS {
            spin_loop();
        } else {
            #[cfg(feature = "std")]
            yield_now();
        }
        Step::Retry
    }
}

/// Whether spinning only keeps the other side from running.
#[cfg(all(feature = "std", not(loom)))]
fn is_single_core() -> bool {
    use std::sync::OnceLock;
    static SINGLE: OnceLock<bool> = OnceLock::new();
    *SINGLE.get_or_init(|| cores_online() == Some(1))
}

/// The machine's cores, whatever this thread is pinned to: `available_parallelism` says 1 on a pinned thread, and what the first
/// caller sees is kept for all.
#[cfg(all(feature = "std", not(loom), unix))]
fn cores_online() -> Option<usize> {
    // SAFETY: the call takes one integer and touches no memory of ours.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(online).ok()
}

#[cfg(all(feature = "std", not(loom), not(unix)))]
fn cores_online() -> Option<usize> {
    std::thread::available_parallelism().ok().map(usize::from)
}

#[cfg(any(not(feature = "std"), loom))]
fn is_single_core() -> bool {
    false
}

#[cfg(all(feature = "std", not(loom)))]
pub use threads::{block_on_poll, park, spin_then_park, thread_waker};

#[cfg(all(feature = "std", not(loom)))]
mod threads {
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::Thread;
    use std::time::Instant;

    use super::{Backoff, Step, WaitStrategy, YIELDS};

    /// Looks of a spinning wait before it looks at the clock, which costs as much as several looks.
    const LOOKS_PER_CLOCK: u32 = 64;

    /// Wakes a thread out of [`park`].
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }

        fn wake_by_ref(self: &Arc<Self>) {
            self.0.unpark();
        }
    }

    thread_local! {
        static WAKER: Waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    }

    /// A waker that wakes the calling thread out of [`park`]. The same one at every call of a thread.
    #[must_use]
    pub fn thread_waker() -> Waker {
        // While the thread's locals are being destroyed, a new one does as well.
        WAKER.try_with(Waker::clone).unwrap_or_else(|_| Waker::from(Arc::new(Unpark(std::thread::current()))))
    }

    /// Sleeps until the thread's waker is used, or the deadline. May also wake for no reason. False if the deadline has passed.
    pub fn park(deadline: Option<Instant>) -> bool {
        match deadline {
            None => std::thread::park(),
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::park_timeout(left),
                _ => return false,
            },
        }
        true
    }

    fn has_passed(deadline: Option<Instant>) -> bool {
        deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn ready<T>(poll: Poll<T>) -> Option<T> {
        match poll {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    /// Looks until there is something, on this thread, as the strategy says. None when the deadline has passed.
    ///
    /// While spinning, `look` is called with `None` and just looks. With a context it arranges to be woken through its waker, looks once
    /// more, and only then says `Pending`. Arranging to be woken can take a system call (see [`fence`](crate::fence)), so that it is
    /// left until the thread is about to sleep. Taking an arrangement back after the deadline is the caller's part.
    ///
    /// Allocates nothing, but for the thread's waker at its first sleep.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// use std::task::Poll;
    /// use dotcompute_ring::fence::Fence;
    /// use dotcompute_ring::wait::{WaitStrategy, spin_then_park};
    /// use dotcompute_ring::wait_list::{WaitToken, WaitList};
    ///
    /// let (answer, waiters) = (AtomicU32::new(0), WaitList::new(Fence::Symmetric));
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| {
    ///         answer.store(42, Ordering::Release);
    ///         waiters.notify_all();
    ///     });
    ///     let mut ticket = WaitToken::default();
    ///     let found = spin_then_park(WaitStrategy::Adaptive, None, |cx| {
    ///         if let Some(cx) = cx {
    ///             waiters.register(&mut ticket, cx.waker());
    ///         }
    ///         match answer.load(Ordering::Acquire) {
    ///             0 => Poll::Pending,
    ///             answer => Poll::Ready(answer),
    ///         }
    ///     });
    ///     waiters.cancel(&mut ticket);
    ///     assert_eq!(found, Some(42));
    /// });
    /// ```
    #[inline]
    pub fn spin_then_park<T>(
        strategy: WaitStrategy,
        deadline: Option<Instant>,
        mut look: impl FnMut(Option<&mut Context<'_>>) -> Poll<T>,
    ) -> Option<T> {
        let mut backoff = Backoff::new(strategy);
        let mut looks = 0;
        loop {
            if let Poll::Ready(value) = look(None) {
                return Some(value);
            }
            if backoff.snooze() == Step::Park {
                return block_on_poll(WaitStrategy::Park, deadline, |cx| look(Some(cx)));
            }
            looks += 1;
            if looks == LOOKS_PER_CLOCK {
                looks = 0;
                if has_passed(deadline) {
                    return ready(look(None));
                }
            }
        }
    }

    /// Polls until ready, on this thread: `poll` is a future's poll, which arranges to be woken before it says `Pending`. None when
    /// the deadline has passed.
    ///
    /// Allocates nothing, but for the thread's waker at its first use. For what can be looked at without arranging to be woken, see
    /// [`spin_then_park`].
    pub fn block_on_poll<T>(
        strategy: WaitStrategy,
        deadline: Option<Instant>,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        let waker = thread_waker();
        let mut cx = Context::from_waker(&waker);
        // Arranging to be woken is not free, so an adaptive wait makes few looks here.
        let mut looks = 0;
        loop {
            if let Poll::Ready(value) = poll(&mut cx) {
                return Some(value);
            }
            let step = match strategy {
                WaitStrategy::Spin => Step::Retry,
                WaitStrategy::Adaptive if looks < YIELDS => {
                    looks += 1;
                    std::thread::yield_now();
                    Step::Retry
                }
                WaitStrategy::Adaptive | WaitStrategy::Park => Step::Park,
            };
            let in_time = match step {
                Step::Park => park(deadline),
                Step::Retry => !has_passed(deadline),
            };
            if !in_time {
                // A last look: what came with the deadline is not thrown away.
                return ready(poll(&mut cx));
            }
        }
    }
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::task::{Poll, Waker};
    use std::time::Instant;

    #[test]
    fn spinning_never_sleeps_and_parking_does_at_once() {
        let mut spinning = Backoff::new(WaitStrategy::Spin);
        assert!((0..10 * SPINS).all(|_| spinning.snooze() == Step::Retry));
        assert_eq!(Backoff::new(WaitStrategy::Park).snooze(), Step::Park);
    }

    #[test]
    fn an_adaptive_wait_comes_to_sleep_stays_there_and_starts_again_when_reset() {
        let mut backoff = Backoff::new(WaitStrategy::Adaptive);
        let looks =
            |backoff: &mut Backoff| (0..).take_while(|_| backoff.snooze() == Step::Retry).count() as u32;
        let expected = if is_single_core() { YIELDS } else { SPINS + YIELDS };
        assert_eq!(looks(&mut backoff), expected);
        assert_eq!(looks(&mut backoff), 0);
        backoff.reset();
        assert_eq!(looks(&mut backoff), expected);
    }

    #[test]
    fn a_wait_arranges_to_be_woken_only_before_it_sleeps() {
        for (strategy, before_sleep) in [
            (WaitStrategy::Park, 1),
            (WaitStrategy::Adaptive, 1 + if is_single_core() { YIELDS } else { SPINS + YIELDS }),
        ] {
            let bare = Cell::new(0);
            let found = spin_then_park(strategy, None, |cx| match cx {
                None => {
                    bare.set(bare.get() + 1);
                    Poll::Pending
                }
                Some(cx) => {
                    assert!(cx.waker().will_wake(&thread_waker()));
                    Poll::Ready(bare.get())
                }
            });
            assert_eq!(found, Some(before_sleep));
        }
    }

    #[test]
    fn a_passed_deadline_ends_every_wait_after_a_last_look() {
        let now = Some(Instant::now());
        for strategy in [WaitStrategy::Spin, WaitStrategy::Adaptive, WaitStrategy::Park] {
            let looks = Cell::new(0);
            let look = || {
                looks.set(looks.get() + 1);
                Poll::<()>::Pending
            };
            assert_eq!(spin_then_park(strategy, now, |_| look()), None);
            assert!(looks.replace(0) >= 2, "{strategy:?}");
            assert_eq!(block_on_poll(strategy, now, |_| look()), None);
            assert!(looks.get() >= 2, "{strategy:?}");
        }
        assert!(!park(now));
    }

    #[test]
    fn a_wake_up_before_the_sleep_is_kept() {
        for strategy in [WaitStrategy::Adaptive, WaitStrategy::Park] {
            let mut polls = 0;
            let found = block_on_poll(strategy, None, |cx| {
                polls += 1;
                // Woken each time, so the sleep returns each time; without that this would hang.
                cx.waker().wake_by_ref();
                if polls > 3 * YIELDS { Poll::Ready(polls) } else { Poll::Pending }
            });
            assert_eq!(found, Some(3 * YIELDS + 1));
        }
    }

    #[test]
    fn a_thread_has_one_waker_of_its_own() {
        let here: Waker = thread_waker();
        assert!(here.will_wake(&thread_waker()));
        let there = std::thread::spawn(thread_waker).join().unwrap();
        assert!(!here.will_wake(&there));
        // The thread is gone: waking it does nothing.
        there.wake();
    }
}
