//! `dotcompute detect`: recorded series through ring kernels, one for each series.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use dotcompute::prelude::*;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::detector::{self, Detector};
use crate::device_detector::{Backend, score_all};
use crate::error::CliError;
use crate::nab::{self, Judged, Labels, Outcome, Window};
use crate::series::Series;

mod judge;
mod output;

use judge::{Judge, Scores, Values};

/// Values in one message: enough to make the message's cost vanish, little enough to stay in the cache.
const BLOCK: usize = 4096;
/// A block takes well under a millisecond; this long means that something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// Finds anomalies in recorded series.
///
/// Each file is a CSV with the columns `timestamp,value`. The detector sees one value after another and never looks ahead.
#[derive(Debug, Args)]
pub struct DetectArgs {
    /// The recorded series.
    #[arg(required = true, value_name = "FILE.csv")]
    pub files: Vec<PathBuf>,
    /// Where to write every record with its score.
    #[arg(long, value_name = "OUT.csv")]
    pub output: Option<PathBuf>,
    /// Where to draw the series with scores, alerts and labels.
    #[arg(long, value_name = "OUT.png")]
    pub plot: Option<PathBuf>,
    /// Labelled windows to score the detection against, as the Numenta Anomaly Benchmark does (standard profile).
    #[arg(long, value_name = "windows.json")]
    pub labels: Option<PathBuf>,
    /// The score from which a record is an alert, 0 to 1; at 0.5 a series breaks a record of its own.
    #[arg(long, value_name = "SCORE", default_value_t = detector::THRESHOLD, value_parser = crate::watch::score)]
    pub threshold: f64,
    /// Print the result as one JSON document.
    #[arg(long)]
    pub json: bool,
    /// Where the detectors run; their scores are the same everywhere.
    #[arg(long, value_enum, default_value_t = Backend::Cpu)]
    pub backend: Backend,
}

/// A series with what was found in it.
struct Finding {
    series: Series,
    scores: Vec<f64>,
    /// The records that are alerts.
    alerts: Vec<usize>,
    /// Labelled windows and how the alerts fare against them, where there are labels.
    labelled: Option<(Vec<Window>, Outcome)>,
}

/// All that was found.
struct Findings {
    each: Vec<Finding>,
    threshold: f64,
    /// How all alerts fare together, where there are labels.
    outcome: Option<Outcome>,
    /// The threshold that is best in hindsight and the score with it, where there are windows.
    best: Option<(f64, f64)>,
    /// How long the ring kernels took.
    took: Duration,
}

impl Findings {
    fn records(&self) -> usize {
        self.each.iter().map(|finding| finding.series.len()).sum()
    }
}

/// Runs the command.
///
/// # Errors
///
/// [`CliError`]: a file or the labels cannot be used, or a result cannot be written.
pub fn run(args: &DetectArgs) -> Result<(), CliError> {
    let labels = args.labels.as_deref().map(Labels::read).transpose()?;
    let series = read(args)?;
    // Checked before the work, so that a missing label does not cost the wait.
    let windows: Option<Vec<Vec<Window>>> = labels
        .map(|labels| series.iter().map(|one| labels.windows_of(&one.path, &one.timestamps)).collect())
        .transpose()?;
    let findings = find(args, series, windows)?;
    if let Some(path) = &args.output {
        output::write_csv(path, &findings)?;
    }
    if let Some(path) = &args.plot {
        output::draw(path, &findings)?;
    }
    if args.json { output::print_json(args, &findings) } else { output::print(args, &findings) }
}

/// Reads all files, showing the progress on a terminal.
fn read(args: &DetectArgs) -> Result<Vec<Series>, CliError> {
    // A missing file counts for nothing here and is an error below.
    let bytes = args.files.iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum();
    let shown = !args.json && std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    if let Ok(style) = ProgressStyle::with_template("reading {bar:30} {bytes}/{total_bytes}  {eta} left") {
        bar.set_style(style);
    }
    let series: Result<Vec<Series>, _> =
        args.files.iter().map(|path| Series::read_through(path, |file| bar.wrap_read(file))).collect();
    bar.finish_and_clear();
    Ok(series?)
}

fn find(
    args: &DetectArgs,
    series: Vec<Series>,
    windows: Option<Vec<Vec<Window>>>,
) -> Result<Findings, CliError> {
    let began = Instant::now();
    let scores = judge_all(args, &series)?;
    let took = began.elapsed();
    let mut windows = windows.map(Vec::into_iter);
    let each: Vec<Finding> = series
        .into_iter()
        .zip(scores)
        .map(|(series, scores)| {
            let alerts: Vec<usize> =
                (0..scores.len()).filter(|&index| scores[index] >= args.threshold).collect();
            let labelled = windows.as_mut().and_then(Iterator::next).map(|windows| {
                let outcome = nab::score(series.len(), &windows, &alerts, &nab::STANDARD);
                (windows, outcome)
            });
            Finding { series, scores, alerts, labelled }
        })
        .collect();
    let outcome = args.labels.as_ref().map(|_| outcomes(&each).sum());
    let judged: Vec<Judged<'_>> = each
        .iter()
        .filter_map(|finding| Some((finding, &finding.labelled.as_ref()?.0)))
        .map(|(finding, windows)| Judged { windows, scores: &finding.scores })
        .collect();
    let best = nab::best_threshold(&judged, &nab::STANDARD);
    Ok(Findings { each, threshold: args.threshold, outcome, best, took })
}

fn outcomes(each: &[Finding]) -> impl Iterator<Item = Outcome> {
    each.iter().filter_map(|finding| finding.labelled.as_ref()).map(|&(_, outcome)| outcome)
}

/// Sends every series through a ring kernel, which keeps the detector's state: on threads one for each series, on a device one for many.
fn judge_all(args: &DetectArgs, all: &[Series]) -> Result<Vec<Vec<f64>>, CliError> {
    let threshold = args.threshold;
    if args.backend != Backend::Cpu {
        let values: Vec<&[f64]> = all.iter().map(|series| &series.values[..]).collect();
        return score_all(args.backend, &values, &Detector::new(threshold));
    }
    let runtime = Runtime::new()?;
    let mut scores = Vec::with_capacity(all.len());
    for (number, series) in all.iter().enumerate() {
        let kernel =
            runtime.launch(&format!("detector {number}"), move || Judge::new(Detector::new(threshold)))?;
        kernel.activate()?;
        scores.push(judge(&kernel, series)?);
        kernel.terminate(PATIENCE)?;
    }
    runtime.shutdown(PATIENCE).map_err(|error| CliError::internal("ending the ring kernels", error))?;
    Ok(scores)
}

fn judge(kernel: &KernelHandle<Values, Scores>, series: &Series) -> Result<Vec<f64>, CliError> {
    let mut scores = Vec::with_capacity(series.len());
    for block in series.values.chunks(BLOCK) {
        let answer = kernel.ask_timeout(Values(block.to_vec()), PATIENCE);
        // As text: the error owns the message, which is of no use to the reader.
        let Scores(of_block) = answer
            .map_err(|error| CliError::internal("asking a ring kernel for scores", error.to_string()))?;
        scores.extend(of_block);
    }
    Ok(scores)
}
