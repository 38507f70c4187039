//! Human-readable output: one table per bench, and the targets.

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::bench::{Bench, more_is_better};
use crate::clock::Clock;
use crate::measurement::{Measurement, median};
use crate::targets::{Target, ratios};

/// Renders the table of every bench, and the targets that could be evaluated.
pub fn render<S>(
    benches: &[Bench<S>],
    measurements: &[Measurement],
    targets: &[Target],
    clock: &Clock,
) -> String {
    let mut text = String::new();
    for bench in benches {
        let measurements: Vec<&Measurement> =
            measurements.iter().filter(|measurement| measurement.bench == bench.name).collect();
        text +=
            &format!("\n{} ({}): {}\n{}\n", bench.name, bench.unit, bench.about, table(&measurements, clock));
    }
    let target_table = target_table(targets, measurements);
    if !target_table.is_empty() {
        text += "\nTargets (median of the rounds' ratios, with the smallest and the largest)\n";
        text += &format!("{target_table}\n");
    }
    text
}

fn table(measurements: &[&Measurement], clock: &Clock) -> Table {
    let baselines: Vec<&Measurement> =
        ["dotcompute", "floor"].iter().filter_map(|&name| find_subject(measurements, name)).collect();
    let timed = measurements.iter().any(|measurement| measurement.percentiles(clock).is_some());
    let mut header = vec!["subject".to_owned()];
    if timed {
        header.extend(["p50", "p99", "p99.9", "p99.99", "p50 of the rounds"].map(str::to_owned));
    } else {
        header.extend(["median", "of the rounds"].map(str::to_owned));
    }
    let worse =
        if measurements.iter().all(|measurement| measurement.unit == "bytes") { "larger" } else { "slower" };
    header.extend(baselines.iter().map(|baseline| format!("{worse} than {}", baseline.subject)));

    let mut table = new_table(header);
    for measurement in measurements {
        let mut row = vec![measurement.subject.to_owned()];
        match measurement.percentiles(clock) {
            Some(percentiles) => row.extend(percentiles.map(number)),
            None => row.push(number(measurement.typical(clock))),
        }
        let (low, high) = measurement.spread();
        row.push(format!("{} - {}", number(low), number(high)));
        row.extend(baselines.iter().map(|baseline| slower(measurement, baseline)));
        table.add_row(cells(row));
    }
    table
}

/// Returns by which factor a subject is slower (or larger) than the baseline; below 1 it is faster.
fn slower(measurement: &Measurement, baseline: &Measurement) -> String {
    if measurement.subject == baseline.subject {
        return "-".to_owned();
    }
    let ratios = if more_is_better(measurement.unit) {
        ratios(baseline, measurement)
    } else {
        ratios(measurement, baseline)
    };
    format!("{:.2} x", median(&ratios))
}

fn target_table(targets: &[Target], measurements: &[Measurement]) -> Table {
    let mut table = new_table(["target", "measured", "of the rounds", ""].map(str::to_owned).to_vec());
    for target in targets {
        let Some(result) = target.evaluate(measurements) else { continue };
        let (low, high) = result.spread;
        let status = match (result.met, result.out_of_reach) {
            (true, _) => "met".to_owned(),
            (false, None) => "NOT MET".to_owned(),
            (false, Some(floor)) => format!("NOT MET (the floor: {})", target.show(floor)),
        };
        let spread = format!("{} - {}", target.show(low), target.show(high));
        table.add_row(cells(vec![target.to_string(), target.show(result.measured), spread, status]));
    }
    table
}

fn find_subject<'a>(measurements: &[&'a Measurement], subject: &str) -> Option<&'a Measurement> {
    measurements.iter().copied().find(|measurement| measurement.subject == subject)
}

fn new_table(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_header(cells(header));
    table
}

/// The first column is text, the others are numbers.
fn cells(row: Vec<String>) -> Vec<Cell> {
    let side = |column| if column == 0 { CellAlignment::Left } else { CellAlignment::Right };
    row.into_iter().enumerate().map(|(column, text)| Cell::new(text).set_alignment(side(column))).collect()
}

/// Formats a value with about three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
