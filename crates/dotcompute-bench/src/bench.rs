//! Benches and subjects, and the order in which they are run.

use std::time::Instant;

use crate::error::BenchError;
use crate::figure::{Figure, Sample};
use crate::setting::Setting;
use crate::{ask, many, queue, tell};

/// Something that is measured, for several subjects in the same way.
pub struct Bench<S = Setting> {
    pub name: &'static str,
    pub unit: &'static str,
    /// What a reader must know to read the figures.
    pub about: &'static str,
    /// How often each subject's turn comes in one round: more for a bench in which small differences matter.
    pub turns: usize,
    pub subjects: Vec<Subject<S>>,
}

/// One of those compared, with the code that measures it.
pub struct Subject<S = Setting> {
    pub name: &'static str,
    pub run: fn(&S) -> Result<Sample, BenchError>,
}

impl<S> Subject<S> {
    pub const fn new(name: &'static str, run: fn(&S) -> Result<Sample, BenchError>) -> Self {
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
    setting: &S,
    mut progress: impl FnMut(usize, &str, &str),
) -> Result<Vec<Figure>, BenchError> {
    let mut figures: Vec<Vec<Figure>> = benches
        .iter()
        .map(|bench| bench.subjects.iter().map(|s| Figure::new(bench.name, s.name, bench.unit)).collect())
        .collect();
    for round in 0..rounds {
        if round > 0 && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
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
fn on_a_fresh_thread<S: Sync>(subject: &Subject<S>, setting: &S) -> Result<Sample, BenchError> {
    let outcome = std::thread::scope(|scope| scope.spawn(|| (subject.run)(setting)).join());
    outcome.unwrap_or(Err(BenchError::Panicked { subject: subject.name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benches_are_selected_by_name_and_an_unknown_name_lists_the_known() {
        let one = selected(all(), &["tell".to_owned()]).unwrap();
        assert_eq!(one.iter().map(|bench| bench.name).collect::<Vec<_>>(), ["tell"]);
        match selected(all(), &["tel".to_owned()]) {
            Err(error) => assert!(error.to_string().contains("queue_same_thread"), "{error}"),
            Ok(_) => panic!("an unknown bench was accepted"),
        }
    }
}
