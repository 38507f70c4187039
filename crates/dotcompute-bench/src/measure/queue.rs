//! Queues alone: no kernels, no waking, only moving 64 bytes.

use std::thread;

use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measurement::Sample;
use crate::payload::{Payload, Tally};

/// Times `pairs` calls of `pair`, which pushes a message and pops one, on the pinned driver.
///
/// # Errors
///
/// When the messages that came out are not those that went in.
pub fn same_thread(
    subject: &'static str,
    config: &BenchConfig,
    mut pair: impl FnMut(Payload) -> Option<Payload>,
) -> Result<Sample, BenchError> {
    config.cores.pin_driver();
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
    pass(config.pairs / 10).check(subject, config.pairs / 10)?;
    let started = config.clock.ticks();
    let tally = pass(config.pairs);
    let seconds = config.clock.seconds_since(started);
    tally.check(subject, config.pairs)?;
    Ok(Sample::plain(seconds * 1e9 / config.pairs as f64))
}

/// Times a stream of messages from the peer's thread to the driver's, from before the first push until the last has
/// been counted. `produce` gets the number of messages; `consume` counts into a tally until it has as many.
///
/// # Errors
///
/// What either side reports, or that what arrived is not what was sent.
pub fn cross_thread(
    subject: &'static str,
    config: &BenchConfig,
    produce: impl FnOnce(u64) -> Result<(), BenchError> + Send,
    consume: impl FnOnce(u64, &mut Tally) -> Result<(), BenchError>,
) -> Result<Sample, BenchError> {
    let count = config.stream;
    let mut tally = Tally::default();
    let ready = std::sync::Barrier::new(2);
    let seconds = thread::scope(|scope| {
        let producer = scope.spawn(|| {
            config.cores.pin_peer();
            ready.wait();
            produce(count)
        });
        config.cores.pin_driver();
        ready.wait();
        let started = config.clock.ticks();
        let consumed = consume(count, &mut tally);
        let seconds = config.clock.seconds_since(started);
        producer.join().unwrap_or(Err(BenchError::Panicked { subject }))?;
        consumed.map(|()| seconds)
    })?;
    tally.check(subject, count)?;
    Ok(Sample::plain(count as f64 / seconds / 1e6))
}
