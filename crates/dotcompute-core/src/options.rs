//! Options of a ring kernel: capacities, order of priorities, backpressure, placement, waiting, supervision, telemetry.

use std::time::Duration;

pub use dotcompute_ring::mailbox::BandOrder;
use dotcompute_ring::wait::WaitStrategy;

use crate::supervision::Supervision;

/// What happens to a sender when its priority band of the mailbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backpressure {
    /// The sender waits for a free slot. A call with a timeout waits at most that long.
    #[default]
    Block,
    /// Like `Block`, but after this time the sender gets its message back in an error.
    BlockFor(Duration),
    /// The sender gets its message back in an error at once.
    Reject,
    /// The oldest queued message of the same band is dropped and becomes a dead letter.
    DropOldest,
}

/// Where a ring kernel runs on the CPU backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// On a worker of the runtime's pool, shared with other ring kernels. Costs only memory while idle.
    #[default]
    Pool,
    /// On a dedicated thread: the lowest latency.
    Dedicated,
    /// On a dedicated thread pinned to one core, counted from 0 in the order of the operating system.
    Pinned(usize),
}

/// Whether an [`ask`](crate::handle::KernelHandle::ask), [`ask_async`](crate::handle::KernelHandle::ask_async) or
/// [`begin_ask`](crate::handle::KernelHandle::begin_ask) of an idle ring kernel on the pool may run the handler on the calling thread.
///
/// Such an ask wakes no other thread: it takes about a tenth of a microsecond, and to wake a worker takes several. Only the thread differs.
/// Messages are still handled one at a time and in order, a panic or an error still ends at the message boundary, and the accounting is the
/// same. If the ring kernel is busy, the ask is an ordinary one.
///
/// A caller that runs the handler itself returns when the handler does: [`abort`](crate::handle::KernelHandle::abort) cannot release it
/// before. An ask with a timeout never runs a handler inline, since it could not leave the handler in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InlineAsks {
    /// Only a worker runs the handler.
    Never,
    /// If the handler was short so far: its last 64 messages took at most ten microseconds each. Once two in a row take longer, workers handle
    /// the next 1,024. Handlers in the form of a loop, and asks from inside a handler, always wake a worker.
    #[default]
    IfShort,
    /// Always.
    Always,
}

/// Which messages have their latencies measured.
///
/// Counters are always exact. Reading the clock three times costs more than moving a small message. By default, one message in 128 is
/// timed. Each handle and each connection counts its own messages; a clone of a handle starts at zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telemetry {
    /// Count only.
    CountersOnly,
    /// Time one message in this many. 0 means 1.
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

/// Options of one ring kernel. Start from [`KernelOptions::new`].
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
    /// Capacity of each priority band of the mailbox, in messages; rounded up to a power of two. Default 1024.
    pub capacity: usize,
    /// Capacity of the output ring, in messages; rounded up to a power of two. Default 1024.
    pub output_capacity: usize,
    /// Limit of the outputs that wait for free slots in their destinations, in messages. A handler that sends more fails its message.
    /// Default 65,536.
    pub queued_output_limit: usize,
    /// In which order the priority bands are served. By default lower bands age: one that waits gets its turn after 32 messages of higher
    /// bands. The system band (priorities from 224 on) is not delayed by that.
    pub band_order: BandOrder,
    /// What happens to senders when the mailbox is full.
    pub backpressure: Backpressure,
    /// Where it runs.
    pub placement: Placement,
    /// How it waits for messages, and how callers wait for its replies.
    ///
    /// On the pool a ring kernel never spins: its worker runs other ring kernels instead.
    pub wait: WaitStrategy,
    /// What happens after a panic or an error.
    pub supervision: Supervision,
    /// Which messages are timed.
    pub telemetry: Telemetry,
    /// Whether an ask may run the handler on the calling thread. By default, if the handler was short so far.
    pub inline_asks: InlineAsks,
}

impl Default for KernelOptions {
    fn default() -> Self {
        Self {
            capacity: 1024,
            output_capacity: 1024,
            queued_output_limit: 65_536,
            band_order: BandOrder::default(),
            backpressure: Backpressure::default(),
            placement: Placement::default(),
            wait: WaitStrategy::default(),
            supervision: Supervision::default(),
            telemetry: Telemetry::default(),
            inline_asks: InlineAsks::default(),
        }
    }
}

impl KernelOptions {
    /// Returns the defaults: 1024 messages per band, aged bands, `Block`, on the pool, `Adaptive`, `Never` restarted, one message in 128 timed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the capacity of each priority band of the mailbox, in messages.
    #[must_use]
    pub fn capacity(mut self, messages: usize) -> Self {
        self.capacity = messages;
        self
    }

    /// Sets the capacity of the output ring, in messages.
    #[must_use]
    pub fn output_capacity(mut self, messages: usize) -> Self {
        self.output_capacity = messages;
        self
    }

    /// Sets how many outputs may wait for free slots in their destinations, in messages.
    ///
    /// A handler never waits for a free slot: what does not fit is queued, and the next message is handled once the queue is empty. One
    /// message can thus queue many outputs. Beyond this limit its outputs are dropped and counted as undelivered, and the message fails.
    #[must_use]
    pub fn queued_output_limit(mut self, outputs: usize) -> Self {
        self.queued_output_limit = outputs;
        self
    }

    /// Sets in which order the priority bands are served.
    ///
    /// ```
    /// use dotcompute_core::options::{BandOrder, KernelOptions};
    ///
    /// // A `High` message never waits for a `Normal` one that is not being handled yet, at the price that `Normal` may starve.
    /// let options = KernelOptions::new().band_order(BandOrder::Strict);
    /// assert_eq!(KernelOptions::new().band_order, BandOrder::Aged { after: 32 });
    /// # let _ = options;
    /// ```
    #[must_use]
    pub fn band_order(mut self, order: BandOrder) -> Self {
        self.band_order = order;
        self
    }

    /// Sets what happens to senders when the mailbox is full.
    #[must_use]
    pub fn backpressure(mut self, backpressure: Backpressure) -> Self {
        self.backpressure = backpressure;
        self
    }

    /// Places the ring kernel on a dedicated thread.
    #[must_use]
    pub fn dedicated(mut self) -> Self {
        self.placement = Placement::Dedicated;
        self
    }

    /// Places the ring kernel on a dedicated thread pinned to one core.
    #[must_use]
    pub fn pinned(mut self, core: usize) -> Self {
        self.placement = Placement::Pinned(core);
        self
    }

    /// Sets how the ring kernel waits for messages, and callers for its replies.
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

    /// Sets whether an ask may run the handler on the calling thread.
    ///
    /// ```
    /// use dotcompute_core::options::{InlineAsks, KernelOptions};
    ///
    /// // The handler blocks in a runtime of its own, which must not happen on a caller's thread.
    /// let options = KernelOptions::new().inline_asks(InlineAsks::Never);
    /// assert_eq!(options.inline_asks, InlineAsks::Never);
    /// ```
    #[must_use]
    pub fn inline_asks(mut self, inline_asks: InlineAsks) -> Self {
        self.inline_asks = inline_asks;
        self
    }
}
