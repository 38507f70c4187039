//! Measurements: one sample per round, aggregated per subject.

use std::fmt;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::clock::Clock;

/// The result of one subject in one round.
pub struct Sample {
    /// The value by which rounds are compared: nanoseconds (a median, if there are latencies), millions per second, or another unit of the
    /// bench.
    pub value: f64,
    /// Every latency of the round in ticks, for benches that time each message.
    pub latencies: Option<Histogram<u64>>,
    /// Nanoseconds per message of a second pass without clock reads. If it is far from the median, reading the clock has changed the
    /// result.
    pub mean: Option<f64>,
}

impl Sample {
    /// Creates a sample without latencies.
    pub fn plain(value: f64) -> Self {
        Sample { value, latencies: None, mean: None }
    }
}

/// All samples of one subject in one bench.
pub struct Measurement {
    pub bench: &'static str,
    pub subject: &'static str,
    pub unit: &'static str,
    /// One value per round, in order, so that two subjects can be compared round by round.
    pub values: Vec<f64>,
    latencies: Option<Histogram<u64>>,
    means: Vec<f64>,
}

impl Measurement {
    pub fn new(bench: &'static str, subject: &'static str, unit: &'static str) -> Self {
        Measurement { bench, subject, unit, values: Vec::new(), latencies: None, means: Vec::new() }
    }

    pub fn add(&mut self, sample: Sample) {
        self.values.push(sample.value);
        self.means.extend(sample.mean);
        match (&mut self.latencies, sample.latencies) {
            (Some(all), Some(more)) => {
                // Both have the bounds of `latency_histogram`; different bounds are the only cause of an error.
                let _ = all.add(more);
            }
            (all @ None, more) => *all = more,
            (Some(_), None) => {}
        }
    }

    /// Returns the value for all rounds: the median of all latencies, or of the rounds.
    pub fn typical(&self, clock: &Clock) -> f64 {
        match self.percentiles(clock) {
            Some([p50, ..]) => p50,
            None => median(&self.values),
        }
    }

    /// Returns p50, p99, p99.9 and p99.99 of all rounds together, in nanoseconds.
    pub fn percentiles(&self, clock: &Clock) -> Option<[f64; 4]> {
        let all = self.latencies.as_ref()?;
        Some([0.5, 0.99, 0.999, 0.9999].map(|quantile| clock.nanoseconds(all.value_at_quantile(quantile))))
    }

    /// Returns the smallest and the largest round.
    pub fn spread(&self) -> (f64, f64) {
        let low = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (low, high)
    }

    /// Returns the machine-readable line.
    pub fn line(&self, clock: &Clock) -> Line {
        let percentiles = self.percentiles(clock);
        let (low, high) = self.spread();
        let [p50, p99, p999, p9999] = [0, 1, 2, 3].map(|index| percentiles.map(|all| rounded(all[index])));
        Line {
            bench: self.bench,
            subject: self.subject,
            unit: self.unit,
            p50,
            p99,
            p999,
            p9999,
            mean: percentiles.map(|_| rounded(median(&self.means))),
            median: percentiles.is_none().then(|| rounded(median(&self.values))),
            min: rounded(low),
            max: rounded(high),
            rounds: self.values.len(),
        }
    }
}

/// A machine-readable measurement: either percentiles and a mean, or a median; then the rounds and their spread.
#[derive(Debug, PartialEq, Serialize)]
pub struct Line {
    bench: &'static str,
    subject: &'static str,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p999: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p9999: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    median: Option<f64>,
    min: f64,
    max: f64,
    rounds: usize,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

/// Creates a histogram of ticks: 1 tick to about 20 minutes at 3 GHz, three significant digits.
pub fn latency_histogram() -> Histogram<u64> {
    // The constant bounds are within the limits of the format.
    Histogram::new_with_bounds(1, 1 << 42, 3).expect("constant bounds are valid")
}

/// Returns the middle value, or the mean of the two middle ones; NaN if there are none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Rounds to three decimals, which exceeds the precision of the measurement.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_line_without_latencies_has_a_median_and_its_spread() {
        let mut measurement = Measurement::new("tell", "floor", "M/s");
        [3.0, 1.0, 2.0].into_iter().for_each(|value| measurement.add(Sample::plain(value)));
        let line = measurement.line(&Clock::new()).to_string();
        let expected =
            r#"{"bench":"tell","subject":"floor","unit":"M/s","median":2.0,"min":1.0,"max":3.0,"rounds":3}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn percentiles_cover_the_latencies_of_all_rounds() {
        let clock = Clock::new();
        let mut measurement = Measurement::new("ask", "floor", "ns");
        for ticks in [1_000, 3_000] {
            let mut latencies = latency_histogram();
            latencies.record_n(ticks, 10).unwrap();
            measurement.add(Sample { value: 0.0, latencies: Some(latencies), mean: Some(1.0) });
        }
        let [p50, _, p999, _] = measurement.percentiles(&clock).unwrap();
        assert!((p999 / p50 - 3.0).abs() < 0.01, "{p50} {p999}");
    }
}
