//! Pipelines of one and of two ring kernels on a device.

use dotcompute::prelude::*;

use super::fixture::{Fixture, GpuBenchConfig, QUEUE, ResidencyPolicy};
use crate::bench::{Bench, Subject};
use crate::error::BenchError;
use crate::measure::ask;
use crate::measurement::Sample;
use crate::payload::Payload;

const ANSWER: &str = include_str!("../../device/answer.cu");
const RELAY: &str = include_str!("../../device/relay.cu");

/// The names of the bench and of its two subjects.
pub const BENCH: &str = "gpu_pipeline";
pub const ONE_STAGE: &str = "of-one";
pub const TWO_STAGES: &str = "of-two";

pub fn bench() -> Bench<GpuBenchConfig> {
    Bench {
        name: BENCH,
        unit: "ns",
        about: "the host sends to the first and receives from the last; of two, the first is connected to the second through \
                device memory",
        samples_per_round: 1,
        subjects: vec![Subject::new(ONE_STAGE, one_stage), Subject::new(TWO_STAGES, two_stages)],
    }
}

fn kernel(file: &'static str, text: &'static str, entry: &'static str) -> DeviceKernel<Payload, Payload> {
    DeviceKernel::cuda_cpp(file, text).entry(entry).shape(Shape::Block { threads: 1 }).queue_capacity(QUEUE)
}

fn one_stage(config: &GpuBenchConfig) -> Result<Sample, BenchError> {
    let fixture = Fixture::new(ONE_STAGE, config, ResidencyPolicy::Default)?;
    let only = fixture.launch("last", kernel("answer.cu", ANSWER, "answer"))?;
    let sample = drive(ONE_STAGE, config, &only, &only)?;
    fixture.end()?;
    Ok(sample)
}

fn two_stages(config: &GpuBenchConfig) -> Result<Sample, BenchError> {
    let fixture = Fixture::new(TWO_STAGES, config, ResidencyPolicy::Default)?;
    let first = fixture.launch("first", kernel("relay.cu", RELAY, "relay"))?;
    let last = fixture.launch("last", kernel("answer.cu", ANSWER, "answer"))?;
    first.connect(&last).map_err(BenchError::subject(TWO_STAGES, "connecting"))?;
    let sample = drive(TWO_STAGES, config, &first, &last)?;
    fixture.end()?;
    Ok(sample)
}

fn drive(
    subject: &'static str,
    config: &GpuBenchConfig,
    first: &KernelHandle<Payload, Payload>,
    last: &KernelHandle<Payload, Payload>,
) -> Result<Sample, BenchError> {
    // A receiver parks until the runtime wakes it, so that a message takes far longer than a reply to an ask.
    let mut common = config.common.clone();
    common.asks = (common.asks / 20).max(100);
    ask::drive(subject, &common, |message| {
        first.tell(message).map_err(BenchError::subject(subject, "telling"))?;
        last.receive().map_err(BenchError::subject(subject, "receiving"))
    })
}
