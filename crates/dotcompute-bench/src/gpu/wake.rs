//! Asks to a ring kernel that has left the device after its idle timeout.

use std::thread;
use std::time::Duration;

use dotcompute::prelude::*;

use super::fixture::{Fixture, GpuBenchConfig, ResidencyPolicy};
use crate::bench::{Bench, Subject};
use crate::error::BenchError;
use crate::measurement::{Sample, latency_histogram, median};
use crate::payload::Payload;

const ANSWER: &str = include_str!("../../device/answer.cu");
const NAME: &str = "dotcompute";

/// The idle timeout, and the time allowed for leaving the device.
const IDLE_TIMEOUT: Duration = Duration::from_millis(1);
const OFF_DEVICE: Duration = Duration::from_millis(10);

pub fn bench() -> Bench<GpuBenchConfig> {
    Bench {
        name: "gpu_wake",
        unit: "ns",
        about: "the first ask after the ring kernel has left the device by its idle timeout; the runtime relaunches it",
        samples_per_round: 1,
        subjects: vec![Subject::new(NAME, wake)],
    }
}

fn wake(config: &GpuBenchConfig) -> Result<Sample, BenchError> {
    let fixture = Fixture::new(NAME, config, ResidencyPolicy::IdleTimeout(IDLE_TIMEOUT))?;
    let kernel = DeviceKernel::<Payload, Payload>::cuda_cpp("answer.cu", ANSWER).entry("answer");
    let kernel = fixture.launch("answer", kernel.shape(Shape::Block { threads: 1 }))?;
    let clock = &config.common.clock;
    let (mut latencies, mut nanoseconds) = (latency_histogram(), Vec::new());
    for sequence in 0..config.wakes {
        thread::sleep(OFF_DEVICE);
        let started = clock.ticks();
        let reply = kernel.ask(Payload::new(sequence)).map_err(BenchError::subject(NAME, "asking"))?;
        let elapsed = clock.ticks() - started;
        if !reply.is_reply_to(sequence) {
            return Err(BenchError::WrongReply { subject: NAME, sequence });
        }
        latencies.saturating_record(elapsed.saturating_sub(clock.read_cost()));
        nanoseconds.push(clock.nanoseconds(elapsed));
    }
    fixture.end()?;
    let mean = nanoseconds.iter().sum::<f64>() / nanoseconds.len() as f64;
    Ok(Sample { value: median(&nanoseconds), latencies: Some(latencies), mean: Some(mean) })
}
