//! What a round finds wrong.

use std::time::Duration;

/// Rounds after which memory and threads are taken as the reference: lazily created globals exist by then.
pub const WARM_UP: u64 = 4;

/// What a round found wrong.
#[derive(Debug, thiserror::Error)]
pub enum SoakError {
    #[error("{0}")]
    Setup(String),
    #[error("ring kernel `{kernel}` did not end: it is {status}")]
    NotEnded { kernel: String, status: String },
    #[error("ring kernel `{kernel}` lost or invented messages: {stats}")]
    NotConserved { kernel: String, stats: String },
    #[error("a call took {took:?} after its runtime had ended")]
    Slow { took: Duration },
    #[error("memory does not return: {before} bytes in use after round {WARM_UP}, {after} now")]
    Memory { before: usize, after: usize },
    #[error("threads do not end: {before} after round {WARM_UP}, {after} now")]
    Threads { before: usize, after: usize },
}
