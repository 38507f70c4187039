//! How a ring kernel is to be run: queue sizes, backpressure, placement, waiting, supervision, telemetry.

use std::time::Duration;

use dotcompute_ring::wait::WaitStrategy;

use crate::supervision::Supervision;

/// What a sender meets when the band of the input ring it sends to is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backpressure {
    /// The sender waits for room, up to the timeout if there is one.
    #[default]
    Block,
    /// As `Block`, but a sender that waited this long gets its message back in an error.
    BlockFor(Duration),
    /// The sender gets its message back in an error at once.
    Reject,
    /// The oldest queued message of the same priority band makes room and becomes a dead letter.
    DropOldest,
}

/// Where a ring kernel runs on the CPU backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// A worker of the runtime's pool, shared with other ring kernels: costs memory only while idle.
    #[default]
    Pool,
    /// A thread of its own: the lowest latency.
    Dedicated,
    /// A thread of its own, tied to one core (counted from 0 in the order the operating system lists them).
    Pinned(usize),
}

/// Which messages have their latencies measured.
///
/// Counters are always exact. Reading a clock three times costs more than moving a small message, so by default
/// one message in 128 is timed, counted per sending thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telemetry {
    /// Count only.
    CountersOnly,
    /// Time one message in this many (0 is taken as 1).
    OneIn(u32),
}

impl Telemetry {
    /// Times every message.
    pub const EVERY: Self = Self::OneIn(1);
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::OneIn(128)
    }
}

/// How one ring kernel is to be run. Start from [`KernelOptions::new`] and change what matters.
///
/// ```
/// use std::time::Duration;
/// use dotcompute_core::options::{Backpressure, KernelOptions};
/// use dotcompute_core::supervision::Supervision;
///
/// let options = KernelOptions::new()
///     .capacity(64)
///     .backpressure(Backpressure::DropOldest)
///     .supervision(Supervision::restart(3, Duration::from_secs(10)))
///     .dedicated();
/// assert_eq!(options.capacity, 64);
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KernelOptions {
    /// Messages each priority band of the input ring holds; rounded up to a power of two. Default 1024.
    pub capacity: usize,
    /// Messages the output ring holds; rounded up to a power of two. Default 1024.
    pub output_capacity: usize,
    /// What happens when the input is full.
    pub backpressure: Backpressure,
    /// Where it runs.
    pub placement: Placement,
    /// How it waits for messages, and how its askers wait for answers.
    ///
    /// On the pool a ring kernel never spins: the worker turns to other ring kernels instead.
    pub wait: WaitStrategy,
    /// What happens after a panic or an error.
    pub supervision: Supervision,
    /// Which messages are timed.
    pub telemetry: Telemetry,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            capacity: 1024,
            output_capacity: 1024,
            backpressure: Backpressure::default(),
            placement: Placement::default(),
            wait: WaitStrategy::default(),
            supervision: Supervision::default(),
            telemetry: Telemetry::default(),
        }
    }
}

impl KernelOptions {
    /// The defaults: 1024 messages a band, `Block`, on the pool, `Adaptive`, `Never` restarted, one message in 128 timed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many messages each priority band of the input ring holds.
    #[must_use]
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = messages;
        self
    }

    /// Sets how many messages the output ring holds.
    #[must_use]
    pub fn output_capacity(mut self, messages: usize) -> Self {
        self.output_capacity = messages;
        self
    }

    /// Sets what happens when the input is full.
    #[must_use]
    pub fn backpressure(mut self, backpressure: Backpressure) -> Self {
        self.backpressure = backpressure;
        self
    }

    /// Gives the ring kernel a thread of its own.
    #[must_use]
    pub fn dedicated(mut self) -> Self {
        self.placement = Placement::Dedicated;
        self
    }

    /// Gives the ring kernel a thread of its own, tied to one core.
    #[must_use]
    pub fn pinned(mut self, core: usize) -> Self {
        self.placement = Placement::Pinned(core);
        self
    }

    /// Sets how the ring kernel waits for messages and its askers for answers.
    #[must_use]
    pub fn wait(mut self, wait: WaitStrategy) -> Self {
        self.wait = wait;
        self
    }

    /// Sets what happens after a panic or an error.
    #[must_use]
    pub fn supervision(mut self, supervision: Supervision) -> Self {
        self.supervision = supervision;
        self
    }

    /// Sets which messages are timed.
    #[must_use]
    pub fn telemetry(mut self, telemetry: Telemetry) -> Self {
        self.telemetry = telemetry;
        self
    }
}
