//! Telling: one producer, one handler that counts, until everything is handled.

use crate::bench::{Bench, Subject};
use crate::clock::Clock;
use crate::error::BenchError;
use crate::figure::Sample;
use crate::payload::Tally;
use crate::setting::Setting;
use crate::subjects::{crossbeam, dotcompute, kameo, ractor, rtrb, tokio};

pub fn bench() -> Bench {
    Bench {
        name: "tell",
        unit: "M/s",
        about: "one producer thread, one handler on another; until all are handled; rtrb is the bare stream, for \
                scale; ractor's mailbox has no bound, so its producer never waits",
        turns: 3,
        subjects: vec![
            Subject::new("dotcompute", dotcompute::tell),
            Subject::new("dotcompute-no-telemetry", dotcompute::tell_without_telemetry),
            Subject::new("rtrb", rtrb::tell),
            Subject::new("crossbeam", crossbeam::tell),
            Subject::new("tokio", tokio::tell),
            Subject::new("kameo", kameo::tell),
            Subject::new("ractor", ractor::tell),
        ],
    }
}

/// The sample of a producer that began at `begun` and knows by `tally` that all its messages are handled.
///
/// # Errors
///
/// When the handler has counted something else than was told.
pub fn sample(
    subject: &'static str,
    setting: &Setting,
    begun: u64,
    tally: Tally,
) -> Result<Sample, BenchError> {
    let clock: &Clock = &setting.clock;
    let seconds = clock.seconds_since(begun);
    tally.check(subject, setting.tells)?;
    Ok(Sample::plain(setting.tells as f64 / seconds / 1e6))
}
