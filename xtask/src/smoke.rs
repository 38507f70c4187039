//! Short runs of the two programs, whose output is read as another program would read it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Deserializer, Value};

use crate::command::{Failure, Invocation};
use crate::workspace::{Workspace, parse};

/// Far above what a short run takes, so that only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(300);

/// Every bench that `dotcompute-bench host` must report on.
const BENCHES: [&str; 7] = [
    "queue_same_thread",
    "queue_cross_thread",
    "queue_cross_thread_batched",
    "ask_spin",
    "ask_adaptive",
    "tell",
    "many",
];

/// Runs every benchmark for a moment and checks each JSON line. The figures mean nothing (the build is not
/// optimised, the machine not quiet); that every subject works and keeps its counts does.
///
/// # Errors
///
/// When a bench fails or is missing, or a line is not as documented.
pub fn bench(workspace: &Workspace) -> Result<(), Failure> {
    let program = workspace.build_executable(&build("dotcompute-bench"), "dotcompute-bench")?;
    let run = Invocation::new(program).args(["host", "--quick", "--json"]).limit(LIMIT);
    let wrong = |problem: String| Failure::Output { command: run.to_string(), problem };
    let mut seen = Vec::new();
    for line in run.capture(workspace)?.lines() {
        let figures = parse(&run, line)?;
        seen.push(check_line(&figures).map_err(|problem| wrong(format!("{problem} in {line}")))?);
    }
    match BENCHES.iter().find(|bench| !seen.iter().any(|line| line == *bench)) {
        None => {
            println!("{} lines, {} benches", seen.len(), BENCHES.len());
            Ok(())
        }
        Some(bench) => Err(wrong(format!("no line of {bench}"))),
    }
}

/// Checks one line of figures and returns the name of its bench.
fn check_line(line: &Value) -> Result<String, String> {
    let word = |key: &str| match line[key].as_str() {
        Some(word) if !word.is_empty() => Ok(word.to_owned()),
        _ => Err(format!("no {key}")),
    };
    let figure = |key: &str| match line[key].as_f64() {
        Some(figure) if figure.is_finite() && figure >= 0.0 => Ok(figure),
        _ => Err(format!("no figure {key}")),
    };
    let bench = word("bench")?;
    word("subject")?;
    word("unit")?;
    if line.get("median").is_some() {
        figure("median")?;
    } else if figure("p50")? > figure("p99")? || figure("p99")? > figure("p999")? {
        return Err("percentiles out of order".into());
    }
    Ok(bench)
}

/// Watches this machine for two seconds and detects on a made series with one spike, both with `--json`.
///
/// # Errors
///
/// When a command fails, does not end, prints no JSON, or finds nothing in the series.
pub fn cli(workspace: &Workspace) -> Result<(), Failure> {
    let program = workspace.build_executable(&build("dotcompute-cli"), "dotcompute")?;
    let directory = workspace.target_dir().join("smoke");
    fs::create_dir_all(&directory).map_err(Failure::io(format!("creating {}", directory.display())))?;
    let series = directory.join("spike.csv");
    fs::write(&series, spike()).map_err(Failure::io(format!("writing {}", series.display())))?;

    let command = |arguments: &[&str]| {
        let run = Invocation::new(&program).args(arguments.iter().copied());
        run.in_directory(&directory).limit(LIMIT)
    };
    documents(workspace, &command(&["doctor", "--json"]))?;
    documents(workspace, &command(&["watch", "--seconds", "2", "--json"]))?;
    let detect = command(&["detect", "spike.csv", "--json", "--output", "scores.csv", "--plot", "plot.png"]);
    documents(workspace, &detect)?;
    for made in ["scores.csv", "plot.png"].map(|name| directory.join(name)) {
        check_made(&made)?;
    }
    Ok(())
}

/// Runs a command that prints JSON, one document or many, and checks that there is at least one.
fn documents(workspace: &Workspace, run: &Invocation) -> Result<(), Failure> {
    println!("--- {run}");
    let wrong = |problem: String| Failure::Output { command: run.to_string(), problem };
    let output = run.capture(workspace)?;
    let parsed: Result<Vec<Value>, _> = Deserializer::from_str(&output).into_iter().collect();
    match parsed {
        Ok(documents) if documents.is_empty() => Err(wrong("no JSON at all".into())),
        Ok(_) => Ok(()),
        Err(error) => Err(wrong(error.to_string())),
    }
}

/// Checks that a file was written and is not empty, and removes it, so that the next run cannot find this one's.
fn check_made(made: &PathBuf) -> Result<(), Failure> {
    let length = fs::metadata(made).map_err(Failure::io(format!("looking for {}", made.display())))?.len();
    if length == 0 {
        return Err(Failure::Missing(format!("anything in {}", made.display())));
    }
    fs::remove_file(made).map_err(Failure::io(format!("removing {}", made.display())))
}

/// 2,000 values of a gently waving series, one every five minutes, with one spike at three quarters.
fn spike() -> String {
    let mut csv = String::from("timestamp,value\n");
    for i in 0..2_000_u32 {
        let value = if i == 1_500 { 500.0 } else { 20.0 + (f64::from(i) / 30.0).sin() };
        let (day, minute) = (1 + i / 288, i % 288 * 5);
        // Writing to a String cannot fail.
        let _ = writeln!(csv, "2026-01-{day:02} {:02}:{:02}:00,{value:.3}", minute / 60, minute % 60);
    }
    csv
}

/// With the tests' profile, so that nothing is compiled that the tests have not compiled before.
fn build(package: &str) -> Invocation {
    Invocation::cargo(["build", "--package", package, "--bins", "--profile", "test", "--quiet"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_of_figures_are_checked() {
        let median = json!({"bench": "tell", "subject": "floor", "unit": "M/s", "median": 1.5});
        assert_eq!(check_line(&median), Ok("tell".into()));
        let tail = json!({"bench": "ask", "subject": "floor", "unit": "ns", "p50": 1, "p99": 2, "p999": 3});
        assert_eq!(check_line(&tail), Ok("ask".into()));
        let unordered =
            json!({"bench": "ask", "subject": "floor", "unit": "ns", "p50": 5, "p99": 2, "p999": 3});
        assert!(check_line(&unordered).is_err());
        let unnamed = json!({"bench": "ask", "subject": "", "unit": "ns", "median": 1});
        assert!(check_line(&unnamed).is_err());
        let missing = json!({"bench": "ask", "subject": "floor", "unit": "ns", "p50": 1, "p99": 2});
        assert!(check_line(&missing).is_err());
    }

    #[test]
    fn the_made_series_has_one_line_for_each_value_and_ascending_times() {
        let csv = spike();
        let times: Vec<&str> = csv.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
        assert_eq!(times.len(), 2_000);
        assert!(times.is_sorted());
    }
}
