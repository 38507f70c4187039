//! What programs do without ring kernels: a launch for each message, or a graph that is replayed.

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
        about: "for each message: a launch whose kernel reads and writes mapped memory of the host; a copy, a launch and a copy \
                back; those three as a graph that is replayed; each waited for on its stream",
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
    let launches = PerMessageLaunch::new(&backend, way, text);
    let mut launches = launches.map_err(BenchError::subject(subject, "loading a kernel"))?;
    ask::drive(subject, &config.common, |request| {
        let reply = launches.call(&request.to_bytes()).map_err(BenchError::subject(subject, "launching"))?;
        Payload::from_bytes(&reply).ok_or(BenchError::WrongReply { subject, sequence: request.sequence() })
    })
}
