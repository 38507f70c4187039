//! Output of `dotcompute detect`: text, JSON, CSV and pictures.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};

use super::args::DetectArgs;
use super::findings::{Finding, Findings};
use crate::error::CliError;
use crate::nab::Outcome;
use crate::plot::{self, Panel, Scores};
use crate::time::Timestamp;

const MICROSECONDS: f64 = 1e6;
/// Values are clamped to this magnitude for drawing, so that the picture's arithmetic stays finite.
const MAX_DRAWN: f64 = 1e300;

pub(super) fn print(args: &DetectArgs, findings: &Findings) -> Result<(), CliError> {
    let mut out = BufWriter::new(io::stdout().lock());
    for finding in &findings.each {
        let count = finding.alerts.len();
        let alerts = if count == 1 { "alert" } else { "alerts" };
        write!(out, "{}: {} records, {count} {alerts}", finding.series.path.display(), finding.series.len())?;
        if let Some((windows, outcome)) = &finding.labelled {
            write!(out, "; {} of {} windows found, ", outcome.detected, windows.len())?;
            write!(out, "{} false; {}", outcome.false_positives, score_text(outcome))?;
        }
        writeln!(out)?;
        for &index in &finding.alerts {
            let (at, value) = (finding.series.timestamps[index], finding.series.values[index]);
            writeln!(out, "  {at}  value {value}  score {:.3}", finding.scores[index])?;
        }
    }
    let records = findings.records();
    let seconds = findings.elapsed.as_secs_f64();
    writeln!(
        out,
        "\n{records} records of {} series in {:.1} ms on ring kernels ({}): {:.1} million a second.",
        findings.each.len(),
        seconds * 1e3,
        args.backend.name(),
        records as f64 / seconds / 1e6
    )?;
    if let Some(outcome) = &findings.outcome {
        let windows = outcome.detected + outcome.missed;
        writeln!(
            out,
            "NAB standard profile, threshold {}: {} ({} of {windows} windows found, {} false alerts).",
            findings.threshold,
            score_text(outcome),
            outcome.detected,
            outcome.false_positives
        )?;
    }
    if let Some((threshold, score)) = findings.best {
        writeln!(out, "With the threshold that is best in hindsight, {threshold:.4}: score {score:.2}.")?;
    }
    for (what, path) in [("Scores", &args.output), ("Picture", &args.plot)] {
        if let Some(path) = path {
            writeln!(out, "{what}: {}", path.display())?;
        }
    }
    out.flush()?;
    Ok(())
}

/// A series without windows has no normalised score; its text is the cost of the false positives.
fn score_text(outcome: &Outcome) -> String {
    outcome
        .normalised()
        .map_or_else(|| format!("no window, cost {:.2}", -outcome.raw), |score| format!("score {score:.2}"))
}

pub(super) fn print_json(args: &DetectArgs, findings: &Findings) -> Result<(), CliError> {
    let series: Vec<Value> = findings.each.iter().map(series_json).collect();
    let mut document = json!({
        "backend": args.backend.name(),
        "threshold": findings.threshold,
        "records": findings.records(),
        "seconds": findings.elapsed.as_secs_f64(),
        "series": series,
        "output": args.output,
        "plot": args.plot,
    });
    if let Some(outcome) = &findings.outcome {
        document["nab"] = outcome_json(outcome);
        document["nab"]["best_threshold"] =
            json!(findings.best.map(|(threshold, score)| json!({ "threshold": threshold, "score": score })));
    }
    writeln!(io::stdout().lock(), "{document:#}")?;
    Ok(())
}

fn series_json(finding: &Finding) -> Value {
    let alerts: Vec<Value> = finding
        .alerts
        .iter()
        .map(|&index| {
            json!({
                "timestamp": finding.series.timestamps[index],
                "value": finding.series.values[index],
                "score": finding.scores[index],
            })
        })
        .collect();
    let mut json = json!({
        "path": finding.series.path,
        "records": finding.series.len(),
        "alerts": alerts,
    });
    if let Some((_, outcome)) = &finding.labelled {
        json["nab"] = outcome_json(outcome);
    }
    json
}

fn outcome_json(outcome: &Outcome) -> Value {
    json!({
        "profile": "standard",
        "score": outcome.normalised(),
        "raw": outcome.raw,
        "windows_found": outcome.detected,
        "windows_missed": outcome.missed,
        "false_positives": outcome.false_positives,
    })
}

/// Writes every record with its score, in the order of the files.
pub(super) fn write_csv(path: &Path, findings: &Findings) -> Result<(), CliError> {
    let write = || -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(BufWriter::new(File::create(path)?));
        writer.write_record(["series", "timestamp", "value", "score", "alert"])?;
        for finding in &findings.each {
            let name = finding.series.path.to_string_lossy();
            let records = finding.series.timestamps.iter().zip(&finding.series.values).zip(&finding.scores);
            for ((timestamp, value), score) in records {
                let alert = u8::from(*score >= findings.threshold);
                writer.write_record([
                    &*name,
                    &timestamp.to_string(),
                    &value.to_string(),
                    &format!("{score:.6}"),
                    &alert.to_string(),
                ])?;
            }
        }
        writer.flush()
    };
    write().map_err(|source| CliError::Write { path: path.to_owned(), source })
}

/// Draws one panel per series: values, scores, alerts and labelled windows.
pub(super) fn draw(path: &Path, findings: &Findings) -> Result<(), CliError> {
    let drawn: Vec<Drawn> = findings.each.iter().map(Drawn::new).collect();
    let panels: Vec<Panel<'_>> = findings
        .each
        .iter()
        .zip(&drawn)
        .map(|(finding, drawn)| Panel {
            title: title(finding),
            points: &drawn.points,
            scores: Some(Scores { points: &drawn.scores, threshold: findings.threshold }),
            alerts: finding.alerts.iter().map(|&index| drawn.points[index]).collect(),
            windows: &drawn.windows,
        })
        .collect();
    let alerts: usize = findings.each.iter().map(|finding| finding.alerts.len()).sum();
    let score = findings.outcome.as_ref().and_then(Outcome::normalised);
    let score = score.map_or_else(String::new, |score| format!(", NAB score {score:.1}"));
    let heading = format!("{} records, {alerts} alerts{score}", findings.records());
    Ok(plot::draw(path, &heading, &panels, moment)?)
}

struct Drawn {
    points: Vec<(f64, f64)>,
    scores: Vec<(f64, f64)>,
    windows: Vec<(f64, f64)>,
}

impl Drawn {
    fn new(finding: &Finding) -> Self {
        let seconds = |index: usize| finding.series.timestamps[index].as_microseconds() as f64 / MICROSECONDS;
        let points = (0..finding.series.len())
            .map(|index| (seconds(index), finding.series.values[index].clamp(-MAX_DRAWN, MAX_DRAWN)));
        let scores = (0..finding.series.len()).map(|index| (seconds(index), finding.scores[index]));
        let windows = finding.labelled.iter().flat_map(|(windows, _)| windows);
        Self {
            points: points.collect(),
            scores: scores.collect(),
            windows: windows.map(|window| (seconds(window.first), seconds(window.last))).collect(),
        }
    }
}

fn title(finding: &Finding) -> String {
    let name = finding.series.path.file_stem().unwrap_or_default().to_string_lossy();
    let score = finding
        .labelled
        .as_ref()
        .map_or_else(String::new, |(_, outcome)| format!(" — {}", score_text(outcome)));
    format!("{name}{score}")
}

/// Formats a time as `2014-07-01`, `2014-07-01 00:30` or `2014-07-01 00:30:15`, whichever is shortest.
fn moment(seconds: f64) -> String {
    let text = Timestamp::from_microseconds((seconds.round() * MICROSECONDS) as i64).to_string();
    let short = text.strip_suffix(":00").unwrap_or(&text);
    short.strip_suffix(" 00:00").unwrap_or(short).to_owned()
}
