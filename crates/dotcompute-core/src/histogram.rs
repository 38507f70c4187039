//! A histogram of latencies with two significant digits, as an [HDR histogram](https://hdrhistogram.github.io/HdrHistogram/).
//!
//! It allocates at its first value, and grows with the largest one: 7 KB for latencies of up to a millisecond. Counts have 32 bits and stop
//! at their maximum.

use hdrhistogram::Histogram as HdrHistogram;

/// Larger values are recorded as this one: an hour in nanoseconds.
pub(crate) const MAX_VALUE: u64 = 3_600_000_000_000;

const SIGNIFICANT_DIGITS: u8 = 2;

/// Counts values. `None` before the first one.
#[derive(Debug, Default)]
pub(crate) struct Histogram(Option<HdrHistogram<u32>>);

impl Histogram {
    /// Allocates memory for every value, so that recording never allocates.
    pub(crate) fn allocate(&mut self) {
        // Constant and valid bounds: an error is impossible, and would leave the histogram as it is.
        self.0 = HdrHistogram::new_with_bounds(1, MAX_VALUE, SIGNIFICANT_DIGITS).ok().or(self.0.take());
    }

    pub(crate) fn record(&mut self, value: u64) {
        if self.0.is_none() {
            self.0 = HdrHistogram::new(SIGNIFICANT_DIGITS).ok();
        }
        if let Some(histogram) = &mut self.0 {
            // It grows as needed, up to `MAX_VALUE`: an error is impossible.
            let _ = histogram.record(value.min(MAX_VALUE));
        }
    }

    /// Returns the number of values.
    pub(crate) fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, HdrHistogram::len)
    }

    /// Returns the largest value, to two significant digits. Zero if there is none.
    pub(crate) fn max(&self) -> u64 {
        self.0.as_ref().map_or(0, |histogram| histogram.max().min(MAX_VALUE))
    }

    /// Returns the value below or at which `per_mille` of a thousand equal parts of the values lie. Zero if there is no value.
    pub(crate) fn per_mille(&self, per_mille: u64) -> u64 {
        self.0.as_ref().map_or(0, |histogram| histogram.value_at_quantile(per_mille as f64 / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_have_two_significant_digits_whether_it_grows_or_not() {
        for allocated in [false, true] {
            let mut histogram = Histogram::default();
            if allocated {
                histogram.allocate();
            }
            assert_eq!((histogram.count(), histogram.max(), histogram.per_mille(500)), (0, 0, 0));
            (1..=10_000).for_each(|value| histogram.record(value * 1_000));
            assert_eq!(histogram.count(), 10_000);
            for (per_mille, exact) in [(500, 5_000_000.0), (990, 9_900_000.0), (999, 9_990_000.0)] {
                let error = (histogram.per_mille(per_mille) as f64 - exact).abs() / exact;
                assert!(error < 0.01, "allocated {allocated}, {per_mille}: {error}");
            }
            histogram.record(u64::MAX);
            let max = histogram.max() as f64 / MAX_VALUE as f64;
            assert!((max - 1.0).abs() < 0.01, "{max}");
        }
    }
}
