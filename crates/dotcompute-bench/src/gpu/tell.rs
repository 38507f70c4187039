//! One-way messages from the host to a ring kernel on a device, and between two ring kernels.

use std::thread;
use std::time::{Duration, Instant};

use dotcompute::prelude::*;

use super::fixture::{Fixture, GpuBenchConfig, QUEUE, ResidencyPolicy};
use crate::bench::{Bench, Subject};
use crate::error::BenchError;
use crate::measurement::Sample;
use crate::payload::{Payload, Tally};

const TALLY: &str = include_str!("../../device/tally.cu");
const RELAY: &str = include_str!("../../device/relay.cu");

const NAME: &str = "dotcompute";
const THREAD_32: &str = "dotcompute-thread-32";

/// Time allowed for the last messages to arrive.
const TIMEOUT: Duration = Duration::from_secs(60);

pub fn benches() -> [Bench<GpuBenchConfig>; 2] {
    let tell = Bench {
        name: "gpu_tell",
        unit: "M/s",
        about: "one host thread sends; the handler verifies every message; until all are handled; in shape \
                thread-32 up to 32 messages are handled concurrently",
        samples_per_round: 1,
        subjects: vec![
            Subject::new(NAME, |config| {
                tell(NAME, config, kernel("tally", Shape::Block { threads: 1 }), true)
            }),
            Subject::new(THREAD_32, |config| {
                tell(THREAD_32, config, kernel("tally_at_once", Shape::Thread { threads: 32 }), false)
            }),
        ],
    };
    let gpu_to_gpu = Bench {
        name: "gpu_to_gpu",
        unit: "M/s",
        about: "one ring kernel sends to another over a connection; the receiver's handler verifies every message; \
                until all are handled",
        samples_per_round: 1,
        subjects: vec![Subject::new(NAME, burst)],
    };
    [tell, gpu_to_gpu]
}

fn kernel(entry: &'static str, shape: Shape) -> DeviceKernel<Payload, Tally> {
    DeviceKernel::cuda_cpp("tally.cu", TALLY)
        .entry(entry)
        .state(Tally::default())
        .shape(shape)
        .queue_capacity(QUEUE)
}

/// Sends all messages and waits until all are counted. `in_order`: messages arrive in order, and the handler also sums them.
fn tell(
    subject: &'static str,
    config: &GpuBenchConfig,
    kernel: DeviceKernel<Payload, Tally>,
    in_order: bool,
) -> Result<Sample, BenchError> {
    let fixture = Fixture::new(subject, config, ResidencyPolicy::Default)?;
    let kernel = fixture.launch("tally", kernel)?;
    let (clock, tells) = (&config.common.clock, config.common.tells);
    config.common.cores.pin_driver();
    let started = clock.ticks();
    for sequence in 0..tells {
        kernel.tell(Payload::new(sequence)).map_err(BenchError::subject(subject, "telling"))?;
    }
    let tally = wait_until_counted(subject, &kernel, tells)?;
    let seconds = clock.seconds_since(started);
    if in_order {
        tally.check(subject, tells)?;
    } else {
        tally.check_order(subject, tells)?;
    }
    fixture.end()?;
    Ok(Sample::plain(tells as f64 / seconds / 1e6))
}

fn burst(config: &GpuBenchConfig) -> Result<Sample, BenchError> {
    let fixture = Fixture::new(NAME, config, ResidencyPolicy::Default)?;
    let relay = DeviceKernel::<Payload, Payload>::cuda_cpp("relay.cu", RELAY).entry("burst");
    let from = fixture.launch("burst", relay.shape(Shape::Block { threads: 1 }))?;
    let to = fixture.launch("tally", kernel("tally", Shape::Block { threads: 1 }))?;
    from.connect(&to).map_err(BenchError::subject(NAME, "connecting"))?;
    let (clock, tells) = (&config.common.clock, config.common.tells);
    let started = clock.ticks();
    from.tell(Payload::new(tells)).map_err(BenchError::subject(NAME, "telling"))?;
    let tally = wait_until_counted(NAME, &to, tells)?;
    let seconds = clock.seconds_since(started);
    tally.check(NAME, tells)?;
    fixture.end()?;
    Ok(Sample::plain(tells as f64 / seconds / 1e6))
}

/// Asks until `expected` messages are counted. A request may overtake the last messages: over a connection they take another path, and
/// several may be handled concurrently.
fn wait_until_counted(
    subject: &'static str,
    kernel: &KernelHandle<Payload, Tally>,
    expected: u64,
) -> Result<Tally, BenchError> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let tally =
            kernel.ask(Payload::new(0)).map_err(BenchError::subject(subject, "asking for the tally"))?;
        if tally.count() >= expected || Instant::now() > deadline {
            return Ok(tally);
        }
        thread::sleep(Duration::from_micros(100));
    }
}
