//! Queues alone: no kernels, no waking, only moving 64 bytes.

use std::thread;

use crate::bench::{Bench, Subject};
use crate::error::BenchError;
use crate::figure::Sample;
use crate::payload::{Payload, Tally};
use crate::setting::Setting;
use crate::subjects::{crossbeam, dotcompute, rtrb, tokio};

pub fn benches() -> Vec<Bench> {
    vec![
        Bench {
            name: "queue_same_thread",
            unit: "ns",
            about: "push and pop on one thread, the queue empty before and after; time of one pair",
            turns: 1,
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
            turns: 1,
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
            about: "the same stream by 64 messages at a time, for the queues that can (crossbeam's cannot)",
            turns: 1,
            subjects: vec![
                Subject::new("dotcompute", dotcompute::cross_thread_batched),
                Subject::new("dotcompute-mpsc", dotcompute::mpsc_cross_thread_batched),
                Subject::new("rtrb", rtrb::cross_thread_batched),
                Subject::new("tokio", tokio::cross_thread_batched),
            ],
        },
    ]
}

/// Times `pairs` calls of `pair`, which pushes a message and pops one, on the pinned driver.
///
/// # Errors
///
/// When the messages that came out are not those that went in.
pub fn same_thread(
    subject: &'static str,
    setting: &Setting,
    mut pair: impl FnMut(Payload) -> Option<Payload>,
) -> Result<Sample, BenchError> {
    setting.cores.pin_driver();
    // The tally is made here, and not passed in, so that it lives in registers: in memory it would be as slow as
    // the ring. Each pass counts from 0.
    let mut pass = |count: u64| {
        let mut tally = Tally::default();
        for sequence in 0..count {
            // A pair that gives nothing back leaves the count behind, which the check notices.
            if let Some(payload) = pair(Payload::new(sequence)) {
                tally.add(&payload);
            }
        }
        tally
    };
    pass(setting.pairs / 10).check(subject, setting.pairs / 10)?;
    let begun = setting.clock.ticks();
    let tally = pass(setting.pairs);
    let seconds = setting.clock.seconds_since(begun);
    tally.check(subject, setting.pairs)?;
    Ok(Sample::plain(seconds * 1e9 / setting.pairs as f64))
}

/// Times a stream of messages from the peer's thread to the driver's, from before the first push until the last has
/// been counted. `produce` gets the number of messages; `consume` counts into a tally until it has as many.
///
/// # Errors
///
/// What either side reports, or that what arrived is not what was sent.
pub fn cross_thread(
    subject: &'static str,
    setting: &Setting,
    produce: impl FnOnce(u64) -> Result<(), BenchError> + Send,
    consume: impl FnOnce(u64, &mut Tally) -> Result<(), BenchError>,
) -> Result<Sample, BenchError> {
    let count = setting.stream;
    let mut tally = Tally::default();
    let ready = std::sync::Barrier::new(2);
    let seconds = thread::scope(|scope| {
        let producer = scope.spawn(|| {
            setting.cores.pin_peer();
            ready.wait();
            produce(count)
        });
        setting.cores.pin_driver();
        ready.wait();
        let begun = setting.clock.ticks();
        let consumed = consume(count, &mut tally);
        let seconds = setting.clock.seconds_since(begun);
        producer.join().unwrap_or(Err(BenchError::Panicked { subject }))?;
        consumed.map(|()| seconds)
    })?;
    tally.check(subject, count)?;
    Ok(Sample::plain(count as f64 / seconds / 1e6))
}
