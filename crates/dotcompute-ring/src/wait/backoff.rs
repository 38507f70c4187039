//! Backoff: the pace of the polls of one wait.

use super::WaitStrategy;
use crate::sync::spin_loop;
#[cfg(feature = "std")]
use crate::sync::yield_now;

/// What to do after a poll that found nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Poll again.
    Retry,
    /// Register to be woken, recheck, and park.
    Park,
}

/// Polls without a pause at the start of a wait. A pause instruction (up to 140 cycles on recent x86) can take longer than the reply.
const HOT_POLLS: u32 = 64;
/// Polls of an adaptive wait before it yields: 5 to 20 µs, depending on how long the CPU's pause instruction takes.
pub(super) const SPIN_POLLS: u32 = 400;
/// Yields of an adaptive wait before it parks. Without an operating system there is no other thread to yield to.
pub(super) const YIELD_POLLS: u32 = if cfg!(feature = "std") { 4 } else { 0 };

/// Paces the polls of one wait.
///
/// ```
/// use dotcompute_ring::wait::{Backoff, Step, WaitStrategy};
///
/// let mut backoff = Backoff::new(WaitStrategy::Adaptive);
/// let mut polls = 1;
/// while backoff.snooze() == Step::Retry {
///     polls += 1; // Poll here.
/// }
/// assert!(polls > 1); // Now park.
/// ```
#[derive(Debug, Clone)]
pub struct Backoff {
    strategy: WaitStrategy,
    polls: u32,
}

impl Backoff {
    /// Starts a wait.
    #[inline]
    #[must_use]
    pub const fn new(strategy: WaitStrategy) -> Self {
        Self { strategy, polls: 0 }
    }

    /// Starts over: the awaited event has occurred, and there is another one to wait for.
    #[inline]
    pub const fn reset(&mut self) {
        self.polls = 0;
    }

    /// Waits a moment, or returns that it is time to park.
    #[inline]
    pub fn snooze(&mut self) -> Step {
        match self.strategy {
            WaitStrategy::Park => Step::Park,
            // Not even a pause instruction: the thread has a core of its own.
            WaitStrategy::Spin => {
                // Loom must be told that the thread spins, or it explores endless polling.
                #[cfg(loom)]
                spin_loop();
                Step::Retry
            }
            WaitStrategy::Adaptive => self.snooze_adaptively(),
        }
    }

    #[inline]
    fn snooze_adaptively(&mut self) -> Step {
        if self.polls < HOT_POLLS && !is_single_core() {
            self.polls += 1;
            return Step::Retry;
        }
        self.spin_once()
    }

    fn spin_once(&mut self) -> Step {
        if self.polls < SPIN_POLLS && is_single_core() {
            self.polls = SPIN_POLLS;
        }
        if self.polls == SPIN_POLLS + YIELD_POLLS {
            return Step::Park;
        }
        self.polls += 1;
        if self.polls <= SPIN_POLLS {
            spin_loop();
        } else {
            #[cfg(feature = "std")]
            yield_now();
        }
        Step::Retry
    }
}

/// Returns whether spinning only keeps the other side from running.
#[cfg(all(feature = "std", not(loom)))]
pub(super) fn is_single_core() -> bool {
    use std::sync::OnceLock;
    static SINGLE: OnceLock<bool> = OnceLock::new();
    *SINGLE.get_or_init(|| cores_online() == Some(1))
}

/// Returns the number of the machine's cores, regardless of thread affinity. `available_parallelism` returns 1 on a pinned thread, and the
/// first caller's result is cached for all.
#[cfg(all(feature = "std", not(loom), unix))]
fn cores_online() -> Option<usize> {
    // SAFETY: the call takes one integer and accesses no memory of the process.
    let online = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(online).ok()
}

#[cfg(all(feature = "std", not(loom), not(unix)))]
fn cores_online() -> Option<usize> {
    std::thread::available_parallelism().ok().map(usize::from)
}

#[cfg(any(not(feature = "std"), loom))]
pub(super) fn is_single_core() -> bool {
    false
}

#[cfg(all(test, feature = "std", not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn spin_never_parks_and_park_parks_at_once() {
        let mut spinning = Backoff::new(WaitStrategy::Spin);
        assert!((0..10 * SPIN_POLLS).all(|_| spinning.snooze() == Step::Retry));
        assert_eq!(Backoff::new(WaitStrategy::Park).snooze(), Step::Park);
    }

    #[test]
    fn an_adaptive_wait_parks_and_starts_again_when_reset() {
        let mut backoff = Backoff::new(WaitStrategy::Adaptive);
        let polls =
            |backoff: &mut Backoff| (0..).take_while(|_| backoff.snooze() == Step::Retry).count() as u32;
        let expected = if is_single_core() { YIELD_POLLS } else { SPIN_POLLS + YIELD_POLLS };
        assert_eq!(polls(&mut backoff), expected);
        assert_eq!(polls(&mut backoff), 0);
        backoff.reset();
        assert_eq!(polls(&mut backoff), expected);
    }
}
