//! `rtrb`: a bounded single-producer single-consumer ring, and the floor made of two of them.

use std::thread;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::ask;
use crate::error::BenchError;
use crate::figure::Sample;
use crate::payload::{Payload, Tally};
use crate::queue;
use crate::setting::{BATCH, CAPACITY, Setting};
use crate::spin;
use crate::tell as tells;

const NAME: &str = "rtrb";

pub fn same_thread(setting: &Setting) -> Result<Sample, BenchError> {
    let (mut producer, mut consumer) = RingBuffer::new(CAPACITY);
    queue::same_thread(NAME, setting, |payload| {
        producer.push(payload).ok()?;
        consumer.pop().ok()
    })
}

pub fn cross_thread(setting: &Setting) -> Result<Sample, BenchError> {
    let (producer, consumer) = RingBuffer::new(CAPACITY);
    queue::cross_thread(
        NAME,
        setting,
        |count| produce(producer, count),
        |count, tally| consume(consumer, count, tally),
    )
}

pub fn cross_thread_batched(setting: &Setting) -> Result<Sample, BenchError> {
    let (mut producer, mut consumer) = RingBuffer::new(CAPACITY);
    let produce = move |count: u64| {
        for batch in 0..count / BATCH as u64 {
            let first = batch * BATCH as u64;
            let mut payloads = (first..first + BATCH as u64).map(Payload::new);
            spin::until(|| Some(producer.write_chunk_uninit(BATCH).ok()?.fill_from_iter(&mut payloads)))?;
        }
        Ok(())
    };
    queue::cross_thread(NAME, setting, produce, |count, tally| {
        for _ in 0..count / BATCH as u64 {
            spin::until(|| {
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

/// The bare stream, ended when the consumer has counted everything: what telling could cost at best.
pub fn tell(setting: &Setting) -> Result<Sample, BenchError> {
    let (producer, consumer) = RingBuffer::new(CAPACITY);
    thread::scope(|scope| {
        let handler = scope.spawn(|| {
            setting.cores.pin_peer();
            let mut tally = Tally::default();
            consume(consumer, setting.tells, &mut tally).map(|()| tally)
        });
        setting.cores.pin_driver();
        let begun = setting.clock.ticks();
        produce(producer, setting.tells)?;
        let tally = handler.join().unwrap_or(Err(BenchError::Panicked { subject: NAME }))?;
        tells::sample(NAME, setting, begun, tally)
    })
}

/// The floor: two rings, two spinning threads, nothing else.
pub fn ping_pong(setting: &Setting) -> Result<Sample, BenchError> {
    let (mut questions, mut asked) = RingBuffer::<Payload>::new(CAPACITY);
    let (mut answers, mut answered) = RingBuffer::<Payload>::new(CAPACITY);
    thread::scope(|scope| {
        scope.spawn(move || {
            setting.cores.pin_peer();
            // The asker's end is dropped when it has what it wanted, or has failed.
            while let Ok(Some(question)) = spin::until(|| match asked.pop() {
                Ok(question) => Some(Some(question)),
                Err(_) if asked.is_abandoned() => Some(None),
                Err(_) => None,
            }) {
                let _ = answers.push(question.answer());
            }
        });
        ask::drive("floor", setting, move |question| {
            // One question is under way at a time: the ring is never full.
            let _ = questions.push(question);
            spin::until(|| answered.pop().ok())
        })
    })
}

fn produce(mut producer: Producer<Payload>, count: u64) -> Result<(), BenchError> {
    for sequence in 0..count {
        let payload = Payload::new(sequence);
        spin::until(|| producer.push(payload).ok())?;
    }
    Ok(())
}

fn consume(mut consumer: Consumer<Payload>, count: u64, tally: &mut Tally) -> Result<(), BenchError> {
    for _ in 0..count {
        tally.add(&spin::until(|| consumer.pop().ok())?);
    }
    Ok(())
}
