//! Benches and subjects, and the order in which they are run.

use std::time::Instant;

use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measurement::{Measurement, Sample};

/// Something that is measured, for several subjects in the same way.
pub struct Bench<S = BenchConfig> {
    pub name: &'static str,
    pub unit: &'static str,
    /// What a reader must know to read the figures.
    pub about: &'static str,
    /// How often each subject's turn comes in one round: more for a bench in which small differences matter.
    pub samples_per_round: usize,
    pub subjects: Vec<Subject<S>>,
}

/// One of those compared, with the code that measures it.
pub struct Subject<S = BenchConfig> {
    pub name: &'static str,
    pub run: fn(&S) -> Result<Sample, BenchError>,
}

impl<S> Subject<S> {
    pub const fn new(name: &'static str, run: fn(&S) -> Result<Sample, BenchError>) -> Self {
        Subject { name, run }
    }
}

/// The benches asked for, or all.
///
/// # Errors
///
/// [`BenchError::UnknownBench`] with the names that there are.
pub fn selected<S>(mut benches: Vec<Bench<S>>, only: &[String]) -> Result<Vec<Bench<S>>, BenchError> {
    let known = |name: &String| benches.iter().any(|bench| bench.name == *name);
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        let names: Vec<&str> = benches.iter().map(|bench| bench.name).collect();
        return Err(BenchError::UnknownBench { name: unknown.clone(), known: names.join(", ") });
    }
    benches.retain(|bench| only.is_empty() || only.iter().any(|name| name == bench.name));
    Ok(benches)
}

/// Whether more of a unit is better.
pub fn more_is_better(unit: &str) -> bool {
    unit == "M/s"
}

/// Runs every subject of every bench once in each round, so that a disturbance of the machine meets all alike, and
/// calls `progress` before each. After `deadline` no further round is begun.
///
/// # Errors
///
/// Whatever stops a subject stops the run: a table with holes would be read as a comparison.
pub fn run<S: Sync>(
    benches: &[Bench<S>],
    rounds: usize,
    deadline: Option<Instant>,
    config: &S,
    mut progress: impl FnMut(usize, &str, &str),
) -> Result<Vec<Measurement>, BenchError> {
    let mut measurements: Vec<Vec<Measurement>> = benches
        .iter()
        .map(|bench| {
            bench.subjects.iter().map(|s| Measurement::new(bench.name, s.name, bench.unit)).collect()
        })
        .collect();
    for round in 0..rounds {
        if round > 0 && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
        for (bench, measurements) in benches.iter().zip(&mut measurements) {
            let count = bench.subjects.len();
            for turn in 0..bench.samples_per_round {
                // Every turn begins with another subject: none is always the one after the slowest.
                for index in (0..count).map(|i| (i + round + turn) % count) {
                    let subject = &bench.subjects[index];
                    progress(round, bench.name, subject.name);
                    measurements[index].add(on_a_fresh_thread(subject, config)?);
                }
            }
        }
    }
    Ok(measurements.into_iter().flatten().collect())
}

/// A subject pins the thread that it runs on, and threads inherit where they may run: the next subject must not.
fn on_a_fresh_thread<S: Sync>(subject: &Subject<S>, config: &S) -> Result<Sample, BenchError> {
    let outcome = std::thread::scope(|scope| scope.spawn(|| (subject.run)(config)).join());
    outcome.unwrap_or(Err(BenchError::Panicked { subject: subject.name }))
}
