//! `crossbeam`: the bounded channel, and the array queue, which has no wake-ups.

use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use crossbeam_queue::ArrayQueue;

use crate::config::{BenchConfig, CAPACITY};
use crate::error::BenchError;
use crate::measure::ask;
use crate::measure::overload;
use crate::measure::queue;
use crate::measure::tell as tells;
use crate::measurement::Sample;
use crate::payload::{Payload, Tally};
use crate::spin_wait::spin_until;

const NAME: &str = "crossbeam";
const ARRAY_QUEUE: &str = "crossbeam-array-queue";

pub fn same_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (sender, receiver) = bounded(CAPACITY);
    queue::same_thread(NAME, config, |payload| {
        sender.try_send(payload).ok()?;
        receiver.try_recv().ok()
    })
}

pub fn array_queue_same_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let queue = ArrayQueue::new(CAPACITY);
    queue::same_thread(ARRAY_QUEUE, config, |payload| {
        queue.push(payload).ok()?;
        queue.pop()
    })
}

/// Measures threads that replace the oldest message of a full queue.
pub fn force_push(config: &BenchConfig) -> Result<Sample, BenchError> {
    let senders = (0..overload::THREADS).map(|_| {
        let queue = ArrayQueue::new(overload::CAPACITY);
        move |sequence| {
            std::hint::black_box(queue.force_push(Payload::new(sequence)));
            Ok(())
        }
    });
    overload::drive(ARRAY_QUEUE, config, senders.collect())
}

/// Blocks, because the channel's backoff is faster than spinning on `try_send`.
pub fn cross_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (sender, receiver) = bounded(CAPACITY);
    let produce = move |count| {
        for sequence in 0..count {
            sender.send(Payload::new(sequence)).map_err(BenchError::subject(NAME, "sending"))?;
        }
        Ok(())
    };
    queue::cross_thread(NAME, config, produce, |count, tally| {
        for _ in 0..count {
            tally.add(&receiver.recv().map_err(BenchError::subject(NAME, "receiving"))?);
        }
        Ok(())
    })
}

pub fn array_queue_cross_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let shared = ArrayQueue::new(CAPACITY);
    let produce = |count| {
        for sequence in 0..count {
            let payload = Payload::new(sequence);
            spin_until(|| shared.push(payload).ok())?;
        }
        Ok(())
    };
    queue::cross_thread(ARRAY_QUEUE, config, produce, |count, tally| {
        for _ in 0..count {
            tally.add(&spin_until(|| shared.pop())?);
        }
        Ok(())
    })
}

pub fn ask_spinning(config: &BenchConfig) -> Result<Sample, BenchError> {
    ask_with(config, |receiver| {
        spin_until(|| match receiver.try_recv() {
            Ok(payload) => Some(Some(payload)),
            Err(TryRecvError::Disconnected) => Some(None),
            Err(TryRecvError::Empty) => None,
        })
        .ok()
        .flatten()
    })
}

pub fn ask_blocking(config: &BenchConfig) -> Result<Sample, BenchError> {
    ask_with(config, |receiver| receiver.recv().ok())
}

/// Measures two bounded channels, one per direction. `receive` selects how to wait; it returns `None` once the other end is closed.
fn ask_with(
    config: &BenchConfig,
    receive: impl Fn(&Receiver<Payload>) -> Option<Payload> + Sync,
) -> Result<Sample, BenchError> {
    let (request_sender, request_receiver) = bounded(CAPACITY);
    let (reply_sender, reply_receiver) = bounded(CAPACITY);
    let receive = &receive;
    thread::scope(|scope| {
        scope.spawn(move || {
            config.cores.pin_peer();
            while let Some(request) = receive(&request_receiver) {
                if reply_sender.send(request.reply()).is_err() {
                    return;
                }
            }
        });
        ask::drive(NAME, config, move |request| {
            request_sender.send(request).map_err(BenchError::subject(NAME, "asking"))?;
            receive(&reply_receiver).ok_or(BenchError::Panicked { subject: NAME })
        })
    })
}

/// Measures a blocking channel to a counting thread.
pub fn tell(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (sender, receiver): (Sender<Payload>, _) = bounded(CAPACITY);
    thread::scope(|scope| {
        let handler = scope.spawn(move || {
            config.cores.pin_peer();
            let mut tally = Tally::default();
            while let Ok(payload) = receiver.recv() {
                tally.add(&payload);
            }
            tally
        });
        config.cores.pin_driver();
        let started = config.clock.ticks();
        for sequence in 0..config.tells {
            sender.send(Payload::new(sequence)).map_err(BenchError::subject(NAME, "telling"))?;
        }
        drop(sender);
        let tally = handler.join().map_err(|_| BenchError::Panicked { subject: NAME })?;
        tells::sample(NAME, config, started, tally)
    })
}
