//! The result of a watch.

use std::time::Duration;

use serde::Serialize;

use super::system_metrics::BusyProcess;

/// One series with its statistics, the points for its timeline, and its alerts.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// Name and unit, such as `cpu0 [%]`.
    pub name: String,
    /// Number of readings.
    pub count: u64,
    /// The smallest value.
    pub min: f64,
    /// The mean.
    pub mean: f64,
    /// The largest value.
    pub max: f64,
    /// The last value.
    pub last: f64,
    /// Number of alerts.
    pub alert_count: u64,
    /// The first alerts, up to a limit.
    pub alerts: Vec<Alert>,
    /// Times in seconds and values for the timeline; evenly thinned if there are many.
    #[serde(skip)]
    pub points: Vec<(f64, f64)>,
    #[serde(skip)]
    keep_one_in: u64,
}

/// A reading with a score at or above the threshold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Alert {
    /// Seconds since the watch began.
    pub at: f64,
    /// The value.
    pub value: f64,
    /// Score, from 0 to 1.
    pub score: f64,
}

impl Series {
    /// Creates an empty series.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self {
            name,
            count: 0,
            min: f64::INFINITY,
            mean: 0.0,
            max: f64::NEG_INFINITY,
            last: 0.0,
            alert_count: 0,
            alerts: Vec::new(),
            points: Vec::new(),
            keep_one_in: 1,
        }
    }

    /// Adds a reading. Stores at most `max` points.
    pub fn add(&mut self, at: f64, value: f64, max: usize) {
        if self.count.is_multiple_of(self.keep_one_in) {
            if self.points.len() >= max {
                let mut index = 0;
                self.points.retain(|_| {
                    index += 1;
                    index % 2 == 1
                });
                self.keep_one_in *= 2;
            }
            self.points.push((at, value));
        }
        self.count += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.mean += (value - self.mean) / self.count as f64;
        self.last = value;
    }

    /// Counts an alert. Stores the first `max` alerts.
    pub fn alert(&mut self, alert: Alert, max: usize) {
        self.alert_count += 1;
        if self.alerts.len() < max {
            self.alerts.push(alert);
        }
    }
}

/// Latency in microseconds from a reading to the report, through all ring kernels of the pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    /// Median.
    pub p50_us: f64,
    /// 99th percentile.
    pub p99_us: f64,
    /// Maximum.
    pub max_us: f64,
}

impl Latency {
    pub(super) fn of(p50: Duration, p99: Duration, max: Duration) -> Self {
        let micros = |duration: Duration| duration.as_nanos() as f64 / 1e3;
        Self { p50_us: micros(p50), p99_us: micros(p99), max_us: micros(max) }
    }
}

/// The report of a watch.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Every series.
    pub series: Vec<Series>,
    /// The busiest processes, each at its highest CPU usage.
    pub busiest: Vec<BusyProcess>,
    /// Number of readings of all series.
    pub readings: u64,
    /// Number of alerts of all series.
    pub alerts: u64,
    /// Latency through the pipeline.
    pub latency: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_of_all_readings_and_points_are_thinned_evenly() {
        let mut series = Series::new(String::from("s"));
        for number in 0..1000u32 {
            series.add(f64::from(number), f64::from(number % 10), 16);
        }
        assert_eq!((series.count, series.min, series.max, series.last), (1000, 0.0, 9.0, 9.0));
        assert!((series.mean - 4.5).abs() < 1e-9);
        assert!(series.points.len() <= 16);
        let gaps: Vec<f64> = series.points.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        assert!(gaps.iter().all(|&gap| gap == gaps[0]), "{gaps:?}");
    }

    #[test]
    fn all_alerts_are_counted_and_the_first_are_stored() {
        let mut series = Series::new(String::from("s"));
        for at in 0..5 {
            series.alert(Alert { at: f64::from(at), value: 0.0, score: 1.0 }, 2);
        }
        assert_eq!((series.alert_count, series.alerts.len()), (5, 2));
    }
}
