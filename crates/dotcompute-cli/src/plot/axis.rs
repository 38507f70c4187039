//! Ranges, ticks and labels of axes.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

/// Tick distances in seconds that divide minutes, hours, days and weeks evenly.
const STEPS: [f64; 24] = [
    1.0,
    2.0,
    5.0,
    10.0,
    15.0,
    30.0,
    MINUTE,
    2.0 * MINUTE,
    5.0 * MINUTE,
    10.0 * MINUTE,
    15.0 * MINUTE,
    30.0 * MINUTE,
    HOUR,
    2.0 * HOUR,
    3.0 * HOUR,
    6.0 * HOUR,
    12.0 * HOUR,
    DAY,
    2.0 * DAY,
    7.0 * DAY,
    14.0 * DAY,
    28.0 * DAY,
    91.0 * DAY,
    364.0 * DAY,
];
const MINUTE: f64 = 60.0;
const HOUR: f64 = 3600.0;
const DAY: f64 = 86_400.0;
/// Maximum number of ticks; the labels of more would overlap.
const MAX_TICKS: f64 = 9.0;

/// An axis with ticks at given positions.
pub(super) struct TickAxis {
    range: Range<f64>,
    ticks: Vec<f64>,
}

impl TickAxis {
    pub(super) fn new(range: Range<f64>, ticks: Vec<f64>) -> Self {
        Self { range, ticks }
    }

    /// Creates an axis of seconds with ticks at round times.
    pub(super) fn time(first: f64, last: f64) -> Self {
        Self::new(first..last, round_times(first, last))
    }
}

impl Ranged for TickAxis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Returns the smallest and the largest finite value, with a margin. A constant or empty series has a range too.
pub(super) fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    if low > high {
        return (0.0, 1.0);
    }
    let margin = if high > low { (high - low) * 0.06 } else { high.abs().max(1.0) * 0.5 };
    (low - margin, high + margin)
}

/// Returns round times between two times, in seconds.
fn round_times(first: f64, last: f64) -> Vec<f64> {
    let span = last - first;
    let min_step = span / MAX_TICKS;
    let step = STEPS.into_iter().find(|&step| step >= min_step).unwrap_or_else(|| {
        let [.., longest] = STEPS;
        (min_step / longest).ceil() * longest
    });
    let begin = (first / step).ceil();
    let count = ((last / step).floor() - begin).clamp(0.0, MAX_TICKS) as u32;
    (0..=count)
        .map(|tick| (begin + f64::from(tick)) * step)
        .filter(|at| (first..=last).contains(at))
        .collect()
}

/// Formats a number as `40k`, `2.5M`, `0.2` or `1.0e-7`.
pub(super) fn quantity(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e15).contains(&size) {
        return format!("{value:.1e}");
    }
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let (unit, suffix) = units.into_iter().find(|(unit, _)| size >= *unit).unwrap_or((1.0, ""));
    let digits = format!("{:.6}", value / unit);
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    let digits = if digits == "-0" { "0" } else { digits };
    format!("{digits}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_series_and_one_with_gaps_have_a_range() {
        assert_eq!(range([5.0, 5.0].into_iter()), (2.5, 7.5));
        assert_eq!(range([f64::NAN].into_iter()), (0.0, 1.0));
    }

    #[test]
    fn ticks_are_round_and_few() {
        assert_eq!(round_times(0.2, 9.8), [2.0, 4.0, 6.0, 8.0]);
        assert_eq!(round_times(50.0, 12.5 * 60.0), [120.0, 240.0, 360.0, 480.0, 600.0, 720.0]);
        for decades in 0..10 {
            let span = 10_f64.powi(decades);
            let ticks = round_times(1.4e9 + 0.5, 1.4e9 + 0.5 + span);
            assert!((1..=10).contains(&ticks.len()) || span == 1.0, "{span} seconds: {ticks:?}");
        }
    }

    #[test]
    fn formats_quantities() {
        for (value, text) in [
            (0.0, "0"),
            (-0.0, "0"),
            (0.5, "0.5"),
            (40_000.0, "40k"),
            (-2_500_000.0, "-2.5M"),
            (1e-7, "1.0e-7"),
            (1e300, "1.0e300"),
        ] {
            assert_eq!(quantity(value), text);
        }
    }
}
