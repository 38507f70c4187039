//! Wait strategies: spinning, parking, or spinning first and then parking.

mod backoff;
#[cfg(all(feature = "std", not(loom)))]
mod block;

pub use backoff::{Backoff, Step};
#[cfg(all(feature = "std", not(loom)))]
pub use block::{block_on_poll, park, spin_then_park, thread_waker};

/// How a thread waits for a message, a reply or a free slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum WaitStrategy {
    /// Polls continuously and never yields its core: the lowest latency, for threads that have a core of their own.
    Spin,
    /// Spins for some microseconds, then yields a few times, then parks until it is woken.
    #[default]
    Adaptive,
    /// Parks at once until it is woken.
    Park,
}
