//! Counters and latency histograms of a ring kernel: always on, and read without stopping it.
//!
//! Counters are exact. Each has a single writer or is on a rare path, so that counting costs a plain store. Latencies are measured for the
//! messages that [`Telemetry`] selects, and stored in histograms with a relative error below
//! 1 %: the time from sending to the start of handling, and the time in the handler.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::fault::Reason;
#[cfg(feature = "histograms")]
use crate::histogram::Histogram;
use crate::lifecycle::State;
#[cfg(not(feature = "histograms"))]
use crate::no_histogram::Histogram;
use crate::options::{KernelOptions, Placement, Telemetry};
use crate::status::{Blocked, Status};

/// Counters and latencies of a ring kernel.
///
/// While its senders are idle and no handler runs, `sent = handled + dead letters + queued` holds exactly
/// ([`KernelStats::is_conserved`]).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KernelStats {
    /// The ring kernel's name.
    pub kernel: String,
    /// Its state.
    pub state: State,
    /// Why it takes no message at present although it is running. `None` if nothing prevents it.
    pub blocked: Option<Blocked>,
    /// Messages accepted by its mailbox, or received over links.
    pub sent: u64,
    /// Messages among them that arrived over a link from another ring kernel on the same device, without the host.
    pub linked: u64,
    /// Messages whose handler succeeded.
    pub handled: u64,
    /// Messages in its mailbox, or in links to it. After a loop has leaked its context: all messages that the context holds.
    pub queued: u64,
    /// Accepted messages that will never be handled.
    pub dead_letters: u64,
    /// Dead letters by reason, without reasons that did not occur.
    pub dead_letters_by_reason: Vec<(Reason, u64)>,
    /// Messages returned to their senders because the mailbox was full, and outputs of connected ring kernels that it rejected.
    pub rejected: u64,
    /// Outputs accepted by the output ring or by connected ring kernels.
    pub emitted: u64,
    /// Outputs that no destination accepted. Not among `dead_letters`, since no mailbox had accepted them.
    pub undelivered: u64,
    /// Outputs that were dropped because the ring kernels that they were for have ended, or were told to.
    pub unrouted: u64,
    /// Requests replied to, or whose reply handle was taken with `take_reply`. Also counts replies whose caller no longer waited.
    pub replied: u64,
    /// Replies that were dropped: the message was sent with `tell`, or already had its reply.
    pub unasked_replies: u64,
    /// Restarts decided after a fault. The state is rebuilt after the backoff.
    pub restarts: u64,
    /// Time from sending to the start of handling.
    pub queue_time: LatencySummary,
    /// Time in the handler.
    pub handle_time: LatencySummary,
}

impl KernelStats {
    /// Whether every accepted message is accounted for: `sent = handled + dead letters + queued`.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.sent == self.handled + self.dead_letters + self.queued
    }

    /// Returns the state together with what the ring kernel waits for, to be displayed: `Active`, or `Active, waiting for room in its
    /// output ring: 1,024 outputs unread`.
    #[must_use]
    pub fn status(&self) -> Status {
        Status { state: self.state, blocked: self.blocked.clone() }
    }
}

/// Percentiles of a latency. All are zero if no message was timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencySummary {
    /// Number of timed messages.
    pub samples: u64,
    /// The median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// 99.9th percentile.
    pub p999: Duration,
    /// The maximum.
    pub max: Duration,
}

impl LatencySummary {
    fn of(histogram: &Histogram) -> Self {
        let at = |per_mille| Duration::from_nanos(histogram.per_mille(per_mille));
        Self {
            samples: histogram.count(),
            p50: at(500),
            p99: at(990),
            p999: at(999),
            max: Duration::from_nanos(histogram.max()),
        }
    }
}

/// A counter with a single writer and any number of readers.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only one thread at a time may call this: it is a plain load and store, not a read-modify-write.
    #[inline]
    pub(crate) fn increment_single_writer(&self) {
        // Relaxed: counters order nothing. A reader that needs final values first reads the state word (acquire).
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Adds one. Any thread may call this.
    pub(crate) fn increment(&self) {
        self.add(1);
    }

    /// Adds `count`. Any thread may call this.
    pub(crate) fn add(&self, count: u64) {
        // Release: a reader that sees the new count also sees what was done before it, such as the dead letter that was added.
        self.0.fetch_add(count, Ordering::Release);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// The counters of a ring kernel. Accepted and queued messages are counted by the mailbox itself.
///
/// Aligned to its own cache lines: the ring kernel writes here for every message, and senders read the adjacent state word.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) handled: Counter,
    pub(crate) emitted: Counter,
    pub(crate) unrouted: Counter,
    pub(crate) replied: Counter,
    pub(crate) unasked_replies: Counter,
    pub(crate) restarts: Counter,
    pub(crate) rejected: Counter,
    dead_letters: [Counter; Reason::ALL.len()],
}

impl Counters {
    pub(crate) fn count_dead_letter(&self, reason: Reason) {
        self.dead_letters[reason as usize].increment();
    }

    pub(crate) fn undelivered(&self) -> u64 {
        self.dead_letters[Reason::Undelivered as usize].get()
    }

    pub(crate) fn dead_letters_by_reason(&self) -> Vec<(Reason, u64)> {
        let counted = Reason::ALL.into_iter().zip(self.dead_letters.iter().map(Counter::get));
        counted.filter(|&(reason, count)| count > 0 && reason != Reason::Undelivered).collect()
    }
}

/// The two latency histograms of a ring kernel. With a dedicated thread all of their 36 KiB are allocated at launch, so that handling never
/// allocates. On the pool each part is allocated by the first latency in it, so that idle ring kernels stay small.
#[derive(Debug, Default)]
pub(crate) struct Latencies(OnceLock<Box<Mutex<LatencyHistograms>>>);

#[derive(Debug, Default)]
struct LatencyHistograms {
    queue: Histogram,
    handle: Histogram,
}

impl Latencies {
    pub(crate) fn of(options: &KernelOptions) -> Self {
        let latencies = Self::default();
        if options.placement != Placement::Pool && options.telemetry != Telemetry::CountersOnly {
            let mut histograms = latencies.lock();
            histograms.queue.allocate();
            histograms.handle.allocate();
        }
        latencies
    }

    fn lock(&self) -> MutexGuard<'_, LatencyHistograms> {
        self.0.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records one timed message. The lock is contended only while `stats` reads the histograms, which takes microseconds.
    pub(crate) fn record(&self, queue: Duration, handle: Duration) {
        let mut histograms = self.lock();
        histograms.queue.record(nanos(queue));
        histograms.handle.record(nanos(handle));
    }

    pub(crate) fn summaries(&self) -> (LatencySummary, LatencySummary) {
        if self.0.get().is_none() {
            return Default::default();
        }
        let histograms = self.lock();
        (LatencySummary::of(&histograms.queue), LatencySummary::of(&histograms.handle))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Selects on the sending side which messages are timed. The stamp travels with the message.
///
/// Each handle has its own sampler. With one per thread, a program that sends to two ring kernels alternately would only time the
/// second one.
#[derive(Debug)]
pub(crate) struct Sampler {
    every: u32,
    since_last: AtomicU32,
}

impl Sampler {
    pub(crate) fn new(telemetry: Telemetry) -> Self {
        let every = match telemetry {
            Telemetry::CountersOnly => 0,
            Telemetry::OneIn(every) => every.max(1),
        };
        Self { every, since_last: AtomicU32::new(0) }
    }

    /// Returns a time stamp for one message in `every`, and [`Stamp::NONE`] for the others.
    #[inline]
    pub(crate) fn stamp(&self) -> Stamp {
        if self.every == 0 {
            return Stamp::NONE;
        }
        // A load and a store, not a read-modify-write: threads that share a handle may lose a count, which is harmless.
        let next = self.since_last.load(Ordering::Relaxed).wrapping_add(1);
        if next < self.every {
            self.since_last.store(next, Ordering::Relaxed);
            return Stamp::NONE;
        }
        self.since_last.store(0, Ordering::Relaxed);
        Stamp::now()
    }
}

impl Clone for Sampler {
    fn clone(&self) -> Self {
        Self { every: self.every, since_last: AtomicU32::new(0) }
    }
}

/// The time at which a message was sent, in nanoseconds since the first stamp of this process. `NONE` if the message is not timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp(u64);

impl Stamp {
    pub(crate) const NONE: Self = Self(0);

    #[cold]
    fn now() -> Self {
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        // Add 1, so that a stamp is never 0, which means "not timed".
        Self(nanos(EPOCH.get_or_init(Instant::now).elapsed()) + 1)
    }

    #[inline]
    pub(crate) fn is_some(self) -> bool {
        self != Self::NONE
    }

    /// Returns the time since this stamp, and a stamp of the present time.
    pub(crate) fn elapsed_and_now(self) -> (Duration, Self) {
        let now = Self::now();
        (Duration::from_nanos(now.0.saturating_sub(self.0)), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_message_in_n_is_stamped() {
        let sampler = Sampler::new(Telemetry::OneIn(4));
        let stamped = (0..400).filter(|_| sampler.stamp().is_some()).count();
        assert_eq!(stamped, 100);
        assert!(Sampler::new(Telemetry::EVERY).stamp().is_some());
        assert!(!Sampler::new(Telemetry::CountersOnly).stamp().is_some());
    }

    #[cfg(feature = "histograms")]
    #[test]
    fn latencies_are_summarized() {
        let latencies = Latencies::default();
        assert_eq!(latencies.summaries().0.samples, 0);
        for micros in 1..=100 {
            latencies.record(Duration::from_micros(micros), Duration::from_nanos(5));
        }
        let (queue, handle) = latencies.summaries();
        assert_eq!(queue.samples, 100);
        assert!((queue.p50.as_nanos() as f64 - 50_000.0).abs() <= 500.0, "{queue:?}");
        assert_eq!(handle.max, Duration::from_nanos(5));
        latencies.record(Duration::MAX, Duration::ZERO);
        assert_eq!(latencies.summaries().0.max, Duration::from_secs(3600));
    }

    #[test]
    fn histograms_are_allocated_at_launch_for_dedicated_threads_only() {
        let allocated = |options: KernelOptions| Latencies::of(&options).0.get().is_some();
        assert!(allocated(KernelOptions::new().dedicated()));
        assert!(!allocated(KernelOptions::new()), "on the pool");
        assert!(!allocated(KernelOptions::new().dedicated().telemetry(Telemetry::CountersOnly)));
    }

    #[test]
    fn undelivered_outputs_are_not_dead_letters_of_the_input() {
        let counters = Counters::default();
        counters.count_dead_letter(Reason::Undelivered);
        counters.count_dead_letter(Reason::Evicted);
        assert_eq!(counters.dead_letters_by_reason(), [(Reason::Evicted, 1)]);
        assert_eq!(counters.undelivered(), 1);
    }
}
