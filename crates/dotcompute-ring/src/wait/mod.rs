//! How to wait: spinning, sleeping, or first the one and then the other.

mod backoff;
#[cfg(all(feature = "std", not(loom)))]
mod block;

pub use backoff::{Backoff, Step};
#[cfg(all(feature = "std", not(loom)))]
pub use block::{block_on_poll, park, spin_then_park, thread_waker};

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
