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
            about: "resident memory of one idle kernel among 100,000, including its handle; default options, two workers; tokio is a bare task \
                    with a channel of 64",
            samples_per_round: 1,
            subjects: vec![
                Subject::new("dotcompute", |config| in_child("dotcompute", config, BYTES)),
                Subject::new("tokio", |config| in_child("tokio", config, BYTES)),
                Subject::new("kameo", |config| in_child("kameo", config, BYTES)),
                Subject::new("ractor", |config| in_child("ractor", config, BYTES)),
            ],
        },
        Bench {
            name: "many_launch",
            unit: "ns",
            about: "the same kernels: time to launch and activate one, until it has started",
            samples_per_round: 1,
            subjects: vec![
                Subject::new("dotcompute", |config| in_child("dotcompute", config, LAUNCH)),
                Subject::new("tokio", |config| in_child("tokio", config, LAUNCH)),
                Subject::new("kameo", |config| in_child("kameo", config, LAUNCH)),
                Subject::new("ractor", |config| in_child("ractor", config, LAUNCH)),
            ],
        },
        Bench {
            name: "many_one_message_each",
            unit: "ms",
            about: "the same kernels: time of one message to each, until all are handled",
            samples_per_round: 1,
            subjects: vec![
                Subject::new("dotcompute", |config| in_child("dotcompute", config, MESSAGES)),
                Subject::new("tokio", |config| in_child("tokio", config, MESSAGES)),
                Subject::new("kameo", |config| in_child("kameo", config, MESSAGES)),
                Subject::new("ractor", |config| in_child("ractor", config, MESSAGES)),
            ],
        },
        Bench {
            name: "many_shutdown",
            unit: "ms",
            about: "the same kernels: time until all have ended",
            samples_per_round: 1,
            subjects: vec![
                Subject::new("dotcompute", |config| in_child("dotcompute", config, SHUTDOWN)),
                Subject::new("tokio", |config| in_child("tokio", config, SHUTDOWN)),
                Subject::new("kameo", |config| in_child("kameo", config, SHUTDOWN)),
                Subject::new("ractor", |config| in_child("ractor", config, SHUTDOWN)),
            ],
        },
        Bench {
            name: "many_look_up",
            unit: "ns",
            about: "the same kernels: time to find one by its name; ractor's registry is global, and kameo is built without one",
            samples_per_round: 1,
            subjects: vec![Subject::new("dotcompute", |config| dotcompute::look_up(config, true))],
        },
        Bench {
            name: "many_look_up_absent",
            unit: "ns",
            about: "the same kernels: time of a look-up of a name that none has",
            samples_per_round: 1,
            subjects: vec![Subject::new("dotcompute", |config| dotcompute::look_up(config, false))],
        },
    ]
}

/// Measurements in the output of the child process.
const BYTES: &str = "bytes";
const LAUNCH: &str = "launch_nanoseconds";
const MESSAGES: &str = "messages_milliseconds";
const SHUTDOWN: &str = "shutdown_milliseconds";

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
    let output = json!({
        BYTES: cost.bytes,
        LAUNCH: cost.launch_nanoseconds,
        MESSAGES: cost.messages_milliseconds,
        SHUTDOWN: cost.shutdown_milliseconds,
    });
    println!("{output}");
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
