//! The baseline (`floor`) of every ask: a flag ping-pong between host and device, without any code of the runtime.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use dotcompute::cuda::cuda::baseline::{self, FlagPingPong};

use super::fixture::{BASELINE, DeviceKind, GpuBenchConfig};
use crate::bench::Subject;
use crate::error::BenchError;
use crate::measure::ask;
use crate::measurement::Sample;
use crate::payload::Payload;
use crate::spin_wait::spin_until;

const NAME: &str = "floor";

pub fn subject() -> Subject<GpuBenchConfig> {
    Subject::new(NAME, |config| match config.device {
        DeviceKind::Cuda => to_the_gpu(config),
        DeviceKind::Emulated => between_threads(config),
    })
}

/// Measures the ping-pong with a resident kernel of one thread.
fn to_the_gpu(config: &GpuBenchConfig) -> Result<Sample, BenchError> {
    let backend = config.gpu(NAME)?;
    let text = baseline::KernelSource { entry: "flag", ..BASELINE };
    let flag = FlagPingPong::new(&backend, text).map_err(BenchError::subject(NAME, "launching a kernel"))?;
    ask::drive(NAME, &config.common, |request| {
        let number = number(request);
        flag.send(number);
        spin_until(|| (flag.seen() == number).then_some(()))?;
        Ok(request.reply())
    })
}

/// Returns a number that differs from that of the previous request. It is neither 0, the initial value of the flags, nor
/// [`baseline::STOP`].
fn number(request: Payload) -> u32 {
    request.sequence() as u32 % (baseline::STOP - 1) + 1
}

/// Measures the ping-pong between two threads, for the emulated device.
fn between_threads(config: &GpuBenchConfig) -> Result<Sample, BenchError> {
    let flags = Arc::new([const { Line(AtomicU32::new(0)) }; 2]);
    let peer = {
        let (flags, cores) = (Arc::clone(&flags), config.common.cores);
        thread::spawn(move || {
            cores.pin_peer();
            echo(&flags);
        })
    };
    let sample = ask::drive(NAME, &config.common, |request| {
        let number = number(request);
        flags[0].0.store(number, Ordering::Release);
        spin_until(|| (flags[1].0.load(Ordering::Acquire) == number).then_some(()))?;
        Ok(request.reply())
    });
    flags[0].0.store(baseline::STOP, Ordering::Release);
    peer.join().map_err(|_| BenchError::Panicked { subject: NAME })?;
    sample
}

#[repr(align(128))]
struct Line(AtomicU32);

fn echo(flags: &[Line; 2]) {
    let mut last = 0;
    while last != baseline::STOP {
        let seen = flags[0].0.load(Ordering::Acquire);
        if seen == last {
            spin_loop();
        } else {
            last = seen;
            flags[1].0.store(seen, Ordering::Release);
        }
    }
}
