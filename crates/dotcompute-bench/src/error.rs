//! Why a benchmark stopped.

use std::io;

/// A benchmark that cannot give an honest figure gives none.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(
        "this machine offers {found} core(s) to this process; the benchmarks keep two threads busy and need 2"
    )]
    TooFewCores { found: usize },
    #[error("{subject}: {what}: expected {expected}, found {found}; the figure would be worthless")]
    WrongCount { subject: &'static str, what: &'static str, expected: u64, found: u64 },
    #[error("{subject}: the answer to message {sequence} was not its answer")]
    WrongReply { subject: &'static str, sequence: u64 },
    #[error("nothing moved for {seconds} s; the other thread has died or hangs")]
    Stuck { seconds: u64 },
    #[error("{subject}: {doing}: {cause}")]
    Subject { subject: &'static str, doing: &'static str, cause: String },
    #[error("{doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    #[error("the measuring child for {subject} {problem}")]
    Child { subject: String, problem: String },
    #[error("a thread of {subject} panicked")]
    Panicked { subject: &'static str },
    #[error("there is no bench {name}; there are: {known}")]
    UnknownBench { name: String, known: String },
    #[error(
        "{variable} is `{value}`, where nothing can be measured; set it to `cuda` or `emulated`, or say so with --device"
    )]
    UnsupportedDevice { variable: &'static str, value: String },
    #[error("no memory figure: {0}")]
    Memory(&'static str),
}

impl BenchError {
    /// Wraps what a subject's own library reported.
    pub fn subject<E: std::fmt::Display>(
        subject: &'static str,
        doing: &'static str,
    ) -> impl FnOnce(E) -> Self {
        move |cause| BenchError::Subject { subject, doing, cause: cause.to_string() }
    }
}
