//! `dotcompute-bench gpu`: ring kernels on a device, next to the baseline (`floor`) of that device.

mod ask;
mod baseline;
mod fixture;
mod idle_power;
mod per_message_launch;
mod pipeline;
mod tell;
mod wake;

use std::env;
use std::fmt;
use std::time::{Duration, Instant};

use clap::Args;
use dotcompute::cuda::device_selection;

use crate::bench::{self, Bench, Subject};
use crate::clock::Clock;
use crate::config::BenchConfig;
use crate::cores::Cores;
use crate::error::BenchError;
use crate::measurement::{Measurement, Sample};
use crate::table;
use crate::targets::GPU_TARGETS;
use fixture::{DeviceKind, GpuBenchConfig};

/// Options of `gpu`.
#[derive(Args)]
pub struct Options {
    /// Print one JSON line for each bench and subject instead of tables
    #[arg(long)]
    json: bool,
    /// Only check that everything works; the measurements are meaningless
    #[arg(long)]
    quick: bool,
    /// Device to measure [default: the value of DOTCOMPUTE_DEVICE, or cuda]
    #[arg(long, value_enum)]
    device: Option<DeviceKind>,
    /// Run only this bench; may be repeated
    #[arg(long, value_name = "BENCH")]
    only: Vec<String>,
    /// Number of rounds [default: 5, or 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Start no further round after this many seconds
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// Print the names of the benches and measure nothing
    #[arg(long)]
    list: bool,
}

/// Runs the benches and returns the text to print.
///
/// # Errors
///
/// The first error of a subject, which stops the run.
pub fn run(options: &Options, progress: impl FnMut(usize, &str, &str)) -> Result<String, BenchError> {
    if options.list {
        return Ok(benches().iter().map(|bench| format!("{}\n", bench.name)).collect());
    }
    let deadline = options.within.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let device = options.device.map_or_else(from_environment, Ok)?;
    let mut benches = bench::selected(benches(), &options.only)?;
    let skipped = skip_unsupported(&mut benches, device);
    let rounds = options.rounds.map_or(if options.quick { 1 } else { 5 }, usize::from);
    let config = config(device, options.quick)?;
    let clock = &config.common.clock;
    let mut measurements = bench::run(&benches, rounds, deadline, &config, progress)?;
    measurements.extend(differences(&measurements));
    if options.json {
        let measurements = measurements.iter().map(|measurement| format!("{}\n", measurement.line(clock)));
        return Ok(measurements
            .chain(skipped.iter().map(|skipped| format!("{}\n", skipped.line())))
            .collect());
    }
    let about = format!(
        "64-byte messages, at most {rounds} interleaved rounds, device: {device}.\nReading the clock costs {:.1} ns, which is subtracted \
         from every latency, for all subjects alike.\n",
        clock.nanoseconds(clock.read_cost())
    );
    // The targets hold for GPUs only.
    let targets = if device == DeviceKind::Cuda { &GPU_TARGETS[..] } else { &[] };
    let skipped: String = skipped.iter().map(|skipped| format!("\n{skipped}")).collect();
    Ok(about + &table::render(&with_differences(benches), &measurements, targets, clock) + &skipped)
}

fn from_environment() -> Result<DeviceKind, BenchError> {
    match env::var(device_selection::DEVICE_ENV_VAR).unwrap_or_default().as_str() {
        "" | "cuda" => Ok(DeviceKind::Cuda),
        "emulated" => Ok(DeviceKind::Emulated),
        other => Err(BenchError::UnsupportedDevice {
            variable: device_selection::DEVICE_ENV_VAR,
            value: other.to_owned(),
        }),
    }
}

fn config(device: DeviceKind, quick: bool) -> Result<GpuBenchConfig, BenchError> {
    let (clock, cores) = (Clock::new(), Cores::choose()?);
    let mut common = if quick { BenchConfig::quick(clock, cores) } else { BenchConfig::full(clock, cores) };
    match device {
        DeviceKind::Cuda if !quick => common.tells = 2_000_000,
        DeviceKind::Emulated if quick => common.asks = 1_000,
        _ => {}
    }
    let (wakes, idle) = if quick { (10, Duration::from_millis(100)) } else { (200, Duration::from_secs(1)) };
    Ok(GpuBenchConfig { common, device, wakes, idle })
}

/// Returns every bench, in the order of the output.
fn benches() -> Vec<Bench<GpuBenchConfig>> {
    let mut subjects = vec![baseline::subject()];
    subjects.extend(ask::subjects());
    let mut benches = vec![Bench {
        name: ASK,
        unit: "ns",
        about: "one caller that spins; floor is a bare 4-byte flag to a device function of one thread and back (emulated: to \
                another thread); in shape block-32 the 32 threads of a block share a message",
        samples_per_round: 1,
        subjects,
    }];
    benches.extend(ask::benches());
    benches.extend(tell::benches());
    benches.push(pipeline::bench());
    benches.push(wake::bench());
    benches.push(per_message_launch::bench());
    benches.push(idle_power::bench());
    benches
}

/// A bench that cannot be measured on this device.
struct Skipped {
    bench: &'static str,
    subject: &'static str,
    reason: String,
}

impl Skipped {
    /// Returns the machine-readable line.
    fn line(&self) -> serde_json::Value {
        serde_json::json!({ "bench": self.bench, "subject": self.subject, "skipped": self.reason })
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {}: skipped: {}", self.bench, self.subject, self.reason)
    }
}

/// Removes the benches that need a GPU on the emulated device, and the power bench if the power cannot be read.
fn skip_unsupported(benches: &mut Vec<Bench<GpuBenchConfig>>, device: DeviceKind) -> Vec<Skipped> {
    let mut skipped = Vec::new();
    let mut remove = |name: &'static str, reason: String| {
        let Some(index) = benches.iter().position(|bench| bench.name == name) else { return };
        let skip_unsupported =
            |subject: Subject<_>| Skipped { bench: name, subject: subject.name, reason: reason.clone() };
        skipped.extend(benches.remove(index).subjects.into_iter().map(skip_unsupported));
    };
    if device == DeviceKind::Emulated {
        remove(per_message_launch::BENCH, String::from("the emulated device runs ring kernels only"));
        remove(idle_power::BENCH, String::from("the emulated device has no power meter"));
    } else if let Err(reason) = idle_power::PowerMeter::new() {
        remove(idle_power::BENCH, reason);
    }
    skipped
}

const ASK: &str = "gpu_ask";

/// A measurement that is the difference of two others, round by round.
struct Difference {
    bench: &'static str,
    about: &'static str,
    /// The bench, its larger and its smaller subject.
    of: (&'static str, &'static str, &'static str),
}

const DIFFERENCES: [Difference; 2] = [
    Difference {
        bench: "gpu_ask_over_floor",
        about: "the median of an ask minus that of the floor in the same round",
        of: (ASK, "dotcompute", "floor"),
    },
    Difference {
        bench: "gpu_hop",
        about: "one hop between two ring kernels: the median of a pipeline of two minus that of a pipeline of one in \
                the same round",
        of: (pipeline::BENCH, pipeline::TWO_STAGES, pipeline::ONE_STAGE),
    },
];

fn differences(measurements: &[Measurement]) -> Vec<Measurement> {
    let find = |bench, subject| {
        measurements.iter().find(|f: &&Measurement| f.bench == bench && f.subject == subject)
    };
    let difference = |difference: &Difference| {
        let (bench, larger, smaller) = difference.of;
        let (larger, smaller) = (find(bench, larger)?, find(bench, smaller)?);
        let mut measurement = Measurement::new(difference.bench, "dotcompute", "ns");
        let rounds = larger.values.iter().zip(&smaller.values);
        rounds.for_each(|(larger, smaller)| measurement.add(Sample::plain(larger - smaller)));
        Some(measurement)
    };
    DIFFERENCES.iter().filter_map(difference).collect()
}

/// Appends the benches of the differences whose bench was measured.
fn with_differences(mut benches: Vec<Bench<GpuBenchConfig>>) -> Vec<Bench<GpuBenchConfig>> {
    let measured = |bench: &str| benches.iter().any(|other| other.name == bench);
    let differences: Vec<_> = DIFFERENCES.iter().filter(|difference| measured(difference.of.0)).collect();
    benches.extend(differences.into_iter().map(|difference| Bench {
        name: difference.bench,
        unit: "ns",
        about: difference.about,
        samples_per_round: 0,
        subjects: Vec::new(),
    }));
    benches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(bench: &'static str, subject: &'static str, values: &[f64]) -> Measurement {
        let mut measurement = Measurement::new(bench, subject, "ns");
        values.iter().for_each(|&value| measurement.add(Sample::plain(value)));
        measurement
    }

    #[test]
    fn a_difference_is_computed_round_by_round() {
        let measurements = [
            measurement(ASK, "floor", &[1000.0, 2000.0, 1500.0]),
            measurement(ASK, "dotcompute", &[1100.0, 2100.0, 1650.0]),
        ];
        let found = differences(&measurements);
        assert_eq!(found.len(), 1, "the pipelines were not measured");
        assert_eq!(
            (found[0].bench, &found[0].values[..]),
            ("gpu_ask_over_floor", &[100.0, 100.0, 150.0][..])
        );
    }

    #[test]
    fn differences_refer_to_existing_subjects() {
        let benches = benches();
        for Difference { of: (name, larger, smaller), .. } in DIFFERENCES {
            let bench = benches.iter().find(|bench| bench.name == name).unwrap();
            for subject in [larger, smaller] {
                assert!(bench.subjects.iter().any(|other| other.name == subject), "{name}: {subject}");
            }
        }
    }

    #[test]
    fn no_bench_measures_a_subject_twice() {
        for bench in benches() {
            let mut names: Vec<&str> = bench.subjects.iter().map(|subject| subject.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), bench.subjects.len(), "{}", bench.name);
        }
    }
}
