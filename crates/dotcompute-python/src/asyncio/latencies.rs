//! Latencies of one ring kernel, in [HDR histograms](https://hdrhistogram.github.io/HdrHistogram/) with two significant digits.
//!
//! The first messages of a ring kernel are all timed, and then one in [`ONE_IN`], which counts for as many: reading the clock and recording
//! take a twentieth of the time of an ask.
//!
//! A histogram allocates at its first value, and grows with the largest one: 4 KB for latencies of up to 130 µs, 7 KB for up to 17 ms.
//! Counts have 32 bits and stop at their maximum.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram as HdrHistogram;
use pyo3::prelude::*;

use super::counters::Counters;

/// Larger values are recorded as this one: an hour in nanoseconds.
const MAX_NS: u64 = 3_600_000_000_000;
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

const SUBJECTS: usize = 4;

/// The values of one histogram.
#[derive(Default)]
struct Values {
    histogram: Option<HdrHistogram<u32>>,
    sum: u64,
}

impl Values {
    fn record(&mut self, value: u64, count: u32) {
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
    fn lock(&self) -> MutexGuard<'_, [Values; SUBJECTS]> {
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

/// Number of values, their sum, the lowest and the highest one, and the values at the quantiles asked for.
type Summary = (u64, u64, u64, u64, Vec<u64>);

#[pymethods]
impl Counters {
    /// Returns a summary of one histogram.
    ///
    /// Args:
    ///     subject: 0 for all of a latency, 1 for the time in the queue, 2 for the time of handling, 3 for asks.
    ///     quantiles: Between 0 and 1.
    ///
    /// Returns:
    ///     Number of values, their sum, the lowest and the highest value, and the value at each quantile, in nanoseconds. Zeros without values.
    ///
    /// Raises:
    ///     IndexError: There is no such subject.
    fn _latency_summary(&self, subject: usize, quantiles: Vec<f64>) -> PyResult<Summary> {
        let values = self.latencies.lock();
        let values = values.get(subject).ok_or_else(|| no_subject(subject))?;
        Ok(match &values.histogram {
            Some(histogram) if !histogram.is_empty() => {
                // The highest value equivalent to it may exceed the maximum.
                let max = histogram.max().min(MAX_NS);
                let at = |quantile: &f64| histogram.value_at_quantile(*quantile).min(max);
                let quantiles = quantiles.iter().map(at).collect();
                (histogram.len(), values.sum, histogram.min().min(max), max, quantiles)
            }
            _ => (0, 0, 0, 0, vec![0; quantiles.len()]),
        })
    }

    /// Returns the values of one histogram that occur, each with its count. `_add_latency_counts` takes them.
    fn _latency_counts(&self, subject: usize) -> PyResult<(u64, Vec<(u64, u32)>)> {
        let values = self.latencies.lock();
        let values = values.get(subject).ok_or_else(|| no_subject(subject))?;
        let recorded = values.histogram.iter().flat_map(HdrHistogram::iter_recorded);
        Ok((values.sum, recorded.map(|step| (step.value_iterated_to(), step.count_at_value())).collect()))
    }

    /// Adds the values of another histogram.
    fn _add_latency_counts(&self, subject: usize, sum: u64, counts: Vec<(u64, u32)>) -> PyResult<()> {
        let mut values = self.latencies.lock();
        let values = values.get_mut(subject).ok_or_else(|| no_subject(subject))?;
        let total = values.sum.saturating_add(sum);
        counts.into_iter().for_each(|(value, count)| values.record(value, count));
        values.sum = total;
        Ok(())
    }

    /// Forgets all latencies.
    fn _clear_latencies(&self) {
        *self.latencies.lock() = Default::default();
    }
}

fn no_subject(subject: usize) -> PyErr {
    pyo3::exceptions::PyIndexError::new_err(format!(
        "reading latencies: there is no subject {subject}; use 0 to 3"
    ))
}
