//! A histogram of latencies with a relative error below 1 %.
//!
//! Values are grouped by octave, from one power of two to the next, and each octave has 128 buckets of equal width. An octave takes a
//! kilobyte, from its first value on. A summary reads only the octaves that contain a percentile, so that it takes less than a microsecond.

/// Buckets of an octave.
const BUCKETS: usize = 128;

/// Octaves. The first has the values 0 to 127, and the last ends above [`MAX_VALUE`].
const OCTAVES: usize = 36;

/// Larger values are recorded as this one: an hour in nanoseconds.
pub(crate) const MAX_VALUE: u64 = 3_600_000_000_000;

/// Counts values by bucket.
#[derive(Debug)]
pub(crate) struct Histogram {
    octaves: [Option<Box<Octave>>; OCTAVES],
    count: u64,
    max: u64,
}

#[derive(Debug)]
struct Octave {
    count: u64,
    buckets: [u64; BUCKETS],
}

impl Octave {
    const EMPTY: Self = Self { count: 0, buckets: [0; BUCKETS] };
}

impl Default for Histogram {
    fn default() -> Self {
        Self { octaves: [const { None }; OCTAVES], count: 0, max: 0 }
    }
}

impl Histogram {
    /// Allocates all octaves, so that recording never allocates.
    pub(crate) fn allocate(&mut self) {
        for octave in &mut self.octaves {
            octave.get_or_insert_with(|| Box::new(Octave::EMPTY));
        }
    }

    pub(crate) fn record(&mut self, value: u64) {
        let value = value.min(MAX_VALUE);
        let (octave, bucket) = position(value);
        let octave = self.octaves[octave].get_or_insert_with(|| Box::new(Octave::EMPTY));
        octave.count += 1;
        octave.buckets[bucket] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// Returns the number of values.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Returns the largest value. Zero if there is none.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// Returns the largest value of the bucket that contains the `per_mille`-th of a thousand equal parts of the values. Zero if there is no
    /// value.
    pub(crate) fn per_mille(&self, per_mille: u64) -> u64 {
        // Rounded up: the smallest number of values that are at least this share.
        let mut remaining = (self.count as u128 * per_mille as u128).div_ceil(1000) as u64;
        for (index, octave) in self.octaves.iter().enumerate() {
            let Some(octave) = octave else { continue };
            if octave.count < remaining {
                remaining -= octave.count;
                continue;
            }
            for (bucket, &count) in octave.buckets.iter().enumerate() {
                if count >= remaining && count > 0 {
                    return last_value(index, bucket).min(self.max);
                }
                remaining -= count;
            }
        }
        self.max
    }
}

/// Returns the octave and the bucket of a value.
fn position(value: u64) -> (usize, usize) {
    let octave = (u64::BITS - (value >> 7).leading_zeros()) as usize;
    (octave, (value >> octave.saturating_sub(1)) as usize % BUCKETS)
}

/// Returns the largest value of a bucket.
fn last_value(octave: usize, bucket: usize) -> u64 {
    match octave.checked_sub(1) {
        None => bucket as u64,
        Some(shift) => (((BUCKETS + bucket + 1) as u64) << shift) - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_without_gaps_and_narrower_than_one_percent() {
        let mut first = 0;
        for octave in 0..OCTAVES {
            for bucket in 0..BUCKETS {
                let last = last_value(octave, bucket);
                assert_eq!(position(first), (octave, bucket));
                assert_eq!(position(last), (octave, bucket));
                assert!((last - first) as f64 <= 0.01 * first as f64, "{first} to {last}");
                first = last + 1;
            }
        }
        assert!(first > MAX_VALUE);
    }

    #[test]
    fn percentiles_agree_with_those_of_sorted_values() {
        for scale in [1u64, 1000, 1_000_000_000] {
            let mut histogram = Histogram::default();
            let mut values: Vec<u64> = (1..=1000).map(|index| index * index * scale % MAX_VALUE).collect();
            values.iter().for_each(|&value| histogram.record(value));
            values.sort_unstable();
            for per_mille in [1, 500, 990, 999, 1000] {
                let exact = values[per_mille as usize - 1];
                let actual = histogram.per_mille(per_mille);
                assert!(
                    actual >= exact && actual as f64 <= 1.01 * exact as f64 + 1.0,
                    "{actual}, not {exact}"
                );
            }
            assert_eq!((histogram.count(), histogram.max()), (1000, values[999]));
        }
    }

    #[test]
    fn no_value_one_value_and_values_beyond_the_range() {
        let mut histogram = Histogram::default();
        assert_eq!((histogram.per_mille(500), histogram.max(), histogram.count()), (0, 0, 0));
        histogram.record(1_000_003);
        assert_eq!(histogram.per_mille(500), 1_000_003, "a bucket ends at the maximum");
        histogram.record(u64::MAX);
        assert_eq!((histogram.max(), histogram.count()), (MAX_VALUE, 2));
        assert_eq!(histogram.per_mille(999), MAX_VALUE);
    }

    #[test]
    fn an_octave_is_allocated_by_its_first_value() {
        let allocated = |histogram: &Histogram| histogram.octaves.iter().flatten().count();
        let mut histogram = Histogram::default();
        histogram.record(1000);
        histogram.record(1001);
        assert_eq!(allocated(&histogram), 1);
        histogram.allocate();
        assert_eq!(allocated(&histogram), OCTAVES);
        assert_eq!(histogram.count(), 2);
    }
}
