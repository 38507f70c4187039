//! `dotcompute-bench gpu`: ring kernels on a device, with the floor of that device beside them.

mod ask;
mod bed;
mod floor;
mod hop;
mod launch;
mod power;
mod tell;
mod wake;

use std::env;
use std::fmt;
use std::time::{Duration, Instant};

use clap::Args;
use dotcompute::cuda::device_selection;

use crate::bench::{self, Bench, Subject};
use crate::clock::Clock;
use crate::cores::Cores;
use crate::error::BenchError;
use crate::figure::{Figure, Sample};
use crate::setting::Setting;
use crate::table;
use crate::targets::GPU_TARGETS;
use bed::{GpuSetting, Place};

/// What `gpu` can be told.
#[derive(Args)]
pub struct Options {
    /// Print one JSON line for each bench and subject instead of tables
    #[arg(long)]
    json: bool,
    /// Only see that everything works: the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Where ring kernels run [default: what DOTCOMPUTE_DEVICE says, or cuda]
    #[arg(long, value_enum)]
    device: Option<Place>,
    /// Run only this bench; may be repeated
    #[arg(long, value_name = "BENCH")]
    only: Vec<String>,
    /// How often each subject is measured [default: 5, or 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Begin no further round after so many seconds
    #[arg(long, value_name = "SECONDS")]
    within: Option<u64>,
    /// Print the names of the benches and measure nothing
    #[arg(long)]
    list: bool,
}

/// Measures, and gives what is to be printed.
///
/// # Errors
///
/// Whatever stops a subject stops the run.
pub fn run(options: &Options, progress: impl FnMut(usize, &str, &str)) -> Result<String, BenchError> {
    if options.list {
        return Ok(benches().iter().map(|bench| format!("{}\n", bench.name)).collect());
    }
    let deadline = options.within.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let place = options.device.map_or_else(from_environment, Ok)?;
    let mut benches = bench::selected(benches(), &options.only)?;
    let skipped = skip(&mut benches, place);
    let rounds = options.rounds.map_or(if options.quick { 1 } else { 5 }, usize::from);
    let setting = setting(place, options.quick)?;
    let clock = &setting.common.clock;
    let mut figures = bench::run(&benches, rounds, deadline, &setting, progress)?;
    figures.extend(differences(&figures));
    if options.json {
        let figures = figures.iter().map(|figure| format!("{}\n", figure.line(clock)));
        return Ok(figures.chain(skipped.iter().map(|skipped| format!("{}\n", skipped.line()))).collect());
    }
    let about = format!(
        "64-byte messages, at most {rounds} interleaved rounds, device: {place}.\nReading the clock costs {:.1} ns; that is taken \
         off every latency, for all subjects alike.\n",
        clock.nanoseconds(clock.cost())
    );
    // The emulated device is no GPU.
    let goals = if place == Place::Cuda { &GPU_TARGETS[..] } else { &[] };
    let skipped: String = skipped.iter().map(|skipped| format!("\n{skipped}")).collect();
    Ok(about + &table::render(&shown(benches), &figures, goals, clock) + &skipped)
}

fn from_environment() -> Result<Place, BenchError> {
    match env::var(device_selection::DEVICE_ENV_VAR).unwrap_or_default().as_str() {
        "" | "cuda" => Ok(Place::Cuda),
        "emulated" => Ok(Place::Emulated),
        other => {
            Err(BenchError::NoPlace { variable: device_selection::DEVICE_ENV_VAR, value: other.to_owned() })
        }
    }
}

fn setting(place: Place, quick: bool) -> Result<GpuSetting, BenchError> {
    let (clock, cores) = (Clock::new(), Cores::choose()?);
    let mut common = if quick { Setting::quick(clock, cores) } else { Setting::full(clock, cores) };
    match place {
        Place::Cuda if !quick => common.tells = 2_000_000,
        Place::Emulated if quick => common.asks = 1_000,
        _ => {}
    }
    let (wakes, idle) = if quick { (10, Duration::from_millis(100)) } else { (200, Duration::from_secs(1)) };
    Ok(GpuSetting { common, place, wakes, idle })
}

/// Every bench, in the order in which they are shown.
fn benches() -> Vec<Bench<GpuSetting>> {
    let mut subjects = vec![floor::subject()];
    subjects.extend(ask::subjects());
    let mut benches = vec![Bench {
        name: ASK,
        unit: "ns",
        about: "one asker that spins; floor is a bare 4-byte flag to a device function of one thread and back (emulated: to \
                another thread); in shape block-32 the 32 threads of a block share a message",
        turns: 1,
        subjects,
    }];
    benches.extend(ask::benches());
    benches.extend(tell::benches());
    benches.push(hop::bench());
    benches.push(wake::bench());
    benches.push(launch::bench());
    benches.push(power::bench());
    benches
}

/// A bench that cannot be measured here.
struct Skipped {
    bench: &'static str,
    subject: &'static str,
    why: String,
}

impl Skipped {
    /// The line for programs.
    fn line(&self) -> serde_json::Value {
        serde_json::json!({ "bench": self.bench, "subject": self.subject, "skipped": self.why })
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, {}: skipped: {}", self.bench, self.subject, self.why)
    }
}

/// Takes out what needs a GPU where there is none, and what needs its power where nobody tells it.
fn skip(benches: &mut Vec<Bench<GpuSetting>>, place: Place) -> Vec<Skipped> {
    let mut skipped = Vec::new();
    let mut take_out = |name: &'static str, why: String| {
        let Some(index) = benches.iter().position(|bench| bench.name == name) else { return };
        let skip = |subject: Subject<_>| Skipped { bench: name, subject: subject.name, why: why.clone() };
        skipped.extend(benches.remove(index).subjects.into_iter().map(skip));
    };
    if place == Place::Emulated {
        take_out(launch::BENCH, String::from("the emulated device runs ring kernels only"));
        take_out(power::BENCH, String::from("the emulated device has no power of its own"));
    } else if let Err(why) = power::Meter::new() {
        take_out(power::BENCH, why);
    }
    skipped
}

const ASK: &str = "gpu_ask";

/// A figure that is the difference of two others, round by round.
struct Difference {
    bench: &'static str,
    about: &'static str,
    /// Bench, the larger and the smaller subject.
    of: (&'static str, &'static str, &'static str),
}

const DIFFERENCES: [Difference; 2] = [
    Difference {
        bench: "gpu_ask_over_floor",
        about: "the median of an ask, less that of the floor in the same round",
        of: (ASK, "dotcompute", "floor"),
    },
    Difference {
        bench: "gpu_hop",
        about: "one way from one ring kernel to another: the median of a pipeline of two, less that of a pipeline of one in \
                the same round",
        of: (hop::BENCH, hop::OF_TWO, hop::OF_ONE),
    },
];

fn differences(figures: &[Figure]) -> Vec<Figure> {
    let find = |bench, subject| figures.iter().find(|f: &&Figure| f.bench == bench && f.subject == subject);
    let difference = |difference: &Difference| {
        let (bench, larger, smaller) = difference.of;
        let (larger, smaller) = (find(bench, larger)?, find(bench, smaller)?);
        let mut figure = Figure::new(difference.bench, "dotcompute", "ns");
        let rounds = larger.values.iter().zip(&smaller.values);
        rounds.for_each(|(larger, smaller)| figure.add(Sample::plain(larger - smaller)));
        Some(figure)
    };
    DIFFERENCES.iter().filter_map(difference).collect()
}

/// The benches with those that are differences of others.
fn shown(mut benches: Vec<Bench<GpuSetting>>) -> Vec<Bench<GpuSetting>> {
    let measured = |bench: &str| benches.iter().any(|other| other.name == bench);
    let differences: Vec<_> = DIFFERENCES.iter().filter(|difference| measured(difference.of.0)).collect();
    benches.extend(differences.into_iter().map(|difference| Bench {
        name: difference.bench,
        unit: "ns",
        about: difference.about,
        turns: 0,
        subjects: Vec::new(),
    }));
    benches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(bench: &'static str, subject: &'static str, values: &[f64]) -> Figure {
        let mut figure = Figure::new(bench, subject, "ns");
        values.iter().for_each(|&value| figure.add(Sample::plain(value)));
        figure
    }

    #[test]
    fn a_difference_is_taken_round_by_round() {
        let figures = [
            figure(ASK, "floor", &[1000.0, 2000.0, 1500.0]),
            figure(ASK, "dotcompute", &[1100.0, 2100.0, 1650.0]),
        ];
        let found = differences(&figures);
        assert_eq!(found.len(), 1, "the pipelines were not measured");
        assert_eq!(
            (found[0].bench, &found[0].values[..]),
            ("gpu_ask_over_floor", &[100.0, 100.0, 150.0][..])
        );
    }

    #[test]
    fn differences_are_of_subjects_that_there_are() {
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
