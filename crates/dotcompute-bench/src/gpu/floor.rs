//! The floor under every ask: a bare flag that goes to the device and comes back, with nothing of ours about it.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use dotcompute::cuda::cuda::plain::{self, Flag};

use super::bed::{GpuSetting, PLAIN, Place};
use crate::ask;
use crate::bench::Subject;
use crate::error::BenchError;
use crate::figure::Sample;
use crate::payload::Payload;
use crate::spin;

const NAME: &str = "floor";

pub fn subject() -> Subject<GpuSetting> {
    Subject::new(NAME, |setting| match setting.place {
        Place::Cuda => to_the_gpu(setting),
        Place::Emulated => between_threads(setting),
    })
}

/// To a resident kernel of one thread.
fn to_the_gpu(setting: &GpuSetting) -> Result<Sample, BenchError> {
    let backend = setting.gpu(NAME)?;
    let text = plain::Text { entry: "flag", ..PLAIN };
    let flag = Flag::new(&backend, text).map_err(BenchError::subject(NAME, "launching a kernel"))?;
    ask::drive(NAME, &setting.common, |question| {
        let number = number(question);
        flag.send(number);
        spin::until(|| (flag.seen() == number).then_some(()))?;
        Ok(question.answer())
    })
}

/// A number that is not that of the question before: not 0, which is what the flags begin as, nor the one that ends it.
fn number(question: Payload) -> u32 {
    question.sequence() as u32 % (plain::STOP - 1) + 1
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
        let number = number(question);
        flags[0].0.store(number, Ordering::Release);
        spin::until(|| (flags[1].0.load(Ordering::Acquire) == number).then_some(()))?;
        Ok(question.answer())
    });
    flags[0].0.store(plain::STOP, Ordering::Release);
    peer.join().map_err(|_| BenchError::Panicked { subject: NAME })?;
    sample
}

#[repr(align(128))]
struct Line(AtomicU32);

fn echo(flags: &[Line; 2]) {
    let mut last = 0;
    while last != plain::STOP {
        let seen = flags[0].0.load(Ordering::Acquire);
        if seen == last {
            spin_loop();
        } else {
            last = seen;
            flags[1].0.store(seen, Ordering::Release);
        }
    }
}
