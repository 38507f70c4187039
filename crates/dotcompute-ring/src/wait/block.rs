//! Waits that block the calling thread.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use super::backoff::YIELD_POLLS;
use super::{Backoff, Step, WaitStrategy};

/// Looks of a spinning wait before it looks at the clock, which costs as much as several looks.
const POLLS_PER_CLOCK_READ: u32 = 64;

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
            Some(remaining) if !remaining.is_zero() => std::thread::park_timeout(remaining),
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
/// While spinning, `poll` is called with `None` and just looks. With a context it arranges to be woken through its waker, looks once
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
/// let (reply, waiters) = (AtomicU32::new(0), WaitList::new(Fence::Symmetric));
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         reply.store(42, Ordering::Release);
///         waiters.notify_all();
///     });
///     let mut token = WaitToken::default();
///     let found = spin_then_park(WaitStrategy::Adaptive, None, |cx| {
///         if let Some(cx) = cx {
///             waiters.register(&mut token, cx.waker());
///         }
///         match reply.load(Ordering::Acquire) {
///             0 => Poll::Pending,
///             reply => Poll::Ready(reply),
///         }
///     });
///     waiters.cancel(&mut token);
///     assert_eq!(found, Some(42));
/// });
/// ```
#[inline]
pub fn spin_then_park<T>(
    strategy: WaitStrategy,
    deadline: Option<Instant>,
    mut poll: impl FnMut(Option<&mut Context<'_>>) -> Poll<T>,
) -> Option<T> {
    let mut backoff = Backoff::new(strategy);
    let mut polls = 0;
    loop {
        if let Poll::Ready(value) = poll(None) {
            return Some(value);
        }
        if backoff.snooze() == Step::Park {
            return block_on_poll(WaitStrategy::Park, deadline, |cx| poll(Some(cx)));
        }
        polls += 1;
        if polls == POLLS_PER_CLOCK_READ {
            polls = 0;
            if has_passed(deadline) {
                return ready(poll(None));
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
    let mut polls = 0;
    loop {
        if let Poll::Ready(value) = poll(&mut cx) {
            return Some(value);
        }
        let step = match strategy {
            WaitStrategy::Spin => Step::Retry,
            WaitStrategy::Adaptive if polls < YIELD_POLLS => {
                polls += 1;
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

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;
    use crate::wait::backoff::{SPIN_POLLS, is_single_core};
    use std::cell::Cell;

    #[test]
    fn a_wait_registers_only_before_it_parks() {
        for (strategy, before_park) in [
            (WaitStrategy::Park, 1),
            (
                WaitStrategy::Adaptive,
                1 + if is_single_core() { YIELD_POLLS } else { SPIN_POLLS + YIELD_POLLS },
            ),
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
            assert_eq!(found, Some(before_park));
        }
    }

    #[test]
    fn a_passed_deadline_ends_every_wait_after_a_last_poll() {
        let now = Some(Instant::now());
        for strategy in [WaitStrategy::Spin, WaitStrategy::Adaptive, WaitStrategy::Park] {
            let polls = Cell::new(0);
            let poll = || {
                polls.set(polls.get() + 1);
                Poll::<()>::Pending
            };
            assert_eq!(spin_then_park(strategy, now, |_| poll()), None);
            assert!(polls.replace(0) >= 2, "{strategy:?}");
            assert_eq!(block_on_poll(strategy, now, |_| poll()), None);
            assert!(polls.get() >= 2, "{strategy:?}");
        }
        assert!(!park(now));
    }

    #[test]
    fn a_wake_up_before_the_park_is_not_lost() {
        for strategy in [WaitStrategy::Adaptive, WaitStrategy::Park] {
            let mut polls = 0;
            let found = block_on_poll(strategy, None, |cx| {
                polls += 1;
                // Woken each time, so the sleep returns each time; without that this would hang.
                cx.waker().wake_by_ref();
                if polls > 3 * YIELD_POLLS { Poll::Ready(polls) } else { Poll::Pending }
            });
            assert_eq!(found, Some(3 * YIELD_POLLS + 1));
        }
    }

    #[test]
    fn a_thread_has_one_waker() {
        let here: Waker = thread_waker();
        assert!(here.will_wake(&thread_waker()));
        let there = std::thread::spawn(thread_waker).join().unwrap();
        assert!(!here.will_wake(&there));
        // The thread is gone: waking it does nothing.
        there.wake();
    }
}
