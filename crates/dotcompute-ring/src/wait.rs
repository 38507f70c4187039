//! How to wait: spinning, sleeping, or first the one and then the other.

use crate::sync::spin_loop;

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
    Again,
    /// Arrange to be woken, look once more, and sleep.
    Sleep,
}

/// Looks of an adaptive wait before it offers its core to others: 5 to 20 µs, by how long the processor's pause takes.
const SPINS: u32 = 400;
/// Times an adaptive wait offers its core before it sleeps.
const YIELDS: u32 = 4;
/// Looks without a pause at first: what a pause costs (up to 140 cycles on recent x86) is more than the answer may take.
const EAGER: u32 = 64;

/// Paces the looks of one wait.
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

    /// Waits a moment, or says that the time has come to sleep.
    #[inline]
    pub fn snooze(&mut self) -> Step {
        match self.strategy {
            WaitStrategy::Park => Step::Sleep,
            // Not even a pause: its core is its own.
            WaitStrategy::Spin => {
                #[cfg(loom)]
                spin_loop();
                Step::Again
            }
            WaitStrategy::Adaptive => self.snooze_adaptively(),
        }
    }

    #[inline]
    fn snooze_adaptively(&mut self) -> Step {
        self.looks += 1;
        if self.looks <= EAGER && !is_single_core() {
            return Step::Again;
        }
        self.relax()
    }

    fn relax(&mut self) -> Step {
        if self.looks <= SPINS && !is_single_core() {
            spin_loop();
            return Step::Again;
        }
        #[cfg(feature = "std")]
        if self.looks <= SPINS + YIELDS {
            crate::sync::yield_now();
            return Step::Again;
        }
        Step::Sleep
    }
}

/// Whether spinning only keeps the other side from running.
#[cfg(all(feature = "std", not(loom)))]
fn is_single_core() -> bool {
    use std::sync::OnceLock;
    static SINGLE: OnceLock<bool> = OnceLock::new();
    *SINGLE.get_or_init(|| std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1))
}

#[cfg(any(not(feature = "std"), loom))]
fn is_single_core() -> bool {
    false
}

#[cfg(all(feature = "std", not(loom)))]
pub use threads::{park, thread_waker, wait_until};

#[cfg(all(feature = "std", not(loom)))]
mod threads {
    use std::sync::Arc;
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread::Thread;
    use std::time::Instant;

    use super::{Step, WaitStrategy};

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

    /// Polls until ready, on this thread: `poll` is a future's poll, which arranges to be woken before it says `Pending`. None when
    /// the deadline has passed.
    ///
    /// Allocates nothing. A poll that can look without arranging to be woken is better spun by its owner first.
    pub fn wait_until<T>(
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
                WaitStrategy::Spin => Step::Again,
                WaitStrategy::Adaptive if looks < super::YIELDS => {
                    looks += 1;
                    std::thread::yield_now();
                    Step::Again
                }
                WaitStrategy::Adaptive | WaitStrategy::Park => Step::Sleep,
            };
            let in_time = match step {
                Step::Sleep => park(deadline),
                Step::Again => deadline.is_none_or(|deadline| Instant::now() < deadline),
            };
            if !in_time {
                // A last look: what came with the deadline is not thrown away.
                return match poll(&mut cx) {
                    Poll::Ready(value) => Some(value),
                    Poll::Pending => None,
                };
            }
        }
    }
}
