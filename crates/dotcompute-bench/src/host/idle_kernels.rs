//! The host benches of many idle kernels, and the child process that measures one subject.

use std::env;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::bench::{Bench, Subject};
use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measurement::Sample;
use crate::subjects::{dotcompute, kameo, ractor, tokio};

/// The subcommand of the child process. Internal: only [`in_child`] calls it.
pub const CHILD: &str = "many-child";

pub fn benches() -> Vec<Bench> {
    // The memory of a process is read from `/proc`.
    if !cfg!(target_os = "linux") {
        return Vec::new();
    }
    vec![
        Bench {
            name: "many",
            unit: "bytes",
            about: "resident memory of one idle kernel among 100,000, including its handle; two workers, mailboxes \
                    of 8 (ractor's is unbounded); tokio is a bare task with a channel",
            samples_per_round: 1,
            subjects: vec![
                Subject::new("dotcompute", |config| in_child("dotcompute", config, "bytes")),
                Subject::new("tokio", |config| in_child("tokio", config, "bytes")),
                Subject::new("kameo", |config| in_child("kameo", config, "bytes")),
                Subject::new("ractor", |config| in_child("ractor", config, "bytes")),
            ],
        },
        Bench {
            name: "many_one_message_each",
            unit: "ms",
            about: "the same kernels: time of one message to each, until all are handled",
            samples_per_round: 1,
            subjects: vec![
                Subject::new("dotcompute", |config| in_child("dotcompute", config, "milliseconds")),
                Subject::new("tokio", |config| in_child("tokio", config, "milliseconds")),
                Subject::new("kameo", |config| in_child("kameo", config, "milliseconds")),
                Subject::new("ractor", |config| in_child("ractor", config, "milliseconds")),
            ],
        },
    ]
}

/// Runs this program as a child that measures one subject, and returns one value of its output.
fn in_child(subject: &'static str, config: &BenchConfig, measurement: &str) -> Result<Sample, BenchError> {
    let starting = |source| BenchError::Io { doing: "starting the measuring child", source };
    let program = env::current_exe().map_err(starting)?;
    let output = Command::new(program)
        .args([CHILD, subject, &config.kernels.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(starting)?;
    let failed = |problem: String| BenchError::Child { subject: subject.to_owned(), problem };
    if !output.status.success() {
        return Err(failed(format!("failed ({})", output.status)));
    }
    let measurements: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("printed something other than JSON: {error}")))?;
    let value =
        measurements[measurement].as_f64().ok_or_else(|| failed(format!("printed no {measurement}")))?;
    Ok(Sample::plain(value))
}

/// Runs in the child: measures one subject and prints one line.
///
/// # Errors
///
/// Returns the error of the subject, or [`BenchError::Child`] if there is no such subject.
pub fn child(subject: &str, kernels: u64) -> Result<(), BenchError> {
    let cost = match subject {
        "dotcompute" => dotcompute::idle_kernels(kernels),
        "tokio" => tokio::idle_kernels(kernels),
        "kameo" => kameo::idle_kernels(kernels),
        "ractor" => ractor::idle_kernels(kernels),
        _ => Err(BenchError::Child {
            subject: subject.to_owned(),
            problem: "got the name of no subject".into(),
        }),
    }?;
    println!("{}", json!({ "bytes": cost.bytes, "milliseconds": cost.milliseconds }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_that_does_not_exist_is_an_error() {
        assert!(matches!(child("nonexistent", 1), Err(BenchError::Child { .. })));
    }
}
