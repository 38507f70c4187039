//! Performance targets, evaluated against the measurements.

use std::fmt;

use crate::measurement::{Measurement, median};

/// A bound on a measurement, or on the ratio of two.
pub struct Target {
    text: &'static str,
    of: SeriesKey,
    over: Option<SeriesKey>,
    bound: Bound,
    unit: Unit,
    /// The best possible subject in place of `dotcompute`, if it shows a limit of the machine.
    best: Option<SeriesKey>,
}

type SeriesKey = (&'static str, &'static str);

#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(bound) => value <= bound,
            Bound::AtLeast(bound) => value >= bound,
        }
    }
}

#[derive(Clone, Copy)]
enum Unit {
    Times,
    /// The excess over 1, in percent.
    Percent,
    Bytes,
    Nanoseconds,
    Milliseconds,
    MillionsPerSecond,
}

/// The result of a target.
pub struct TargetResult {
    /// The median of the rounds.
    pub measured: f64,
    /// The smallest and the largest round.
    pub spread: (f64, f64),
    pub met: bool,
    /// The same ratio for the best possible subject, if even that misses the bound on this machine.
    pub out_of_reach: Option<f64>,
}

/// The targets for the CPU of this machine.
pub const TARGETS: [Target; 27] = [
    Target {
        text: "ask_spin: at most 1.35 times the floor",
        of: ("ask_spin", "dotcompute"),
        over: Some(("ask_spin", "floor")),
        bound: Bound::AtMost(1.35),
        unit: Unit::Times,
        best: None,
    },
    Target {
        text: "ask_spin, from core to core: at least 3 times faster than kameo",
        of: ("ask_spin", "kameo"),
        over: Some(("ask_spin", "dotcompute")),
        bound: Bound::AtLeast(3.0),
        unit: Unit::Times,
        best: Some(("ask_spin", "floor")),
    },
    Target {
        text: "ask_spin, from core to core: at least 2.5 times faster than ractor",
        of: ("ask_spin", "ractor"),
        over: Some(("ask_spin", "dotcompute")),
        bound: Bound::AtLeast(2.5),
        unit: Unit::Times,
        best: Some(("ask_spin", "floor")),
    },
    Target {
        text: "ask_spin, on one thread like the peer: at least 3 times faster than kameo",
        of: ("ask_spin", "kameo"),
        over: Some(("ask_spin", "dotcompute-inline")),
        bound: Bound::AtLeast(3.0),
        unit: Unit::Times,
        best: None,
    },
    Target {
        text: "ask_spin, on one thread like the peer: at least 2.5 times faster than ractor",
        of: ("ask_spin", "ractor"),
        over: Some(("ask_spin", "dotcompute-inline")),
        bound: Bound::AtLeast(2.5),
        unit: Unit::Times,
        best: None,
    },
    Target {
        text: "queue_same_thread: at most rtrb's time",
        of: ("queue_same_thread", "dotcompute"),
        over: Some(("queue_same_thread", "rtrb")),
        bound: Bound::AtMost(1.0),
        unit: Unit::Times,
        best: None,
    },
    Target {
        text: "queue_cross_thread: at least rtrb's rate",
        of: ("queue_cross_thread", "dotcompute"),
        over: Some(("queue_cross_thread", "rtrb")),
        bound: Bound::AtLeast(1.0),
        unit: Unit::Times,
        best: None,
    },
    Target {
        text: "queue_cross_thread_batched: at least rtrb's batched rate",
        of: ("queue_cross_thread_batched", "dotcompute"),
        over: Some(("queue_cross_thread_batched", "rtrb")),
        bound: Bound::AtLeast(1.0),
        unit: Unit::Times,
        best: None,
    },
    Target {
        text: "tell: at least 0.6 times the bare stream of rtrb",
        of: ("tell", "dotcompute"),
        over: Some(("tell", "rtrb")),
        bound: Bound::AtLeast(0.6),
        unit: Unit::Times,
        best: None,
    },
    Target {
        text: "telemetry: at most 5 % of tell",
        of: ("tell", "dotcompute-no-telemetry"),
        over: Some(("tell", "dotcompute")),
        bound: Bound::AtMost(1.05),
        unit: Unit::Percent,
        best: None,
    },
    Target {
        text: "many: 100,000 idle kernels in at most 400 MB, so 4,000 bytes each",
        of: ("many", "dotcompute"),
        over: None,
        bound: Bound::AtMost(4_000.0),
        unit: Unit::Bytes,
        best: None,
    },
    at_most_kameos("ask_from_a_task_cpu: at most kameo's", "ask_from_a_task_cpu"),
    at_most_kameos("ask_from_a_task_wall: at most kameo's", "ask_from_a_task_wall"),
    at_most_kameos("ask_from_16_tasks_mailbox_64: at most kameo's", "ask_from_16_tasks_mailbox_64"),
    at_most_kameos("ask_from_16_tasks_mailbox_1024: at most kameo's", "ask_from_16_tasks_mailbox_1024"),
    at_most_kameos("ask_from_500_tasks_mailbox_64: at most kameo's", "ask_from_500_tasks_mailbox_64"),
    at_most_kameos("ask_from_500_tasks_mailbox_1024: at most kameo's", "ask_from_500_tasks_mailbox_1024"),
    at_most_kameos("ask_from_2000_tasks_mailbox_64: at most kameo's", "ask_from_2000_tasks_mailbox_64"),
    at_most_kameos("ask_from_2000_tasks_mailbox_1024: at most kameo's", "ask_from_2000_tasks_mailbox_1024"),
    at_most_kameos("ask_from_10000_tasks_mailbox_64: at most kameo's", "ask_from_10000_tasks_mailbox_64"),
    at_most_kameos("ask_from_10000_tasks_mailbox_1024: at most kameo's", "ask_from_10000_tasks_mailbox_1024"),
    at_most_kameos("many_launch: at most kameo's spawn", "many_launch"),
    at_most("many_launch: at most 10 µs", "many_launch", 10_000.0, Unit::Nanoseconds),
    at_most(
        "many_shutdown: 100,000 kernels in at most one second",
        "many_shutdown",
        1000.0,
        Unit::Milliseconds,
    ),
    at_most("many_look_up: at most 1 µs", "many_look_up", 1000.0, Unit::Nanoseconds),
    at_most("many_look_up_absent: at most 1 µs", "many_look_up_absent", 1000.0, Unit::Nanoseconds),
    at_most(
        "tell_drop_oldest: at most 150 ns of processor time",
        "tell_drop_oldest",
        150.0,
        Unit::Nanoseconds,
    ),
];

/// A bound on a measurement of dotcompute.
const fn at_most(text: &'static str, bench: &'static str, bound: f64, unit: Unit) -> Target {
    Target { text, of: (bench, "dotcompute"), over: None, bound: Bound::AtMost(bound), unit, best: None }
}

/// Bounds a measurement of dotcompute by kameo's.
const fn at_most_kameos(text: &'static str, bench: &'static str) -> Target {
    Target { over: Some((bench, "kameo")), ..at_most(text, bench, 1.0, Unit::Times) }
}

/// The targets for a GPU.
pub const GPU_TARGETS: [Target; 2] = [
    Target {
        text: "gpu_ask: the median at most 150 ns over the floor's",
        of: ("gpu_ask_over_floor", "dotcompute"),
        over: None,
        bound: Bound::AtMost(150.0),
        unit: Unit::Nanoseconds,
        best: None,
    },
    Target {
        text: "gpu_tell: at least 20 million a second, each verified on the GPU",
        of: ("gpu_tell", "dotcompute"),
        over: None,
        bound: Bound::AtLeast(20.0),
        unit: Unit::MillionsPerSecond,
        best: None,
    },
];

impl Target {
    /// Evaluates the ratio of each round and compares the median with the bound. `None` if a side was not measured.
    pub fn evaluate(&self, measurements: &[Measurement]) -> Option<TargetResult> {
        let of = find(measurements, self.of)?;
        let values: Vec<f64> = match self.over {
            Some(over) => ratios(of, find(measurements, over)?),
            None => of.values.clone(),
        };
        let measured = median(&values);
        let met = self.bound.holds(measured);
        let best = self.best.and_then(|best| find(measurements, best)).map(|best| median(&ratios(of, best)));
        let out_of_reach = best.filter(|&best| !self.bound.holds(best));
        let low = values.iter().copied().fold(f64::INFINITY, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(TargetResult { measured, spread: (low, high), met, out_of_reach })
    }

    /// Formats a measured value in the unit of this target.
    pub fn show(&self, value: f64) -> String {
        match self.unit {
            Unit::Times => format!("{value:.2} x"),
            Unit::Percent => format!("{:.1} %", (value - 1.0) * 100.0),
            Unit::Bytes => format!("{value:.0} bytes"),
            Unit::Nanoseconds => format!("{value:.0} ns"),
            Unit::Milliseconds => format!("{value:.0} ms"),
            Unit::MillionsPerSecond => format!("{value:.1} M/s"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

/// Returns `of / over` of each round. Pairing by round cancels disturbances that affect both.
pub fn ratios(of: &Measurement, over: &Measurement) -> Vec<f64> {
    of.values.iter().zip(&over.values).map(|(of, over)| of / over).collect()
}

fn find(measurements: &[Measurement], (bench, subject): SeriesKey) -> Option<&Measurement> {
    measurements.iter().find(|measurement| measurement.bench == bench && measurement.subject == subject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measurement::Sample;

    fn measurement(bench: &'static str, subject: &'static str, values: &[f64]) -> Measurement {
        let mut measurement = Measurement::new(bench, subject, "ns");
        values.iter().for_each(|&value| measurement.add(Sample::plain(value)));
        measurement
    }

    #[test]
    fn a_ratio_is_computed_round_by_round() {
        // A machine twice as slow in the second round does not change the ratios.
        let measurements = [
            measurement("ask_spin", "dotcompute", &[130.0, 260.0, 130.0]),
            measurement("ask_spin", "floor", &[100.0, 200.0, 100.0]),
        ];
        let result = TARGETS[0].evaluate(&measurements).unwrap();
        assert!(result.met);
        assert_eq!((result.measured, result.spread), (1.3, (1.3, 1.3)));
    }

    #[test]
    fn bounds_apply_in_their_own_direction() {
        let measurements = [
            measurement("ask_spin", "dotcompute", &[136.0]),
            measurement("ask_spin", "floor", &[100.0]),
            measurement("ask_spin", "kameo", &[500.0]),
        ];
        assert!(!TARGETS[0].evaluate(&measurements).unwrap().met);
        let faster_than_kameo = TARGETS[1].evaluate(&measurements).unwrap();
        assert!(faster_than_kameo.met);
        assert_eq!(faster_than_kameo.out_of_reach, None);
    }

    #[test]
    fn a_target_that_even_the_floor_misses_is_marked() {
        let measurements = [
            measurement("ask_spin", "dotcompute", &[400.0]),
            measurement("ask_spin", "floor", &[400.0]),
            measurement("ask_spin", "kameo", &[500.0]),
        ];
        let result = TARGETS[1].evaluate(&measurements).unwrap();
        assert!(!result.met);
        assert_eq!(result.out_of_reach, Some(1.25));
    }

    #[test]
    fn a_target_without_measurements_has_no_result() {
        assert!(TARGETS[0].evaluate(&[measurement("ask_spin", "dotcompute", &[1.0])]).is_none());
    }

    #[test]
    fn gpu_targets_evaluate_single_measurements() {
        let over = |nanoseconds| [measurement("gpu_ask_over_floor", "dotcompute", &[nanoseconds])];
        assert!(GPU_TARGETS[0].evaluate(&over(149.0)).unwrap().met);
        let missed = GPU_TARGETS[0].evaluate(&over(2151.0)).unwrap();
        assert!(!missed.met);
        assert_eq!(GPU_TARGETS[0].show(missed.measured), "2151 ns");
    }

    #[test]
    fn a_cost_is_shown_in_percent() {
        assert_eq!(TARGETS[9].show(1.031), "3.1 %");
    }
}
