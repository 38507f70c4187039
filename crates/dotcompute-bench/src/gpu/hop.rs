//! From one ring kernel on a device to another: a pipeline of one and of two.

use dotcompute::prelude::*;

use super::bed::{Bed, GpuSetting, QUEUE, Stays};
use crate::ask;
use crate::bench::{Bench, Subject};
use crate::error::BenchError;
use crate::figure::Sample;
use crate::payload::Payload;

const ANSWER: &str = include_str!("../../device/answer.cu");
const RELAY: &str = include_str!("../../device/relay.cu");

/// The name of the bench, and of its two subjects.
pub const BENCH: &str = "gpu_pipeline";
pub const OF_ONE: &str = "of-one";
pub const OF_TWO: &str = "of-two";

pub fn bench() -> Bench<GpuSetting> {
    Bench {
        name: BENCH,
        unit: "ns",
        about: "the host tells the first and receives from the last; of two, the first is connected to the second through the \
                device's memory",
        turns: 1,
        subjects: vec![Subject::new(OF_ONE, of_one), Subject::new(OF_TWO, of_two)],
    }
}

fn kernel(file: &'static str, text: &'static str, entry: &'static str) -> DeviceKernel<Payload, Payload> {
    DeviceKernel::cuda_cpp(file, text).entry(entry).shape(Shape::Block { threads: 1 }).queue_capacity(QUEUE)
}

fn of_one(setting: &GpuSetting) -> Result<Sample, BenchError> {
    let bed = Bed::new(OF_ONE, setting, Stays::AsUsual)?;
    let only = bed.launch("last", kernel("answer.cu", ANSWER, "answer"))?;
    let sample = drive(OF_ONE, setting, &only, &only)?;
    bed.end()?;
    Ok(sample)
}

fn of_two(setting: &GpuSetting) -> Result<Sample, BenchError> {
    let bed = Bed::new(OF_TWO, setting, Stays::AsUsual)?;
    let first = bed.launch("first", kernel("relay.cu", RELAY, "relay"))?;
    let last = bed.launch("last", kernel("answer.cu", ANSWER, "answer"))?;
    first.connect(&last).map_err(BenchError::subject(OF_TWO, "connecting"))?;
    let sample = drive(OF_TWO, setting, &first, &last)?;
    bed.end()?;
    Ok(sample)
}

fn drive(
    subject: &'static str,
    setting: &GpuSetting,
    first: &KernelHandle<Payload, Payload>,
    last: &KernelHandle<Payload, Payload>,
) -> Result<Sample, BenchError> {
    // Whoever receives sleeps until the runtime wakes it, so that a message takes far longer than an answer.
    let mut common = setting.common.clone();
    common.asks = (common.asks / 20).max(100);
    ask::drive(subject, &common, |message| {
        first.tell(message).map_err(BenchError::subject(subject, "telling"))?;
        last.receive().map_err(BenchError::subject(subject, "receiving"))
    })
}
