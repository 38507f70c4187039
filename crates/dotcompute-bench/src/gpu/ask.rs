//! Asks to ring kernels on a device: from one caller, from eight, and to one of many ring kernels.

use std::sync::Barrier;
use std::thread;

use dotcompute::prelude::*;

use super::fixture::{Fixture, GpuBenchConfig, QUEUE, ResidencyPolicy};
use crate::bench::{Bench, Subject};
use crate::error::BenchError;
use crate::measure::ask;
use crate::measurement::{Sample, latency_histogram};
use crate::payload::Payload;

const ANSWER: &str = include_str!("../../device/answer.cu");
/// Number of concurrent callers.
const CALLERS: u64 = 8;

const NAME: &str = "dotcompute";
const BLOCK_32: &str = "dotcompute-block-32";
const THREAD_32: &str = "dotcompute-thread-32";

/// Returns the subjects with one caller, which are compared with the baseline.
pub fn subjects() -> Vec<Subject<GpuBenchConfig>> {
    vec![
        Subject::new(NAME, |config| ask_one(NAME, config, kernel(Shape::Block { threads: 1 }))),
        Subject::new(BLOCK_32, |config| {
            ask_one(BLOCK_32, config, kernel(Shape::Block { threads: 32 }).entry("answer_of_a_block"))
        }),
    ]
}

/// Returns the benches with eight callers and with many ring kernels.
pub fn benches() -> [Bench<GpuBenchConfig>; 2] {
    let callers = Bench {
        name: "gpu_ask_8",
        unit: "ns",
        about: "as gpu_ask, from 8 host threads concurrently; in shape thread-32 up to 32 messages are handled concurrently; \
                the mean is the total time over the number of replies to all callers",
        samples_per_round: 1,
        subjects: vec![
            Subject::new(NAME, |config| ask_eight(NAME, config, kernel(Shape::Block { threads: 1 }))),
            Subject::new(THREAD_32, |config| {
                ask_eight(THREAD_32, config, kernel(Shape::Thread { threads: 32 }))
            }),
        ],
    };
    let resident = Bench {
        name: "gpu_resident",
        unit: "ns",
        about: "one caller and the given number of resident ring kernels, which are asked round-robin, or only the first of them",
        samples_per_round: 1,
        subjects: vec![
            Subject::new("1", |config| ask_many("1", config, 1, 1)),
            Subject::new("8", |config| ask_many("8", config, 8, 8)),
            Subject::new("64", |config| ask_many("64", config, 64, 64)),
            Subject::new("64-asking-1", |config| ask_many("64-asking-1", config, 64, 1)),
        ],
    };
    [callers, resident]
}

fn kernel(shape: Shape) -> DeviceKernel<Payload, Payload> {
    DeviceKernel::cuda_cpp("answer.cu", ANSWER).entry("answer").shape(shape).queue_capacity(QUEUE)
}

fn ask_one(
    subject: &'static str,
    config: &GpuBenchConfig,
    kernel: DeviceKernel<Payload, Payload>,
) -> Result<Sample, BenchError> {
    let fixture = Fixture::new(subject, config, ResidencyPolicy::Default)?;
    let kernel = fixture.launch("answer", kernel)?;
    let sample = ask::drive(subject, &config.common, |request| {
        kernel.ask(request).map_err(BenchError::subject(subject, "asking"))
    })?;
    fixture.end()?;
    Ok(sample)
}

/// Measures asks to the first `active` of `resident` ring kernels that stay on the device.
fn ask_many(
    subject: &'static str,
    config: &GpuBenchConfig,
    resident: usize,
    active: usize,
) -> Result<Sample, BenchError> {
    let fixture = Fixture::new(subject, config, ResidencyPolicy::Always)?;
    let launch = |index| fixture.launch(&format!("answer-{index}"), kernel(Shape::Block { threads: 1 }));
    let kernels: Vec<_> = (0..resident).map(launch).collect::<Result<_, _>>()?;
    let mut round_robin = kernels[..active].iter().cycle();
    // On the emulated device more than a few hundred asks would take minutes, because its threads share the cores.
    let mut common = config.common.clone();
    common.asks = (common.asks / 10).max(100);
    let sample = ask::drive(subject, &common, |request| match round_robin.next() {
        Some(kernel) => kernel.ask(request).map_err(BenchError::subject(subject, "asking")),
        None => Err(BenchError::WrongCount { subject, what: "ring kernels to ask", expected: 1, found: 0 }),
    })?;
    fixture.end()?;
    Ok(sample)
}

fn ask_eight(
    subject: &'static str,
    config: &GpuBenchConfig,
    kernel: DeviceKernel<Payload, Payload>,
) -> Result<Sample, BenchError> {
    let fixture = Fixture::new(subject, config, ResidencyPolicy::Default)?;
    let kernel = fixture.launch("answer", kernel)?;
    let each = config.common.asks / CALLERS;
    let (start, clock) = (Barrier::new(CALLERS as usize + 1), &config.common.clock);
    let (started, all) = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (kernel, start) = (kernel.clone(), &start);
                scope.spawn(move || {
                    start.wait();
                    ask_in_turn(subject, config, &kernel, caller * each..(caller + 1) * each)
                })
            })
            .collect();
        start.wait();
        let started = clock.ticks();
        let panicked = || Err(BenchError::Panicked { subject });
        let all: Vec<_> =
            callers.into_iter().map(|caller| caller.join().unwrap_or_else(|_| panicked())).collect();
        (started, all)
    });
    let mean = clock.seconds_since(started) * 1e9 / (each * CALLERS) as f64;
    let mut latencies = latency_histogram();
    for laps in all {
        for lap in laps? {
            latencies.saturating_record(lap.saturating_sub(clock.read_cost()));
        }
    }
    fixture.end()?;
    let value = clock.nanoseconds(latencies.value_at_quantile(0.5));
    Ok(Sample { value, latencies: Some(latencies), mean: Some(mean) })
}

/// Asks sequentially; returns the ticks of each ask.
fn ask_in_turn(
    subject: &'static str,
    config: &GpuBenchConfig,
    kernel: &KernelHandle<Payload, Payload>,
    sequences: std::ops::Range<u64>,
) -> Result<Vec<u64>, BenchError> {
    let clock = &config.common.clock;
    let mut laps = Vec::with_capacity((sequences.end - sequences.start) as usize);
    let mut last = clock.ticks();
    for sequence in sequences {
        let reply = kernel.ask(Payload::new(sequence)).map_err(BenchError::subject(subject, "asking"))?;
        if !reply.is_reply_to(sequence) {
            return Err(BenchError::WrongReply { subject, sequence });
        }
        let now = clock.ticks();
        laps.push(now - last);
        last = now;
    }
    Ok(laps)
}
