//! Counters and latency histograms of a ring kernel: always on, read without stopping anything.
//!
//! Counters are exact. Each is written by one thread, or on paths that are rare anyway, so that counting costs a plain store.
//! Latencies are measured for the messages that [`Telemetry`] picks, and kept in
//! [HDR histograms](https://hdrhistogram.github.io/HdrHistogram/) with two significant digits: the time from sending to the
//! start of handling, and the time in the handler.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

#[cfg(not(feature = "histograms"))]
use crate::no_histogram as hdrhistogram;
use hdrhistogram::Histogram;

use crate::fault::Reason;
use crate::lifecycle::State;
use crate::options::{KernelOptions, Placement, Telemetry};

/// What has happened in a ring kernel so far.
///
/// Once its senders rest and no handler runs, `sent = handled + dead letters + queued` holds exactly
/// ([`KernelStats::is_conserved`]).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct KernelStats {
    /// The ring kernel's name.
    pub kernel: String,
    /// Its state.
    pub state: State,
    /// Messages accepted by its input ring.
    pub sent: u64,
    /// Those of them that came from another ring kernel in the memory of their device, without the host.
    pub linked: u64,
    /// Messages whose handler returned well.
    pub handled: u64,
    /// Messages in its input ring.
    pub queued: u64,
    /// Accepted messages that will never be handled.
    pub dead_letters: u64,
    /// Those, by reason; reasons that never occurred are left out.
    pub dead_letters_by_reason: Vec<(Reason, u64)>,
    /// Messages handed back to their senders because the ring was full.
    pub rejected: u64,
    /// Outputs accepted by the output ring or by connected ring kernels.
    pub emitted: u64,
    /// Outputs that nobody would take; not among `dead_letters`, since they were never accepted anywhere.
    pub undelivered: u64,
    /// Answers given to askers.
    pub replied: u64,
    /// Times the state was made anew after a fault.
    pub restarts: u64,
    /// From sending to the start of handling.
    pub queue_time: LatencySummary,
    /// In the handler.
    pub handle_time: LatencySummary,
}

impl KernelStats {
    /// Whether every accepted message is accounted for: `sent = handled + dead letters + queued`.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.sent == self.handled + self.dead_letters + self.queued
    }
}

/// Percentiles of a latency; all zero when nothing was timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LatencySummary {
    /// How many messages were timed.
    pub samples: u64,
    /// Half were at most this.
    pub p50: Duration,
    /// 99 % were at most this.
    pub p99: Duration,
    /// 99.9 % were at most this.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

impl LatencySummary {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| Duration::from_nanos(histogram.value_at_quantile(quantile));
        Self {
            samples: histogram.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: Duration::from_nanos(histogram.max()),
        }
    }
}

/// Latencies beyond are recorded as this.
const LONGEST: Duration = Duration::from_secs(3600);

/// A counter with one writer at a time, read by anyone.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds one. Only one thread may call this at a time: a plain load and store, not a read-modify-write.
    #[inline]
    pub(crate) fn bump_exclusively(&self) {
        // Relaxed: counters order nothing; a reader that needs them final waits for the state word (acquire) first.
        self.0.store(self.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Adds one, from any thread.
    pub(crate) fn bump(&self) {
        self.add(1);
    }

    /// Adds as many, from any thread.
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A ring kernel's counters. What the rings themselves count (accepted, taken) is not counted twice.
///
/// On lines of their own: the ring kernel writes here with every message, and senders read the state that lies beside.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    pub(crate) handled: Counter,
    pub(crate) emitted: Counter,
    pub(crate) replied: Counter,
    pub(crate) restarts: Counter,
    pub(crate) rejected: Counter,
    dead: [Counter; Reason::ALL.len()],
}

impl Counters {
    pub(crate) fn count_dead(&self, reason: Reason) {
        self.dead[reason as usize].bump();
    }

    pub(crate) fn undelivered(&self) -> u64 {
        self.dead[Reason::Undelivered as usize].get()
    }

    pub(crate) fn dead_by_reason(&self) -> Vec<(Reason, u64)> {
        let counted = Reason::ALL.into_iter().zip(self.dead.iter().map(Counter::get));
        counted.filter(|&(reason, count)| count > 0 && reason != Reason::Undelivered).collect()
    }
}

/// The two latency histograms of a ring kernel, some 70 KB. One with a thread of its own has them from its launch, so that nothing is
/// allocated while it handles; one on the pool gets them with its first timed message, so that idle ones cost nothing.
#[derive(Debug, Default)]
pub(crate) struct Latencies(OnceLock<Box<Mutex<Timed>>>);

#[derive(Debug)]
struct Timed {
    queue: Histogram<u64>,
    handle: Histogram<u64>,
}

impl Latencies {
    pub(crate) fn of(options: &KernelOptions) -> Self {
        let latencies = Self::default();
        if options.placement != Placement::Pool && options.telemetry != Telemetry::CountersOnly {
            latencies.timed();
        }
        latencies
    }

    fn timed(&self) -> &Mutex<Timed> {
        self.0.get_or_init(|| Box::new(Mutex::new(Timed { queue: histogram(), handle: histogram() })))
    }

    /// Records one timed message. Uncontended but while somebody copies the histograms, which takes microseconds.
    pub(crate) fn record(&self, queue: Duration, handle: Duration) {
        let mut timed = self.timed().lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        timed.queue.saturating_record(nanos(queue));
        timed.handle.saturating_record(nanos(handle));
    }

    pub(crate) fn summaries(&self) -> (LatencySummary, LatencySummary) {
        let Some(timed) = self.0.get() else { return Default::default() };
        // Copied under the lock, evaluated outside it: the ring kernel never waits for percentiles.
        let (queue, handle) = {
            let timed = timed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            (timed.queue.clone(), timed.handle.clone())
        };
        (LatencySummary::of(&queue), LatencySummary::of(&handle))
    }
}

/// Of a fixed range: one that grew would allocate while messages are handled.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST.as_nanos() as u64, 2)
        .expect("the bounds are in order, and two significant digits within the crate's 0 to 5")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Decides on the sending side whether a message is timed; the stamp that travels with it tells the ring kernel.
///
/// Each handle has one of its own: with one for a whole thread, a program that sends to two ring kernels in turn would
/// only ever time the second.
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

    /// A time stamp for one message in `every`.
    #[inline]
    pub(crate) fn stamp(&self) -> Stamp {
        if self.every == 0 {
            return Stamp::NONE;
        }
        // A load and a store, not a read-modify-write: threads that share a handle may lose a count, which does no harm.
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

/// When a message was sent, in nanoseconds since the first use in this process; or that it is not timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp(u64);

impl Stamp {
    pub(crate) const NONE: Self = Self(0);

    #[cold]
    fn now() -> Self {
        static EPOCH: OnceLock<Instant> = OnceLock::new();
        // One is added so that a stamp is never the zero that means "not timed".
        Self(nanos(EPOCH.get_or_init(Instant::now).elapsed()) + 1)
    }

    #[inline]
    pub(crate) fn is_some(self) -> bool {
        self != Self::NONE
    }

    /// The time from this stamp to the present, and a stamp for the present.
    pub(crate) fn lap(self) -> (Duration, Self) {
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
    fn latencies_are_summarised() {
        let latencies = Latencies::default();
        assert_eq!(latencies.summaries().0.samples, 0);
        for micros in 1..=100 {
            latencies.record(Duration::from_micros(micros), Duration::from_nanos(5));
        }
        let (queue, handle) = latencies.summaries();
        assert_eq!(queue.samples, 100);
        // Two significant digits: within 1 %.
        assert!((queue.p50.as_nanos() as f64 - 50_000.0).abs() <= 500.0, "{queue:?}");
        assert_eq!(handle.max, Duration::from_nanos(5));
        latencies.record(2 * LONGEST, Duration::ZERO);
        let longest = latencies.summaries().0.max;
        assert!((LONGEST..LONGEST.mul_f64(1.01)).contains(&longest), "{longest:?}");
    }

    #[test]
    fn histograms_are_there_from_the_start_where_a_thread_is() {
        let made = |options: KernelOptions| Latencies::of(&options).0.get().is_some();
        assert!(made(KernelOptions::new().dedicated()));
        assert!(!made(KernelOptions::new()), "on the pool");
        assert!(!made(KernelOptions::new().dedicated().telemetry(Telemetry::CountersOnly)));
    }

    #[test]
    fn undelivered_outputs_are_not_dead_letters_of_the_input() {
        let counters = Counters::default();
        counters.count_dead(Reason::Undelivered);
        counters.count_dead(Reason::Evicted);
        assert_eq!(counters.dead_by_reason(), [(Reason::Evicted, 1)]);
        assert_eq!(counters.undelivered(), 1);
    }
}
