//! Benches, subjects, and the interleaved rounds in which they run.

use std::time::Instant;

use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measurement::{Measurement, Sample};

/// A quantity that is measured in the same way for several subjects.
pub struct Bench<S = BenchConfig> {
    pub name: &'static str,
    pub unit: &'static str,
    /// What a reader must know to interpret the measurements.
    pub about: &'static str,
    /// Samples per subject and round; more than one for benches in which small differences matter.
    pub samples_per_round: usize,
    pub subjects: Vec<Subject<S>>,
}

/// One of the compared implementations, with the function that measures it.
pub struct Subject<S = BenchConfig> {
    pub name: &'static str,
    pub run: fn(&S) -> Result<Sample, BenchError>,
}

impl<S> Subject<S> {
    pub const fn new(name: &'static str, run: fn(&S) -> Result<Sample, BenchError>) -> Self {
        Subject { name, run }
    }
}

/// Returns the benches with the names in `only`, or all benches if it is empty.
///
/// # Errors
///
/// [`BenchError::UnknownBench`] with the known names.
pub fn selected<S>(mut benches: Vec<Bench<S>>, only: &[String]) -> Result<Vec<Bench<S>>, BenchError> {
    let known = |name: &String| benches.iter().any(|bench| bench.name == *name);
    if let Some(unknown) = only.iter().find(|name| !known(name)) {
        let names: Vec<&str> = benches.iter().map(|bench| bench.name).collect();
        return Err(BenchError::UnknownBench { name: unknown.clone(), known: names.join(", ") });
    }
    benches.retain(|bench| only.is_empty() || only.iter().any(|name| name == bench.name));
    Ok(benches)
}

/// Returns whether larger values of a unit are better.
pub fn more_is_better(unit: &str) -> bool {
    unit == "M/s"
}

/// Runs every subject of every bench in each round, so that a disturbance of the machine affects all subjects alike. Calls `progress`
/// before each sample. No round starts after `deadline`.
///
/// # Errors
///
/// Returns the first error of a subject. A table with gaps would be misread as a comparison.
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
            for pass in 0..bench.samples_per_round {
                // Each pass starts with a different subject, so that none always follows the slowest.
                for index in (0..count).map(|i| (i + round + pass) % count) {
                    let subject = &bench.subjects[index];
                    progress(round, bench.name, subject.name);
                    measurements[index].add(on_new_thread(subject, config)?);
                }
            }
        }
    }
    Ok(measurements.into_iter().flatten().collect())
}

/// Runs each subject on a new thread: a subject pins its thread, and new threads inherit the affinity.
fn on_new_thread<S: Sync>(subject: &Subject<S>, config: &S) -> Result<Sample, BenchError> {
    let outcome = std::thread::scope(|scope| scope.spawn(|| (subject.run)(config)).join());
    outcome.unwrap_or(Err(BenchError::Panicked { subject: subject.name }))
}
