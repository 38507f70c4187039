//! Benches and subjects, and the order in which they are run.

use crate::error::BenchError;
use crate::figure::{Figure, Sample};
use crate::setting::Setting;
use crate::{ask, many, queue, tell};

/// Something that is measured, for several subjects in the same way.
pub struct Bench {
    pub name: &'static str,
    pub unit: &'static str,
    /// What a reader must know to read the figures.
    pub about: &'static str,
    /// How often each subject's turn comes in one round: more for a bench in which small differences matter.
    pub turns: usize,
    pub subjects: Vec<Subject>,
}

/// One of those compared, with the code that measures it.
pub struct Subject {
    pub name: &'static str,
    pub run: fn(&Setting) -> Result<Sample, BenchError>,
}

impl Subject {
    pub const fn new(name: &'static str, run: fn(&Setting) -> Result<Sample, BenchError>) -> Self {
        Subject { name, run }
    }
}

/// Every bench, in the order in which they are shown.
pub fn all() -> Vec<Bench> {
    let mut benches = queue::benches();
    benches.extend(ask::benches());
    benches.push(tell::bench());
    benches.extend(many::benches());
    benches
}

/// Whether more of a unit is better.
pub fn more_is_better(unit: &str) -> bool {
    unit == "M/s"
}

/// Runs every subject of every bench once in each round, so that a disturbance of the machine meets all alike, and
/// calls `progress` before each.
///
/// # Errors
///
/// Whatever stops a subject stops the run: a table with holes would be read as a comparison.
pub fn run(
    benches: &[Bench],
    rounds: usize,
    setting: &Setting,
    mut progress: impl FnMut(usize, &str, &str),
) -> Result<Vec<Figure>, BenchError> {
    let mut figures: Vec<Vec<Figure>> = benches
        .iter()
        .map(|bench| bench.subjects.iter().map(|s| Figure::new(bench.name, s.name, bench.unit)).collect())
        .collect();
    for round in 0..rounds {
        for (bench, figures) in benches.iter().zip(&mut figures) {
            let count = bench.subjects.len();
            for turn in 0..bench.turns {
                // Every turn begins with another subject: none is always the one after the slowest.
                for index in (0..count).map(|i| (i + round + turn) % count) {
                    let subject = &bench.subjects[index];
                    progress(round, bench.name, subject.name);
                    figures[index].add(on_a_fresh_thread(subject, setting)?);
                }
            }
        }
    }
    Ok(figures.into_iter().flatten().collect())
}

/// A subject pins the thread that it runs on, and threads inherit where they may run: the next subject must not.
fn on_a_fresh_thread(subject: &Subject, setting: &Setting) -> Result<Sample, BenchError> {
    let outcome = std::thread::scope(|scope| scope.spawn(|| (subject.run)(setting)).join());
    outcome.unwrap_or(Err(BenchError::Panicked { subject: subject.name }))
}
