//! The floor under every ask: a bare flag that goes to the device and comes back, with nothing of ours about it.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::bed::{GpuSetting, Place};
use crate::ask;
use crate::bench::Subject;
use crate::error::BenchError;
use crate::figure::Sample;
use crate::spin;

/// What the other side takes for the end.
const STOP: u32 = u32::MAX;

const NAME: &str = "floor";

pub fn subject() -> Subject<GpuSetting> {
    Subject::new(NAME, |setting| match setting.place {
        Place::Cuda => between_threads(setting),
        Place::Emulated => between_threads(setting),
    })
}

/// On the emulated device: from thread to thread.
fn between_threads(setting: &GpuSetting) -> Result<Sample, BenchError> {
    let flags = Arc::new([const { Line(AtomicU32::new(0)) }; 2]);
    let peer = {
        let (flags, cores) = (Arc::clone(&flags), setting.common.cores);
        thread::spawn(move || {
            cores.pin_peer();
            echo(&flags);
        })
    };
    let sample = ask::drive(NAME, &setting.common, |question| {
        // Never 0, which is what the flags begin as.
        let number = question.sequence() as u32 % (STOP - 1) + 1;
        flags[0].0.store(number, Ordering::Release);
        spin::until(|| (flags[1].0.load(Ordering::Acquire) == number).then_some(()))?;
        Ok(question.answer())
    });
    flags[0].0.store(STOP, Ordering::Release);
    peer.join().map_err(|_| BenchError::Panicked { subject: NAME })?;
    sample
}

#[repr(align(128))]
struct Line(AtomicU32);

fn echo(flags: &[Line; 2]) {
    let mut last = 0;
    while last != STOP {
        let seen = flags[0].0.load(Ordering::Acquire);
        if seen == last {
            spin_loop();
        } else {
            last = seen;
            flags[1].0.store(seen, Ordering::Release);
        }
    }
}
