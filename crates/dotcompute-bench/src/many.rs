//! A hundred thousand idle kernels: what each costs in memory, and one message to each.
//!
//! Each sample is taken in a fresh child process, since a process hardly ever gives memory back.

use std::env;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bench::{Bench, Subject};
use crate::error::BenchError;
use crate::figure::Sample;
use crate::setting::Setting;
use crate::subjects::{dotcompute, kameo, ractor, tokio};

/// Places in the mailbox of each idle kernel, where it can be set.
pub const CAPACITY: usize = 8;

/// The child process's subcommand. Not for people: it is called by [`in_child`] only.
pub const CHILD: &str = "many-child";

pub fn benches() -> Vec<Bench> {
    // The memory of a process is read from /proc.
    if !cfg!(target_os = "linux") {
        return Vec::new();
    }
    vec![
        Bench {
            name: "many",
            unit: "bytes",
            about: "resident memory of one idle kernel among 100,000, its handle included; two workers, mailboxes \
                    of 8 (ractor's has no bound); tokio is a bare task with a channel",
            turns: 1,
            subjects: vec![
                Subject::new("dotcompute", |setting| in_child("dotcompute", setting, "bytes")),
                Subject::new("tokio", |setting| in_child("tokio", setting, "bytes")),
                Subject::new("kameo", |setting| in_child("kameo", setting, "bytes")),
                Subject::new("ractor", |setting| in_child("ractor", setting, "bytes")),
            ],
        },
        Bench {
            name: "many_one_message_each",
            unit: "ms",
            about: "the same kernels: one message to each, until all are handled",
            turns: 1,
            subjects: vec![
                Subject::new("dotcompute", |setting| in_child("dotcompute", setting, "milliseconds")),
                Subject::new("tokio", |setting| in_child("tokio", setting, "milliseconds")),
                Subject::new("kameo", |setting| in_child("kameo", setting, "milliseconds")),
                Subject::new("ractor", |setting| in_child("ractor", setting, "milliseconds")),
            ],
        },
    ]
}

/// Starts this program again to measure one subject, and picks one figure of what it prints.
fn in_child(subject: &'static str, setting: &Setting, figure: &str) -> Result<Sample, BenchError> {
    let starting = |source| BenchError::Io { doing: "starting the measuring child", source };
    let program = env::current_exe().map_err(starting)?;
    let output = Command::new(program)
        .args([CHILD, subject, &setting.kernels.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(starting)?;
    let failed = |problem: String| BenchError::Child { subject: subject.to_owned(), problem };
    if !output.status.success() {
        return Err(failed(format!("failed ({})", output.status)));
    }
    let figures: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| failed(format!("printed something other than JSON: {error}")))?;
    let value = figures[figure].as_f64().ok_or_else(|| failed(format!("printed no {figure}")))?;
    Ok(Sample::plain(value))
}

/// What the child does: measures one subject and prints one line.
///
/// # Errors
///
/// What the subject reports, or that there is no such subject.
pub fn child(subject: &str, kernels: u64) -> Result<(), BenchError> {
    let crowd = match subject {
        "dotcompute" => dotcompute::many(kernels),
        "tokio" => tokio::many(kernels),
        "kameo" => kameo::many(kernels),
        "ractor" => ractor::many(kernels),
        _ => {
            Err(BenchError::Child { subject: subject.to_owned(), problem: "was asked for no subject".into() })
        }
    }?;
    println!("{}", json!({ "bytes": crowd.bytes, "milliseconds": crowd.milliseconds }));
    Ok(())
}

/// What a crowd of kernels costs.
pub struct Crowd {
    bytes: f64,
    milliseconds: f64,
}

/// Counts, across a crowd, the kernels that have started and the messages that have been handled.
#[derive(Clone, Default)]
pub struct Counters {
    started: Arc<AtomicU64>,
    handled: Arc<AtomicU64>,
}

impl Counters {
    pub fn start(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub fn handle(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
    }
}

/// Measures a crowd: `build` makes every kernel, `tell_each` sends one message to each.
///
/// # Errors
///
/// What either reports, or that some kernel never started or never handled its message.
pub fn measure<C>(
    subject: &'static str,
    kernels: u64,
    counters: &Counters,
    build: impl FnOnce() -> Result<C, BenchError>,
    tell_each: impl FnOnce(&C) -> Result<(), BenchError>,
) -> Result<Crowd, BenchError> {
    let before = resident_bytes()?;
    let crowd = build()?;
    reached(subject, "kernels started", &counters.started, kernels)?;
    let bytes = resident_bytes()?.saturating_sub(before) as f64 / kernels as f64;
    let begun = Instant::now();
    tell_each(&crowd)?;
    reached(subject, "messages handled", &counters.handled, kernels)?;
    Ok(Crowd { bytes, milliseconds: begun.elapsed().as_secs_f64() * 1e3 })
}

/// Waits until `counter` is at `expected`; asleep, since both cores are the workers'.
fn reached(
    subject: &'static str,
    what: &'static str,
    counter: &AtomicU64,
    expected: u64,
) -> Result<(), BenchError> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = counter.load(Ordering::Relaxed);
        if found == expected {
            return Ok(());
        }
        if found > expected || Instant::now() > deadline {
            return Err(BenchError::WrongCount { subject, what, expected, found });
        }
        thread::sleep(Duration::from_micros(100));
    }
}

/// The memory of this process that is resident, in bytes.
fn resident_bytes() -> Result<u64, BenchError> {
    let reading = |source| BenchError::Io { doing: "reading /proc/self/status", source };
    let status = fs::read_to_string("/proc/self/status").map_err(reading)?;
    resident_in(&status).ok_or(BenchError::Memory("/proc/self/status has no VmRSS in kB"))
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status() {
        assert_eq!(resident_in("VmPeak:\t 9 kB\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1234 * 1024));
        assert_eq!(resident_in("VmPeak:\t 9 kB\n"), None);
    }

    #[test]
    fn a_subject_that_does_not_exist_is_an_error() {
        assert!(matches!(child("nobody", 1), Err(BenchError::Child { .. })));
    }

    #[test]
    fn a_message_too_many_is_noticed() {
        let counter = AtomicU64::new(3);
        assert!(matches!(reached("test", "messages", &counter, 2), Err(BenchError::WrongCount { .. })));
    }
}
