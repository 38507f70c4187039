//! What programs do without ring kernels: a launch per message, or a replayed graph.

use dotcompute::cuda::cuda::baseline::{self, LaunchMethod, PerMessageLaunch};

use super::fixture::{BASELINE, GpuBenchConfig};
use crate::bench::{Bench, Subject};
use crate::error::BenchError;
use crate::measure::ask;
use crate::measurement::Sample;
use crate::payload::Payload;

pub const BENCH: &str = "gpu_launch";

const MAPPED: &str = "launch";
const COPIED: &str = "copy-launch-copy";
const GRAPH: &str = "graph";

pub fn bench() -> Bench<GpuBenchConfig> {
    Bench {
        name: BENCH,
        unit: "ns",
        about: "for each message: a launch whose kernel accesses mapped host memory; a copy, a launch and a copy \
                back; those three as a replayed graph; the host waits for the stream each time",
        samples_per_round: 1,
        subjects: vec![
            Subject::new(MAPPED, |config| launch(MAPPED, config, LaunchMethod::Mapped)),
            Subject::new(COPIED, |config| launch(COPIED, config, LaunchMethod::Copied)),
            Subject::new(GRAPH, |config| launch(GRAPH, config, LaunchMethod::Graph)),
        ],
    }
}

fn launch(subject: &'static str, config: &GpuBenchConfig, way: LaunchMethod) -> Result<Sample, BenchError> {
    let backend = config.gpu(subject)?;
    let text = baseline::KernelSource { entry: "answer", ..BASELINE };
    let baseline = PerMessageLaunch::new(&backend, way, text);
    let mut baseline = baseline.map_err(BenchError::subject(subject, "loading a kernel"))?;
    ask::drive(subject, &config.common, |request| {
        let reply = baseline.call(&request.to_bytes()).map_err(BenchError::subject(subject, "launching"))?;
        Payload::from_bytes(&reply).ok_or(BenchError::WrongReply { subject, sequence: request.sequence() })
    })
}
