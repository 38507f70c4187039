//! What Python code reads and writes of a ring kernel's latencies.

use hdrhistogram::Histogram as HdrHistogram;
use pyo3::prelude::*;

use super::counters::Counters;
use super::latencies::MAX_NS;

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
