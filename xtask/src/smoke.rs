//! Short runs of the programs. Their output is parsed as another program would parse it.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Deserializer, Value};

use crate::command::{Failure, Invocation};
use crate::workspace::{Workspace, parse};

/// Time limit of a short run, well above its usual duration: only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(300);

/// Every bench that `dotcompute-bench host` must report on.
const HOST: [&str; 23] = [
    "queue_same_thread",
    "queue_cross_thread",
    "queue_cross_thread_batched",
    "ask_spin",
    "ask_adaptive",
    "ask_from_a_task_cpu",
    "ask_from_a_task_wall",
    "ask_from_16_tasks_mailbox_64",
    "ask_from_16_tasks_mailbox_1024",
    "ask_from_500_tasks_mailbox_64",
    "ask_from_500_tasks_mailbox_1024",
    "ask_from_2000_tasks_mailbox_64",
    "ask_from_2000_tasks_mailbox_1024",
    "ask_from_10000_tasks_mailbox_64",
    "ask_from_10000_tasks_mailbox_1024",
    "tell",
    "tell_drop_oldest",
    "many",
    "many_launch",
    "many_one_message_each",
    "many_shutdown",
    "many_look_up",
    "many_look_up_absent",
];

/// Every bench that `dotcompute-bench gpu` must report on, on any device.
const GPU: [&str; 11] = [
    "gpu_ask",
    "gpu_ask_over_floor",
    "gpu_ask_8",
    "gpu_resident",
    "gpu_tell",
    "gpu_to_gpu",
    "gpu_pipeline",
    "gpu_hop",
    "gpu_wake",
    "gpu_launch",
    "gpu_idle_power",
];

/// Benches that report a difference, which can be negative on a busy machine.
const DIFFERENCES: [&str; 2] = ["gpu_ask_over_floor", "gpu_hop"];

/// Runs every benchmark briefly, those for a GPU on the emulated device, and checks each JSON line. The measurements mean nothing (an
/// unoptimised build on a busy machine). The run shows that every subject works and that its counts are right.
///
/// # Errors
///
/// When a bench fails or is missing, or a line has another format than documented.
pub fn bench(workspace: &Workspace) -> Result<(), Failure> {
    let program = workspace.program("dotcompute-bench")?;
    let command = |place: &str| Invocation::new(program).args([place, "--quick", "--json"]).limit(LIMIT);
    check_lines(workspace, &command("host"), &HOST)?;
    check_lines(workspace, &command("gpu").args(["--device", "emulated"]), &GPU)
}

/// Runs a benchmark, checks its lines, and checks that each of `benches` has one.
fn check_lines(workspace: &Workspace, run: &Invocation, benches: &[&str]) -> Result<(), Failure> {
    let wrong = |problem: String| Failure::Output { command: run.to_string(), problem };
    let mut seen = Vec::new();
    for line in run.capture(workspace)?.lines() {
        let figures = parse(run, line)?;
        seen.push(check_line(&figures).map_err(|problem| wrong(format!("{problem} in {line}")))?);
    }
    match benches.iter().find(|bench| !seen.iter().any(|line| line == *bench)) {
        None => {
            println!("{run}: {} lines, {} benches", seen.len(), benches.len());
            Ok(())
        }
        Some(bench) => Err(wrong(format!("no line of {bench}"))),
    }
}

/// Checks one line of measurements and returns the name of its bench.
fn check_line(line: &Value) -> Result<String, String> {
    let word = |key: &str| match line[key].as_str() {
        Some(word) if !word.is_empty() => Ok(word.to_owned()),
        _ => Err(format!("no {key}")),
    };
    let bench = word("bench")?;
    word("subject")?;
    if line.get("skipped").is_some() {
        return word("skipped").map(|_| bench);
    }
    word("unit")?;
    let least = if DIFFERENCES.contains(&bench.as_str()) { f64::NEG_INFINITY } else { 0.0 };
    let figure = |key: &str| match line[key].as_f64() {
        Some(figure) if figure.is_finite() && figure >= least => Ok(figure),
        _ => Err(format!("no figure {key}")),
    };
    if line.get("median").is_some() {
        figure("median")?;
    } else if figure("p50")? > figure("p99")?
        || figure("p99")? > figure("p999")?
        || figure("p999")? > figure("p9999")?
    {
        return Err("percentiles out of order".into());
    }
    Ok(bench)
}

/// Runs the soak, built with the test profile: debug assertions and overflow checks are on.
///
/// # Errors
///
/// When it does not build, or finds something wrong.
pub fn soak(workspace: &Workspace, arguments: &[String]) -> Result<(), Failure> {
    let program = workspace.program("dotcompute-soak")?;
    Invocation::new(program).args(arguments).run(workspace)
}

/// Runs `watch` for two seconds and `detect` on a generated series with one spike, both with `--json`.
///
/// # Errors
///
/// When a command fails, does not end, prints no JSON, or finds nothing in the series.
pub fn cli(workspace: &Workspace) -> Result<(), Failure> {
    let program = workspace.program("dotcompute")?;
    let directory = workspace.target_dir().join("smoke");
    fs::create_dir_all(&directory).map_err(Failure::io(format!("creating {}", directory.display())))?;
    let series = directory.join("spike.csv");
    fs::write(&series, spike()).map_err(Failure::io(format!("writing {}", series.display())))?;

    let command = |arguments: &[&str]| {
        let run = Invocation::new(program).args(arguments.iter().copied());
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

/// Checks that a file was written and is not empty, and removes it, so that the next run does not find this file.
fn check_made(made: &PathBuf) -> Result<(), Failure> {
    let length = fs::metadata(made).map_err(Failure::io(format!("looking for {}", made.display())))?.len();
    if length == 0 {
        return Err(Failure::Missing(format!("anything in {}", made.display())));
    }
    fs::remove_file(made).map_err(Failure::io(format!("removing {}", made.display())))
}

/// A slow sine wave of 2,000 values, one every five minutes, with one spike at three quarters.
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_of_figures_are_checked() {
        let median = json!({"bench": "tell", "subject": "floor", "unit": "M/s", "median": 1.5});
        assert_eq!(check_line(&median), Ok("tell".into()));
        let tail = |p50: u32, p9999: u32| json!({"bench": "ask", "subject": "floor", "unit": "ns", "p50": p50, "p99": 2, "p999": 3, "p9999": p9999});
        assert_eq!(check_line(&tail(1, 4)), Ok("ask".into()));
        assert!(check_line(&tail(5, 4)).is_err());
        assert!(check_line(&tail(1, 2)).is_err());
        let unnamed = json!({"bench": "ask", "subject": "", "unit": "ns", "median": 1});
        assert!(check_line(&unnamed).is_err());
        let missing = json!({"bench": "ask", "subject": "floor", "unit": "ns", "p50": 1, "p99": 2});
        assert!(check_line(&missing).is_err());
    }

    #[test]
    fn what_is_skipped_says_why_and_only_differences_are_negative() {
        let skipped = |why: &str| json!({"bench": "gpu_idle_power", "subject": "empty", "skipped": why});
        assert_eq!(check_line(&skipped("there is no GPU")), Ok("gpu_idle_power".into()));
        assert!(check_line(&skipped("")).is_err());
        let negative =
            |bench: &str| json!({"bench": bench, "subject": "dotcompute", "unit": "ns", "median": -5.0});
        assert!(check_line(&negative("gpu_hop")).is_ok());
        assert!(check_line(&negative("gpu_tell")).is_err());
    }

    #[test]
    fn the_made_series_has_one_line_for_each_value_and_ascending_times() {
        let csv = spike();
        let times: Vec<&str> = csv.lines().skip(1).filter_map(|line| line.split(',').next()).collect();
        assert_eq!(times.len(), 2_000);
        assert!(times.is_sorted());
    }
}
