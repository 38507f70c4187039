//! Latencies of one ring kernel, in [HDR histograms](https://hdrhistogram.github.io/HdrHistogram/) with two significant digits.
//!
//! The first messages of a ring kernel are all timed, and then one in [`ONE_IN`], which counts for as many: reading the clock and recording
//! take a twentieth of the time of an ask.
//!
//! A histogram allocates at its first value, and grows with the largest one: 4 KB for latencies of up to 130 µs, 7 KB for up to 17 ms.
//! Counts have 32 bits and stop at their maximum.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram as HdrHistogram;

/// Larger values are recorded as this one: an hour in nanoseconds.
pub(super) const MAX_NS: u64 = 3_600_000_000_000;
/// Smaller differences than this do not count: the clock is no more exact, and a histogram takes less memory.
const RESOLUTION_NS: u64 = 16;
const SIGNIFICANT_DIGITS: u8 = 2;
/// This many messages are all timed.
const ALL_TIMED: u64 = 1024;
/// Of further ones, one in this many is timed.
const ONE_IN: u64 = 8;

/// Selects the messages that are timed.
#[derive(Default)]
pub(super) struct Sampler {
    seen: u64,
    /// Number of the next message that is timed.
    next: u64,
}

impl Sampler {
    /// Returns for how many messages the next one counts: 0 if it is not timed.
    #[inline]
    pub(super) fn weight_of_next(&mut self) -> u32 {
        let number = self.seen;
        self.seen += 1;
        if number == self.next { self.select(number) } else { 0 }
    }

    fn select(&mut self, number: u64) -> u32 {
        let next = number + 1;
        if next < ALL_TIMED {
            self.next = next;
            return 1;
        }
        let group = number.saturating_sub(ALL_TIMED) / ONE_IN + u64::from(number >= ALL_TIMED);
        // Not always the same one of a group, which a pattern in the messages could coincide with. The factor is that of Fibonacci hashing.
        let within = (group.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % ONE_IN;
        self.next = ALL_TIMED + group * ONE_IN + within;
        if number < ALL_TIMED { 1 } else { ONE_IN as u32 }
    }
}

/// What a histogram is about. The order is part of the interface to Python.
#[derive(Clone, Copy)]
enum Subject {
    /// From acceptance to the receive after it.
    Total,
    /// From acceptance to the message's own receive.
    Queue,
    /// From a receive to the next one.
    Handle,
    /// From an ask to its reply.
    Ask,
}

pub(super) const SUBJECTS: usize = 4;

/// The values of one histogram.
#[derive(Default)]
pub(super) struct Values {
    pub(super) histogram: Option<HdrHistogram<u32>>,
    pub(super) sum: u64,
}

impl Values {
    pub(super) fn record(&mut self, value: u64, count: u32) {
        if self.histogram.is_none() {
            self.histogram = Self::empty();
        }
        if let Some(histogram) = &mut self.histogram {
            // It grows as needed, up to `MAX_NS`: an error is impossible.
            let _ = histogram.record_n(value.min(MAX_NS), count);
        }
        self.sum = self.sum.saturating_add(value.saturating_mul(count.into()));
    }

    fn empty() -> Option<HdrHistogram<u32>> {
        // Constant and valid bounds: an error is impossible, and would record nothing.
        let mut histogram =
            HdrHistogram::new_with_bounds(RESOLUTION_NS, 2 * RESOLUTION_NS, SIGNIFICANT_DIGITS).ok()?;
        histogram.auto(true);
        Some(histogram)
    }
}

/// Histograms of the latencies of one ring kernel, in nanoseconds.
///
/// The lock is contended only while Python code reads the histograms, which takes microseconds.
#[derive(Default)]
pub(super) struct Latencies(Mutex<[Values; SUBJECTS]>);

impl Latencies {
    pub(super) fn lock(&self) -> MutexGuard<'_, [Values; SUBJECTS]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a handled message, which counts for `weight` messages.
    pub(super) fn record_message(&self, accepted: u64, received: u64, finished: u64, weight: u32) {
        let mut values = self.lock();
        values[Subject::Total as usize].record(finished.saturating_sub(accepted), weight);
        values[Subject::Queue as usize].record(received.saturating_sub(accepted), weight);
        values[Subject::Handle as usize].record(finished.saturating_sub(received), weight);
    }

    /// Records an ask that got its reply, and counts for `weight` asks.
    pub(super) fn record_ask(&self, duration: u64, weight: u32) {
        self.lock()[Subject::Ask as usize].record(duration, weight);
    }

    /// Records the latency of a message that the program handled itself.
    pub(super) fn record_total(&self, latency: u64) {
        self.lock()[Subject::Total as usize].record(latency, 1);
    }
}
