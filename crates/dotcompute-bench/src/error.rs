//! Errors that stop a benchmark.

use std::io;

/// An error that stops the run: a benchmark with a failure reports no measurement.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(
        "selecting cores: the benchmarks need 2, and this process may use {found}; widen its CPU affinity"
    )]
    TooFewCores { found: usize },
    #[error("{subject}: {what}: expected {expected}, found {found}; the measurement is invalid")]
    WrongCount { subject: &'static str, what: &'static str, expected: u64, found: u64 },
    #[error("{subject}: the reply to message {sequence} does not match it")]
    WrongReply { subject: &'static str, sequence: u64 },
    #[error("no progress for {seconds} s; the peer thread has exited or hangs")]
    Stuck { seconds: u64 },
    #[error("{subject}: {doing}: {cause}")]
    Subject { subject: &'static str, doing: &'static str, cause: String },
    #[error("{doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    #[error("the measuring child for {subject} {problem}")]
    Child { subject: String, problem: String },
    #[error("a thread of {subject} panicked")]
    Panicked { subject: &'static str },
    #[error("no bench is named {name}; the benches are: {known}")]
    UnknownBench { name: String, known: String },
    #[error(
        "{variable} is `{value}`, which has no GPU benches; set it to `cuda` or `emulated`, or use --device"
    )]
    UnsupportedDevice { variable: &'static str, value: String },
    #[error("reading the resident memory: {0}")]
    Memory(&'static str),
}

impl BenchError {
    /// Wraps the error of a subject's own library.
    pub fn subject<E: std::fmt::Display>(
        subject: &'static str,
        doing: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |cause| BenchError::Subject { subject, doing, cause: cause.to_string() }
    }
}
