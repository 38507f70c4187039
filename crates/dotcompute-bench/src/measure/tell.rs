//! Telling: one producer, one handler that counts, until everything is handled.

use crate::clock::Clock;
use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measurement::Sample;
use crate::payload::Tally;

/// The sample of a producer that began at `started` and knows by `tally` that all its messages are handled.
///
/// # Errors
///
/// When the handler has counted something else than was told.
pub fn sample(
    subject: &'static str,
    config: &BenchConfig,
    started: u64,
    tally: Tally,
) -> Result<Sample, BenchError> {
    let clock: &Clock = &config.clock;
    let seconds = clock.seconds_since(started);
    tally.check(subject, config.tells)?;
    Ok(Sample::plain(config.tells as f64 / seconds / 1e6))
}
