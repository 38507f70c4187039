//! Waiting without sleeping, but not for ever.

use std::time::{Duration, Instant};

use crate::error::BenchError;

/// Far longer than any subject keeps a spinning thread waiting.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Calls `attempt` until it gives something. There is no pause between: each side has its core to itself, and a pause
/// would only make both later.
///
/// # Errors
///
/// [`BenchError::Stuck`] after half a minute: better no figure than a benchmark that hangs.
#[inline]
pub fn spin_until<T>(mut attempt: impl FnMut() -> Option<T>) -> Result<T, BenchError> {
    // The clock is read once in about a million attempts, so that it costs nothing.
    const ATTEMPTS: u32 = 1 << 20;
    let mut started = None;
    loop {
        for _ in 0..ATTEMPTS {
            if let Some(value) = attempt() {
                return Ok(value);
            }
        }
        if started.get_or_insert_with(Instant::now).elapsed() > TIMEOUT {
            return Err(BenchError::Stuck { seconds: TIMEOUT.as_secs() });
        }
    }
}
