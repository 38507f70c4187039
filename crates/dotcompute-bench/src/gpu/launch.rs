//! What programs do without ring kernels: a launch for each message, or a graph that is replayed.

use dotcompute::cuda::cuda::plain::{self, Launches, Way};

use super::bed::{GpuSetting, PLAIN};
use crate::ask;
use crate::bench::{Bench, Subject};
use crate::error::BenchError;
use crate::figure::Sample;
use crate::payload::Payload;

pub const BENCH: &str = "gpu_launch";

const MAPPED: &str = "launch";
const COPIED: &str = "copy-launch-copy";
const GRAPH: &str = "graph";

pub fn bench() -> Bench<GpuSetting> {
    Bench {
        name: BENCH,
        unit: "ns",
        about: "for each message: a launch whose kernel reads and writes mapped memory of the host; a copy, a launch and a copy \
                back; those three as a graph that is replayed; each waited for on its stream",
        turns: 1,
        subjects: vec![
            Subject::new(MAPPED, |setting| launch(MAPPED, setting, Way::Mapped)),
            Subject::new(COPIED, |setting| launch(COPIED, setting, Way::Copied)),
            Subject::new(GRAPH, |setting| launch(GRAPH, setting, Way::Graph)),
        ],
    }
}

fn launch(subject: &'static str, setting: &GpuSetting, way: Way) -> Result<Sample, BenchError> {
    let backend = setting.gpu(subject)?;
    let text = plain::Text { entry: "answer", ..PLAIN };
    let launches = Launches::new(&backend, way, text);
    let mut launches = launches.map_err(BenchError::subject(subject, "loading a kernel"))?;
    ask::drive(subject, &setting.common, |question| {
        let answer =
            launches.call(&question.to_bytes()).map_err(BenchError::subject(subject, "launching"))?;
        Payload::from_bytes(&answer).ok_or(BenchError::WrongAnswer { subject, sequence: question.sequence() })
    })
}
