//! A spinning wait with a timeout.

use std::time::{Duration, Instant};

use crate::error::BenchError;

/// Far longer than any subject makes a spinning thread wait.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Calls `attempt` until it returns a value. There is no pause between attempts: each side owns its core, and a pause would only delay
/// both.
///
/// # Errors
///
/// [`BenchError::Stuck`] after [`TIMEOUT`], so that a benchmark does not hang.
#[inline]
pub fn spin_until<T>(mut attempt: impl FnMut() -> Option<T>) -> Result<T, BenchError> {
    // One clock read per million attempts adds no measurable cost.
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
