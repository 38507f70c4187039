//! Sensitivity analysis of the detector's settings: prints how the benchmark's score changes with each of them.
//!
//! `cargo run --release -p dotcompute-cli --example sensitivity -- ../shared/data/nab`, where the folder holds
//! `windows.json` and the series that it names. It takes half a minute.

use std::error::Error;
use std::path::Path;

use dotcompute_cli::detector::{Detector, RECORDED, Settings, THRESHOLD};
use dotcompute_cli::nab::{self, Labels, Outcome, Window};
use dotcompute_cli::series::Series;

const SPLITS: usize = 200;

struct Labelled {
    name: String,
    values: Vec<f64>,
    windows: Vec<Window>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("name the folder that holds windows.json and the series")?;
    let corpus = read(Path::new(&folder))?;
    let chosen = outcomes(&corpus, RECORDED, THRESHOLD);
    println!("{:<28}{:>7}", "as they are", total(&chosen));
    one_at_a_time(&corpus);
    without_one(&corpus, &chosen);
    unseen(&corpus);
    Ok(())
}

fn read(folder: &Path) -> Result<Vec<Labelled>, Box<dyn Error>> {
    let labels = Labels::read(&folder.join("windows.json"))?;
    // The labels may name series that the folder does not contain.
    let available = labels.series().filter(|name| folder.join(name).is_file());
    available
        .map(|name| {
            let series = Series::read(&folder.join(name))?;
            let windows = labels.windows_of(&series.path, &series.timestamps)?;
            Ok(Labelled { name: name.to_owned(), values: series.values, windows })
        })
        .collect()
}

/// Returns the outcome of each series with the same settings for all.
fn outcomes(corpus: &[Labelled], settings: Settings, threshold: f64) -> Vec<Outcome> {
    let outcome = |series: &Labelled| {
        let mut detector = Detector::with(settings, threshold);
        let scores: Vec<f64> = series.values.iter().map(|&value| detector.update(value)).collect();
        let alerts: Vec<usize> = (0..scores.len()).filter(|&index| scores[index] >= threshold).collect();
        nab::score(scores.len(), &series.windows, &alerts, &nab::STANDARD)
    };
    corpus.iter().map(outcome).collect()
}

fn score<'a>(outcomes: impl IntoIterator<Item = &'a Outcome>) -> f64 {
    outcomes.into_iter().copied().sum::<Outcome>().normalised().unwrap_or(f64::NAN)
}

fn total(outcomes: &[Outcome]) -> String {
    format!("{:.1}", score(outcomes))
}

/// Prints the score with one setting changed at a time.
fn one_at_a_time(corpus: &[Labelled]) {
    let row = |name: &str, changes: &[(String, Settings, f64)]| {
        let scores: Vec<String> = changes
            .iter()
            .map(|(change, settings, threshold)| {
                format!("{change}: {}", total(&outcomes(corpus, *settings, *threshold)))
            })
            .collect();
        println!("{name:<28}{}", scores.join("   "));
    };
    let weight = |name: &str, set: fn(&mut Settings, f64)| {
        let change = |factor: f64| {
            let mut settings = RECORDED;
            set(&mut settings, factor);
            (format!("x{factor}"), settings, THRESHOLD)
        };
        row(name, &[0.25, 0.5, 2.0, 4.0].map(change));
    };
    weight("fast", |settings, factor| settings.fast = (settings.fast * factor).min(1.0));
    weight("recent", |settings, factor| settings.recent *= factor);
    weight("long_run", |settings, factor| settings.long_run *= factor);
    weight("forgetting", |settings, factor| settings.forgetting *= factor);
    let margins = [1.1, 1.15, 1.25, 1.3];
    row("margin", &margins.map(|margin| (format!("{margin}"), Settings { margin, ..RECORDED }, THRESHOLD)));
    let count = |name: &str, values: &[u64], set: fn(&mut Settings, u64)| {
        let change = |&value: &u64| {
            let mut settings = RECORDED;
            set(&mut settings, value);
            (format!("{value}"), settings, THRESHOLD)
        };
        row(name, &values.iter().map(change).collect::<Vec<_>>());
    };
    count("block", &[16, 32, 60, 68, 128, 256], |settings, value| settings.block = value);
    count("settling", &[20, 32, 48, 80], |settings, value| settings.settling = value);
    count("warm_up", &[100, 300, 600], |settings, value| settings.warm_up = value);
    count("quiet", &[0, 50, 100, 150, 200, 300], |settings, value| settings.quiet = value);
    let thresholds = [0.48, 0.49, 0.51, 0.52, 0.55];
    row("threshold", &thresholds.map(|threshold| (format!("{threshold}"), RECORDED, threshold)));
}

/// Prints the range of the score with one series excluded, to show whether it depends on a single series.
fn without_one(corpus: &[Labelled], chosen: &[Outcome]) {
    let mut each: Vec<(f64, &str)> = (0..corpus.len())
        .map(|left_out| {
            let others = chosen.iter().enumerate().filter(|(index, _)| *index != left_out);
            (score(others.map(|(_, outcome)| outcome)), corpus[left_out].name.as_str())
        })
        .collect();
    each.sort_by(|left, right| left.0.total_cmp(&right.0));
    if let (Some(low), Some(high)) = (each.first(), each.last()) {
        println!(
            "{:<28}{:.1} without {} to {:.1} without {}",
            "without one series", low.0, low.1, high.0, high.1
        );
    }
}

/// A point of the grid: its index on each axis, and the outcome of each series.
struct GridPoint {
    at: [usize; 6],
    outcomes: Vec<Outcome>,
}

/// Cross-validation: chooses settings on some series and scores them on the others.
fn unseen(corpus: &[Labelled]) {
    let points = grid(corpus);
    let mut scores: Vec<f64> = points.iter().map(|one| score(&one.outcomes)).collect();
    scores.sort_by(f64::total_cmp);
    println!("{:<28}{}", format!("all {} of a grid", points.len()), spread(&scores));
    let plateau: Vec<Vec<Outcome>> = points.iter().map(|one| smoothed(one, &points)).collect();
    let series = corpus.len();
    let one_each = cross_validate(&points, &plateau, series, |series, fold| series == fold);
    println!("{:<28}{one_each:.1}", "chosen without the one");
    let mut state = 1_u64;
    let mut split_scores: Vec<f64> = (0..SPLITS)
        .map(|_| {
            let order = shuffled(series, &mut state);
            cross_validate(&points, &plateau, 2, |series, fold| order[series] % 2 == fold)
        })
        .collect();
    split_scores.sort_by(f64::total_cmp);
    println!("{:<28}{}", "chosen on the other half", spread(&split_scores));
}

fn spread(sorted: &[f64]) -> String {
    let at = |percent: usize| sorted[(sorted.len() - 1) * percent / 100];
    format!(
        "least {:.1}   10 %: {:.1}   median {:.1}   90 %: {:.1}   greatest {:.1}",
        at(0),
        at(10),
        at(50),
        at(90),
        at(100)
    )
}

/// Returns the mean outcome of a point and its neighbours on the grid, so that an isolated maximum has little weight.
fn smoothed(of: &GridPoint, points: &[GridPoint]) -> Vec<Outcome> {
    let near =
        |other: &&GridPoint| of.at.iter().zip(other.at).all(|(&here, there)| here.abs_diff(there) <= 1);
    let near: Vec<&GridPoint> = points.iter().filter(near).collect();
    let mean =
        |series: usize| near.iter().map(|one| one.outcomes[series].raw).sum::<f64>() / near.len() as f64;
    of.outcomes.iter().enumerate().map(|(series, &own)| Outcome { raw: mean(series), ..own }).collect()
}

/// Chooses for each fold the settings with the best plateau outside the fold; returns their score inside the folds.
fn cross_validate(
    points: &[GridPoint],
    plateau: &[Vec<Outcome>],
    folds: usize,
    inside: impl Fn(usize, usize) -> bool,
) -> f64 {
    let mut held_out = Vec::new();
    for fold in 0..folds {
        let outside = |outcomes: &[Outcome]| {
            score(outcomes.iter().enumerate().filter(|(series, _)| !inside(*series, fold)).map(|pair| pair.1))
        };
        let best = (0..points.len())
            .map(|index| (outside(&plateau[index]), index))
            .max_by(|left, right| left.0.total_cmp(&right.0));
        if let Some((_, best)) = best {
            let outcomes = points[best].outcomes.iter().enumerate();
            held_out.extend(outcomes.filter(|(series, _)| inside(*series, fold)).map(|pair| *pair.1));
        }
    }
    score(&held_out)
}

/// Returns the numbers below `count` in a pseudo-random order; `state` is the generator's state.
fn shuffled(count: usize, state: &mut u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, (*state >> 33) as usize % (last + 1));
    }
    order
}

/// Evaluates every combination of the axes below on every series.
fn grid(corpus: &[Labelled]) -> Vec<GridPoint> {
    const RECENT: [f64; 5] = [24.0, 32.0, 48.0, 64.0, 96.0];
    const LONG_RUN: [f64; 3] = [2048.0, 4096.0, 8192.0];
    const FORGETTING: [f64; 4] = [1024.0, 2048.0, 4096.0, 8192.0];
    const MARGIN: [f64; 5] = [1.1, 1.15, 1.2, 1.25, 1.3];
    const BLOCK: [u64; 3] = [32, 64, 128];
    const QUIET: [u64; 5] = [75, 100, 125, 150, 200];
    let lengths = [RECENT.len(), LONG_RUN.len(), FORGETTING.len(), MARGIN.len(), BLOCK.len(), QUIET.len()];
    let at = |mut number: usize| {
        lengths.map(|length| {
            let index = number % length;
            number /= length;
            index
        })
    };
    let settings = |at: [usize; 6]| Settings {
        recent: 1.0 / RECENT[at[0]],
        long_run: 1.0 / LONG_RUN[at[1]],
        forgetting: 1.0 / FORGETTING[at[2]],
        margin: MARGIN[at[3]],
        block: BLOCK[at[4]],
        quiet: QUIET[at[5]],
        ..RECORDED
    };
    (0..lengths.iter().product())
        .map(at)
        .map(|at| GridPoint { at, outcomes: outcomes(corpus, settings(at), THRESHOLD) })
        .collect()
}
