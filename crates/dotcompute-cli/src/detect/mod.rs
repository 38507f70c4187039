//! `dotcompute detect`: scores recorded series with ring kernels, one kernel per series on the CPU.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use dotcompute::prelude::*;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::detector::Detector;
use crate::device_detector::{Backend, score_all};
use crate::error::CliError;
use crate::nab::{self, Labels, Outcome, ScoredSeries, Window};
use crate::series::Series;

mod args;
mod findings;
mod output;
mod scorer;

pub use args::DetectArgs;
use findings::{Finding, Findings};
use scorer::{Scorer, Scores, Values};

/// Values per message: enough to amortize the cost of a message, few enough to stay in the cache.
const VALUES_PER_MESSAGE: usize = 4096;
/// Timeout of a request. A message takes well under a millisecond, so reaching the timeout means a fault.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs the command.
///
/// # Errors
///
/// [`CliError`]: a file or the labels cannot be used, or a result cannot be written.
pub fn run(args: &DetectArgs) -> Result<(), CliError> {
    let labels = args.labels.as_deref().map(Labels::read).transpose()?;
    let series = read(args)?;
    // Check labels before scoring, so that a missing label fails at once.
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

/// Reads all files and shows the progress on a terminal.
fn read(args: &DetectArgs) -> Result<Vec<Series>, CliError> {
    // A missing file adds no bytes here; reading it fails below.
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
    let start = Instant::now();
    let scores = score_each(args, &series)?;
    let elapsed = start.elapsed();
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
    let scored: Vec<ScoredSeries<'_>> = each
        .iter()
        .filter_map(|finding| Some((finding, &finding.labelled.as_ref()?.0)))
        .map(|(finding, windows)| ScoredSeries { windows, scores: &finding.scores })
        .collect();
    let best = nab::best_threshold(&scored, &nab::STANDARD);
    Ok(Findings { each, threshold: args.threshold, outcome, best, elapsed })
}

fn outcomes(each: &[Finding]) -> impl Iterator<Item = Outcome> {
    each.iter().filter_map(|finding| finding.labelled.as_ref()).map(|&(_, outcome)| outcome)
}

/// Scores every series with ring kernels, which hold the detector state: one kernel per series on the CPU, one for many series on a device.
fn score_each(args: &DetectArgs, all: &[Series]) -> Result<Vec<Vec<f64>>, CliError> {
    let threshold = args.threshold;
    if args.backend != Backend::Cpu {
        let values: Vec<&[f64]> = all.iter().map(|series| &series.values[..]).collect();
        return score_all(args.backend, &values, &Detector::new(threshold));
    }
    let runtime = Runtime::new()?;
    let mut scores = Vec::with_capacity(all.len());
    for (number, series) in all.iter().enumerate() {
        let kernel =
            runtime.launch(&format!("detector {number}"), move || Scorer::new(Detector::new(threshold)))?;
        kernel.activate()?;
        scores.push(score_series(&kernel, series)?);
        kernel.terminate(TIMEOUT)?;
    }
    runtime.shutdown(TIMEOUT).map_err(|error| CliError::internal("ending the ring kernels", error))?;
    Ok(scores)
}

fn score_series(kernel: &KernelHandle<Values, Scores>, series: &Series) -> Result<Vec<f64>, CliError> {
    let mut scores = Vec::with_capacity(series.len());
    for values in series.values.chunks(VALUES_PER_MESSAGE) {
        let reply = kernel.ask_timeout(Values(values.to_vec()), TIMEOUT);
        // As text: the error owns the message, which the user does not need.
        let Scores(reply) = reply
            .map_err(|error| CliError::internal("asking a ring kernel for scores", error.to_string()))?;
        scores.extend(reply);
    }
    Ok(scores)
}
