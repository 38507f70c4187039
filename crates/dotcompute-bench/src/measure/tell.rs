//! Measures one-way messages from one producer to one counting handler, until all are handled.

use crate::clock::Clock;
use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measurement::Sample;
use crate::payload::Tally;

/// Returns the sample of a producer that started at `started`, once `tally` shows that all its messages are handled.
///
/// # Errors
///
/// Returns [`BenchError::WrongCount`] if the handler did not count exactly the sent messages.
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
