//! The host bench of senders into full mailboxes that drop their oldest messages.

use crate::bench::{Bench, Subject};
use crate::subjects::{crossbeam, dotcompute};

pub fn bench() -> Bench {
    Bench {
        name: "tell_drop_oldest",
        unit: "ns",
        about: "processor time of one tell into a full mailbox of 64 with `DropOldest`; eight threads, each with a ring kernel of its own that \
                is paused; every dropped message is a dead letter. crossbeam's array queue replaces the oldest and accounts for nothing",
        samples_per_round: 1,
        subjects: vec![
            Subject::new("dotcompute", dotcompute::tell_drop_oldest),
            Subject::new("crossbeam-array-queue", crossbeam::force_push),
        ],
    }
}
