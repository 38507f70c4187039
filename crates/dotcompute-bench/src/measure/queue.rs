//! Measures bare queues, without kernels and wake-ups: each message is 64 bytes.

use std::thread;

use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measurement::Sample;
use crate::payload::{Payload, Tally};

/// Measures `pairs` calls of `pair`, which pushes one message and pops one, on the pinned driver thread.
///
/// # Errors
///
/// Returns [`BenchError::WrongCount`] if the popped messages are not the pushed ones.
pub fn same_thread(
    subject: &'static str,
    config: &BenchConfig,
    mut pair: impl FnMut(Payload) -> Option<Payload>,
) -> Result<Sample, BenchError> {
    config.cores.pin_driver();
    // A local tally stays in registers; in memory it would be as slow as the ring. Each pass counts from 0.
    let mut pass = |count: u64| {
        let mut tally = Tally::default();
        for sequence in 0..count {
            // A pair that pops nothing leaves the count short, and the check fails.
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

/// Measures a stream of messages from the peer thread to the driver thread, from before the first push until the last message is counted.
/// `produce` gets the number of messages; `consume` counts them into a tally.
///
/// # Errors
///
/// Returns the error of either side, or [`BenchError::WrongCount`] if the received messages are not the sent ones.
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
