//! The host benches of bare queues.

use crate::bench::{Bench, Subject};
use crate::subjects::{crossbeam, dotcompute, rtrb, tokio};

pub fn benches() -> Vec<Bench> {
    vec![
        Bench {
            name: "queue_same_thread",
            unit: "ns",
            about: "push and pop on one thread, with the queue empty before and after; time of one pair",
            samples_per_round: 1,
            subjects: vec![
                Subject::new("dotcompute", dotcompute::same_thread),
                Subject::new("dotcompute-mpsc", dotcompute::mpsc_same_thread),
                Subject::new("rtrb", rtrb::same_thread),
                Subject::new("crossbeam", crossbeam::same_thread),
                Subject::new("crossbeam-array-queue", crossbeam::array_queue_same_thread),
                Subject::new("tokio", tokio::same_thread),
            ],
        },
        Bench {
            name: "queue_cross_thread",
            unit: "M/s",
            about: "a stream from one thread to another, one message at a time; tokio awaits, the others spin",
            samples_per_round: 1,
            subjects: vec![
                Subject::new("dotcompute", dotcompute::cross_thread),
                Subject::new("dotcompute-mpsc", dotcompute::mpsc_cross_thread),
                Subject::new("rtrb", rtrb::cross_thread),
                Subject::new("crossbeam", crossbeam::cross_thread),
                Subject::new("crossbeam-array-queue", crossbeam::array_queue_cross_thread),
                Subject::new("tokio", tokio::cross_thread),
            ],
        },
        Bench {
            name: "queue_cross_thread_batched",
            unit: "M/s",
            about: "the same stream in batches of 64 messages, for queues with batch operations (crossbeam has none)",
            samples_per_round: 1,
            subjects: vec![
                Subject::new("dotcompute", dotcompute::cross_thread_batched),
                Subject::new("dotcompute-mpsc", dotcompute::mpsc_cross_thread_batched),
                Subject::new("rtrb", rtrb::cross_thread_batched),
                Subject::new("tokio", tokio::cross_thread_batched),
            ],
        },
    ]
}
