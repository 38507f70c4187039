//! The calls that a thread makes at random.

use std::pin::pin;
use std::time::Duration;

use dotcompute::prelude::*;
use fastrand::Rng;
use futures::stream::{FuturesUnordered, StreamExt};
use futures_lite::future::{block_on, poll_once};

use crate::act::Word;
use crate::kernels::{Handle, launch};
use crate::round::Round;

/// Makes one random call on one random ring kernel.
pub fn call_once(round: &Round, thread: usize, rng: &mut Rng) {
    let Some(handle) = round.directory.get(rng.usize(..)) else { return };
    let handle = if rng.u8(..4) == 0 { handle.with_priority(rng.u8(..)) } else { handle };
    let handle = if rng.u8(..4) == 0 { handle.with_inline_asks() } else { handle };
    let (name, call): (&'static str, fn(&Round, &Handle, &mut Rng)) = match rng.u8(..40) {
        0..=5 => ("tell", |_, handle, rng| drop(handle.tell(Word::random(rng, 3)))),
        6 | 7 => ("try_tell", |_, handle, rng| drop(handle.try_tell(Word::random(rng, 3)))),
        8 => ("tell_timeout", |_, handle, rng| drop(handle.tell_timeout(Word::random(rng, 3), briefly(rng)))),
        9..=14 => ("ask", |_, handle, rng| drop(handle.ask(Word::random(rng, 3)))),
        15 | 16 => {
            ("ask_timeout", |_, handle, rng| drop(handle.ask_timeout(Word::random(rng, 3), briefly(rng))))
        }
        17 | 18 => ("ask_async", |_, handle, rng| drop(block_on(handle.ask_async(Word::random(rng, 3))))),
        19 | 20 => ("cancelled calls", cancelled_calls),
        21 | 22 => ("many asks", many_asks),
        23 => ("begin_ask", pending_ask),
        24..=26 => ("receive_timeout", |_, handle, rng| drop(handle.receive_timeout(briefly(rng)))),
        27 => ("receive", |_, handle, _| drop(handle.try_receive())),
        28 => ("connect", connect),
        29 => ("disconnect", |round, handle, rng| {
            if let Some(other) = round.directory.get(rng.usize(..)) {
                drop(handle.disconnect(&other));
            }
        }),
        39 => ("pause", pause),
        30 => ("terminate", |_, handle, rng| drop(handle.terminate(briefly(rng)))),
        31 => ("terminate_async", |_, handle, rng| drop(block_on(handle.terminate_async(briefly(rng))))),
        32 => ("abort", |_, handle, _| drop(handle.abort())),
        33..=36 => ("launch", relaunch),
        37 => ("stats", |_, handle, _| drop((handle.stats(), handle.status().to_string()))),
        38 => ("all_stats", |round, _, _| drop(round.with_runtime(Runtime::all_stats))),
        _ => ("find", |round, handle, _| {
            let name = handle.name().to_owned();
            drop(round.with_runtime(|runtime| runtime.handle::<Word, Word>(&name)));
        }),
    };
    round.watchdog().watch(thread, name, handle.name(), || call(round, &handle, rng));
}

fn briefly(rng: &mut Rng) -> Duration {
    Duration::from_micros(rng.u64(..3_000))
}

/// Polls futures a few times and drops them.
fn cancelled_calls(_: &Round, handle: &Handle, rng: &mut Rng) {
    block_on(async {
        let mut ask = pin!(handle.ask_async(Word::random(rng, 3)));
        let mut tell = pin!(handle.tell_async(Word::random(rng, 3)));
        let mut receive = pin!(handle.receive_async());
        for _ in 0..rng.u8(1..4) {
            // A future that is ready must not be polled again.
            if poll_once(ask.as_mut()).await.is_some() || poll_once(tell.as_mut()).await.is_some() {
                return;
            }
            if poll_once(receive.as_mut()).await.is_some() {
                return;
            }
        }
    });
}

/// Asks at the same time, in a combinator that has wakers of its own.
fn many_asks(_: &Round, handle: &Handle, rng: &mut Rng) {
    let asks: FuturesUnordered<_> =
        (0..8).map(|_| handle.ask_timeout_async(Word::random(rng, 3), Duration::from_millis(2))).collect();
    drop(block_on(asks.collect::<Vec<_>>()));
}

fn pending_ask(_: &Round, handle: &Handle, rng: &mut Rng) {
    let Ok(mut pending) = block_on(KernelHandle::begin_ask(handle, Word::random(rng, 3))) else { return };
    if rng.bool() {
        drop(block_on(std::future::poll_fn(|cx| pending.poll(cx))));
    } else {
        drop(pending.wait(briefly(rng)));
    }
}

fn connect(round: &Round, handle: &Handle, rng: &mut Rng) {
    if let Some(other) = round.directory.get(rng.usize(..)) {
        drop(handle.connect(&other));
    }
}

fn pause(_: &Round, handle: &Handle, rng: &mut Rng) {
    drop(handle.deactivate(briefly(rng)));
    std::thread::sleep(briefly(rng) / 4);
    drop(handle.reactivate());
}

/// Launches another ring kernel, mostly under a name that was used before.
fn relaunch(round: &Round, _: &Handle, rng: &mut Rng) {
    let name = format!("k{}", rng.u8(..24));
    let launched = round.with_runtime(|runtime| launch(runtime, &name, rng, &round.directory, false));
    if let Some(Some(handle)) = launched {
        drop(handle.activate());
        round.add(handle);
    }
}
