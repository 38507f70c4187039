//! `rtrb`: a bounded single-producer single-consumer ring, and the baseline (`floor`) of two such rings.

use std::thread;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::config::{BATCH, BenchConfig, CAPACITY};
use crate::error::BenchError;
use crate::measure::ask;
use crate::measure::queue;
use crate::measure::tell as tells;
use crate::measurement::Sample;
use crate::payload::{Payload, Tally};
use crate::spin_wait::spin_until;

const NAME: &str = "rtrb";

pub fn same_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (mut producer, mut consumer) = RingBuffer::new(CAPACITY);
    queue::same_thread(NAME, config, |payload| {
        producer.push(payload).ok()?;
        consumer.pop().ok()
    })
}

pub fn cross_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (producer, consumer) = RingBuffer::new(CAPACITY);
    queue::cross_thread(
        NAME,
        config,
        |count| produce(producer, count),
        |count, tally| consume(consumer, count, tally),
    )
}

pub fn cross_thread_batched(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (mut producer, mut consumer) = RingBuffer::new(CAPACITY);
    let produce = move |count: u64| {
        for batch in 0..count / BATCH as u64 {
            let first = batch * BATCH as u64;
            let mut payloads = (first..first + BATCH as u64).map(Payload::new);
            spin_until(|| Some(producer.write_chunk_uninit(BATCH).ok()?.fill_from_iter(&mut payloads)))?;
        }
        Ok(())
    };
    queue::cross_thread(NAME, config, produce, |count, tally| {
        for _ in 0..count / BATCH as u64 {
            spin_until(|| {
                let chunk = consumer.read_chunk(BATCH).ok()?;
                let (first, second) = chunk.as_slices();
                first.iter().chain(second).for_each(|payload| tally.add(payload));
                chunk.commit_all();
                Some(())
            })?;
        }
        Ok(())
    })
}

/// Measures the bare stream until the consumer has counted everything: the lower bound of `tell`.
pub fn tell(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (producer, consumer) = RingBuffer::new(CAPACITY);
    thread::scope(|scope| {
        let handler = scope.spawn(|| {
            config.cores.pin_peer();
            let mut tally = Tally::default();
            consume(consumer, config.tells, &mut tally).map(|()| tally)
        });
        config.cores.pin_driver();
        let started = config.clock.ticks();
        produce(producer, config.tells)?;
        let tally = handler.join().unwrap_or(Err(BenchError::Panicked { subject: NAME }))?;
        tells::sample(NAME, config, started, tally)
    })
}

/// Measures the baseline (`floor`): two rings and two spinning threads.
pub fn ping_pong(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (mut request_sender, mut request_receiver) = RingBuffer::<Payload>::new(CAPACITY);
    let (mut reply_sender, mut reply_receiver) = RingBuffer::<Payload>::new(CAPACITY);
    thread::scope(|scope| {
        scope.spawn(move || {
            config.cores.pin_peer();
            // The caller drops its end when it has all replies or has failed.
            while let Ok(Some(request)) = spin_until(|| match request_receiver.pop() {
                Ok(request) => Some(Some(request)),
                Err(_) if request_receiver.is_abandoned() => Some(None),
                Err(_) => None,
            }) {
                let _ = reply_sender.push(request.reply());
            }
        });
        ask::drive("floor", config, move |request| {
            // Only one request is in flight, so the ring is never full.
            let _ = request_sender.push(request);
            spin_until(|| reply_receiver.pop().ok())
        })
    })
}

fn produce(mut producer: Producer<Payload>, count: u64) -> Result<(), BenchError> {
    for sequence in 0..count {
        let payload = Payload::new(sequence);
        spin_until(|| producer.push(payload).ok())?;
    }
    Ok(())
}

fn consume(mut consumer: Consumer<Payload>, count: u64, tally: &mut Tally) -> Result<(), BenchError> {
    for _ in 0..count {
        tally.add(&spin_until(|| consumer.pop().ok())?);
    }
    Ok(())
}
