//! The host bench of one-way messages.

use crate::bench::{Bench, Subject};
use crate::subjects::{crossbeam, dotcompute, kameo, ractor, rtrb, tokio};

pub fn bench() -> Bench {
    Bench {
        name: "tell",
        unit: "M/s",
        about: "one producer thread and one handler thread, until all messages are handled; rtrb is the bare stream, for \
                scale; ractor's mailbox is unbounded, so its producer never waits",
        samples_per_round: 3,
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
