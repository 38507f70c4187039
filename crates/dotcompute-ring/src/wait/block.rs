//! Waits that block the calling thread.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use super::backoff::YIELD_POLLS;
use super::{Backoff, Step, WaitStrategy};

/// Polls of a spinning wait per read of the clock, which costs as much as several polls.
const POLLS_PER_CLOCK_READ: u32 = 64;

/// Unparks a thread that is in [`park`].
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

/// Returns a waker that ends a [`park`] of the calling thread. Every call of a thread returns the same waker.
#[must_use]
pub fn thread_waker() -> Waker {
    // While the thread's locals are being destroyed, a new waker serves as well.
    WAKER.try_with(Waker::clone).unwrap_or_else(|_| Waker::from(Arc::new(Unpark(std::thread::current()))))
}

/// Parks until the thread's waker is used or the deadline passes. May wake spuriously. False if the deadline has passed.
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

/// Polls on this thread until the poll is ready, waiting as `strategy` says. `None` if the deadline passes.
///
/// While spinning, `poll` is called with `None` and only polls. With a context, `poll` registers the context's waker, rechecks, and only
/// then returns `Pending`. Registering can take a system call (see [`fence`](crate::fence)), so it happens only when the thread is about to
/// park. After the deadline, the caller cancels the registration.
///
/// Allocates nothing, except the thread's waker at its first park.
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

/// Polls on this thread until ready: `poll` is the poll of a future, which registers the waker before it returns `Pending`. `None` if the
/// deadline passes.
///
/// Allocates nothing, except the thread's waker at its first use. If polling is possible without registering, use [`spin_then_park`].
pub fn block_on_poll<T>(
    strategy: WaitStrategy,
    deadline: Option<Instant>,
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    let waker = thread_waker();
    let mut cx = Context::from_waker(&waker);
    // Registering has a cost, so an adaptive wait polls only a few times here.
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
            // A last poll: an event that arrived with the deadline is not discarded.
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
                // Woken each time, so each park returns; otherwise this would hang.
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
        // The thread has ended: waking it does nothing.
        there.wake();
    }
}
