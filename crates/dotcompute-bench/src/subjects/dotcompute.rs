//! `dotcompute`: the bare rings, and ring kernels.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use dotcompute::prelude::*;
use dotcompute::ring::{mpsc, spsc};

use crate::config::{BATCH, BenchConfig, CAPACITY};
use crate::error::BenchError;
use crate::measure::ask as asks;
use crate::measure::idle_kernels::{self, Counters, IdleKernelCost};
use crate::measure::overload;
use crate::measure::queue;
use crate::measure::task_asks::{self, Quantity};
use crate::measure::tell as tells;
use crate::measurement::Sample;
use crate::payload::{Payload, Tally};
use crate::spin_wait::spin_until;
use crate::subjects::tokio::idle_workers;

const NAME: &str = "dotcompute";
const POOL: &str = "dotcompute-pool";
const INLINE: &str = "dotcompute-inline";
const MPSC: &str = "dotcompute-mpsc";
/// Time limits for pausing a ring kernel, and for shutting many down.
const PAUSE: Duration = Duration::from_secs(10);
const SHUTDOWN: Duration = Duration::from_secs(60);
const NO_TELEMETRY: &str = "dotcompute-no-telemetry";

pub fn same_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (mut producer, mut consumer) =
        spsc::channel(CAPACITY).map_err(BenchError::subject(NAME, "creating a ring"))?;
    queue::same_thread(NAME, config, |payload| {
        producer.try_push(payload).ok()?;
        consumer.try_pop()
    })
}

pub fn cross_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (mut producer, mut consumer) =
        spsc::channel(CAPACITY).map_err(BenchError::subject(NAME, "creating a ring"))?;
    let produce = move |count| {
        for sequence in 0..count {
            let payload = Payload::new(sequence);
            spin_until(|| producer.try_push(payload).ok())?;
        }
        Ok(())
    };
    queue::cross_thread(NAME, config, produce, |count, tally| {
        for _ in 0..count {
            tally.add(&spin_until(|| consumer.try_pop())?);
        }
        Ok(())
    })
}

pub fn cross_thread_batched(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (mut producer, mut consumer) =
        spsc::channel(CAPACITY).map_err(BenchError::subject(NAME, "creating a ring"))?;
    let produce = move |count: u64| {
        for first in (0..count).step_by(BATCH) {
            let mut sequences = first..first + BATCH as u64;
            while !sequences.is_empty() {
                spin_until(|| {
                    let missing = (sequences.end - sequences.start) as usize;
                    let mut claim = producer.claim(missing).ok()?;
                    claim.fill(sequences.by_ref().map(Payload::new));
                    Some(claim.commit())
                })?;
            }
        }
        Ok(())
    };
    queue::cross_thread(NAME, config, produce, |count, tally| {
        let mut missing = count;
        while missing > 0 {
            missing -= spin_until(|| {
                let claim = consumer.claim(BATCH)?;
                let claimed = claim.len() as u64;
                claim.iter().for_each(|payload| tally.add(payload));
                claim.commit();
                Some(claimed)
            })?;
        }
        Ok(())
    })
}

pub fn mpsc_same_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (producer, mut consumer) =
        mpsc::channel(CAPACITY).map_err(BenchError::subject(MPSC, "creating a ring"))?;
    queue::same_thread(MPSC, config, |payload| {
        producer.try_push(payload).ok()?;
        consumer.try_pop()
    })
}

pub fn mpsc_cross_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (producer, mut consumer) =
        mpsc::channel(CAPACITY).map_err(BenchError::subject(MPSC, "creating a ring"))?;
    let produce = move |count| {
        for sequence in 0..count {
            let payload = Payload::new(sequence);
            spin_until(|| producer.try_push(payload).ok())?;
        }
        Ok(())
    };
    queue::cross_thread(MPSC, config, produce, |count, tally| {
        for _ in 0..count {
            tally.add(&spin_until(|| consumer.try_pop())?);
        }
        Ok(())
    })
}

pub fn mpsc_cross_thread_batched(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (producer, mut consumer) =
        mpsc::channel(CAPACITY).map_err(BenchError::subject(MPSC, "creating a ring"))?;
    let produce = move |count: u64| {
        let mut batch = Vec::with_capacity(BATCH);
        for first in (0..count).step_by(BATCH) {
            batch.extend((first..first + BATCH as u64).map(Payload::new));
            spin_until(|| {
                producer.try_push_batch(&mut batch).ok()?;
                batch.is_empty().then_some(())
            })?;
        }
        Ok(())
    };
    queue::cross_thread(MPSC, config, produce, |count, tally| {
        let mut batch = Vec::with_capacity(BATCH);
        let mut missing = count;
        while missing > 0 {
            spin_until(|| (consumer.pop_batch(&mut batch, BATCH) > 0).then_some(()))?;
            missing -= batch.len() as u64;
            batch.drain(..).for_each(|payload| tally.add(&payload));
        }
        Ok(())
    })
}

/// A ring kernel that replies to requests.
struct Responder;

impl RingKernel for Responder {
    type Input = Payload;
    type Output = Payload;

    fn handle(&mut self, request: Payload, ctx: &mut Context<Payload>) -> HandlerResult {
        ctx.reply(request.reply());
        Ok(())
    }
}

pub fn ask_spinning(config: &BenchConfig) -> Result<Sample, BenchError> {
    ask(config, WaitStrategy::Spin)
}

pub fn ask_adaptive(config: &BenchConfig) -> Result<Sample, BenchError> {
    ask(config, WaitStrategy::Adaptive)
}

/// Measures a ring kernel on the peer's core; `wait` is the strategy of both sides.
fn ask(config: &BenchConfig, wait: WaitStrategy) -> Result<Sample, BenchError> {
    let runtime = Runtime::new().map_err(BenchError::subject(NAME, "creating a runtime"))?;
    let options = KernelOptions::new().capacity(CAPACITY).wait(wait).pinned(config.cores.peer());
    let kernel = runtime
        .launch_with("responder", options, || Responder)
        .map_err(BenchError::subject(NAME, "launching a ring kernel"))?;
    kernel.activate().map_err(BenchError::subject(NAME, "activating a ring kernel"))?;
    asks::drive(NAME, config, |request| kernel.ask(request).map_err(BenchError::subject(NAME, "asking")))
}

/// Measures a ring kernel on the pool, whose requests are handled inline on the caller's thread.
pub fn ask_inline(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (_runtime, responder) = responder_on_the_pool(INLINE)?;
    let responder = responder.with_inline_asks();
    asks::drive(INLINE, config, |request| {
        responder.ask(request).map_err(BenchError::subject(INLINE, "asking"))
    })
}

/// Measures caller and ring kernel on one pool worker, as the asynchronous peers do on one thread: no message crosses cores.
pub fn ask_on_the_pool(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (runtime, responder) = responder_on_the_pool(POOL)?;
    ask_from_the_pool(POOL, config, &runtime, responder)
}

/// Like [`ask_on_the_pool`], with inline asks, which do not wait until the worker polls the ring kernel.
pub fn ask_on_the_pool_inline(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (runtime, responder) = responder_on_the_pool(INLINE)?;
    ask_from_the_pool(INLINE, config, &runtime, responder.with_inline_asks())
}

fn responder_on_the_pool(
    subject: &'static str,
) -> Result<(Runtime, KernelHandle<Payload, Payload>), BenchError> {
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(1))
        .map_err(BenchError::subject(subject, "creating a runtime"))?;
    let responder = runtime
        .launch_with("responder", KernelOptions::new().capacity(CAPACITY), || Responder)
        .map_err(BenchError::subject(subject, "launching a ring kernel"))?;
    responder.activate().map_err(BenchError::subject(subject, "activating a ring kernel"))?;
    Ok((runtime, responder))
}

fn ask_from_the_pool(
    subject: &'static str,
    config: &BenchConfig,
    runtime: &Runtime,
    responder: KernelHandle<Payload, Payload>,
) -> Result<Sample, BenchError> {
    let (done, outcome) = channel();
    let config = config.clone();
    let ask_all = move |_: LoopContext<(), ()>| {
        let (responder, done, config) = (responder.clone(), done.clone(), config.clone());
        async move {
            config.cores.pin_driver();
            let responder = &responder;
            let ask = |request| async move {
                responder.ask_async(request).await.map_err(BenchError::subject(subject, "asking"))
            };
            // The receiver lives until the runtime is dropped.
            let _ = done.send(asks::drive_async(subject, &config, ask).await);
            Ok(())
        }
    };
    let caller = runtime
        .launch_loop("caller", KernelOptions::new(), ask_all)
        .map_err(BenchError::subject(subject, "launching the caller"))?;
    caller.activate().map_err(BenchError::subject(subject, "activating the caller"))?;
    outcome.recv().unwrap_or(Err(BenchError::Panicked { subject }))
}

/// The handle of one task. A clone, for another task, is a handle of its own.
struct TaskHandle(Arc<KernelHandle<Payload, Payload>>);

impl Clone for TaskHandle {
    fn clone(&self) -> Self {
        Self(Arc::new(KernelHandle::clone(&self.0)))
    }
}

/// Measures asks from tasks of a tokio runtime to a ring kernel with default options, but for the capacity of its mailbox if one is given.
pub fn ask_from_tasks(
    config: &BenchConfig,
    tasks: u64,
    capacity: Option<usize>,
    quantity: Quantity,
) -> Result<Sample, BenchError> {
    let runtime = Runtime::new().map_err(BenchError::subject(NAME, "creating a runtime"))?;
    let options =
        capacity.map_or_else(KernelOptions::new, |capacity| KernelOptions::new().capacity(capacity));
    let kernel = runtime
        .launch_with("responder", options, || Responder)
        .map_err(BenchError::subject(NAME, "launching a ring kernel"))?;
    kernel.activate().map_err(BenchError::subject(NAME, "activating a ring kernel"))?;
    let handle = TaskHandle(Arc::new(kernel));
    task_asks::drive(NAME, config, &idle_workers()?, tasks, quantity, move |request| {
        let kernel = Arc::clone(&handle.0);
        async move { kernel.ask_async(request).await.map_err(BenchError::subject(NAME, "asking")) }
    })
}

/// Measures threads that tell ring kernels which are paused and drop their oldest messages.
pub fn tell_drop_oldest(config: &BenchConfig) -> Result<Sample, BenchError> {
    let runtime = Runtime::new().map_err(BenchError::subject(NAME, "creating a runtime"))?;
    let options = KernelOptions::new().capacity(overload::CAPACITY).backpressure(Backpressure::DropOldest);
    let mut senders = Vec::new();
    for index in 0..overload::THREADS {
        let kernel = runtime
            .launch_with(&format!("paused-{index}"), options.clone(), Counter::default)
            .map_err(BenchError::subject(NAME, "launching a ring kernel"))?;
        kernel.activate().map_err(BenchError::subject(NAME, "activating a ring kernel"))?;
        kernel.deactivate(PAUSE).map_err(BenchError::subject(NAME, "pausing a ring kernel"))?;
        for sequence in 0..overload::CAPACITY as u64 {
            kernel.tell(Payload::new(sequence)).map_err(BenchError::subject(NAME, "telling"))?;
        }
        senders.push(move |sequence| {
            kernel.tell(Payload::new(sequence)).map_err(BenchError::subject(NAME, "telling"))
        });
    }
    let sample = overload::drive(NAME, config, senders)?;
    let (expected, found) =
        (config.tells / overload::THREADS as u64 * overload::THREADS as u64, runtime.dead_letter_count());
    if found == expected {
        Ok(sample)
    } else {
        Err(BenchError::WrongCount { subject: NAME, what: "dead letters", expected, found })
    }
}

/// A ring kernel that counts one-way messages and replies to a request with the tally.
#[derive(Default)]
struct Counter(Tally);

impl RingKernel for Counter {
    type Input = Payload;
    type Output = Tally;

    fn handle(&mut self, payload: Payload, ctx: &mut Context<Tally>) -> HandlerResult {
        if ctx.wants_reply() {
            ctx.reply(self.0);
        } else {
            self.0.add(&payload);
        }
        Ok(())
    }
}

pub fn tell(config: &BenchConfig) -> Result<Sample, BenchError> {
    tell_with(NAME, config, Telemetry::default())
}

/// The counters stay enabled: they make `sent = handled + dead letters + queued` exact.
pub fn tell_without_telemetry(config: &BenchConfig) -> Result<Sample, BenchError> {
    tell_with(NO_TELEMETRY, config, Telemetry::CountersOnly)
}

/// Measures a producer thread and a ring kernel on the peer's core. The reply to the final request shows that all messages are handled.
fn tell_with(
    subject: &'static str,
    config: &BenchConfig,
    telemetry: Telemetry,
) -> Result<Sample, BenchError> {
    let runtime = Runtime::new().map_err(BenchError::subject(subject, "creating a runtime"))?;
    let options = KernelOptions::new().capacity(CAPACITY).telemetry(telemetry).pinned(config.cores.peer());
    let kernel = runtime
        .launch_with("counter", options, Counter::default)
        .map_err(BenchError::subject(subject, "launching a ring kernel"))?;
    kernel.activate().map_err(BenchError::subject(subject, "activating a ring kernel"))?;
    config.cores.pin_driver();
    let started = config.clock.ticks();
    for sequence in 0..config.tells {
        kernel.tell(Payload::new(sequence)).map_err(BenchError::subject(subject, "telling"))?;
    }
    let tally = kernel.ask(Payload::new(0)).map_err(BenchError::subject(subject, "asking for the tally"))?;
    tells::sample(subject, config, started, tally)
}

/// One of many idle kernels: it counts its start and its message.
struct Idler(Counters);

impl RingKernel for Idler {
    type Input = Payload;
    type Output = ();

    fn on_activate(&mut self, _: &mut Context<()>) -> HandlerResult {
        self.0.start();
        Ok(())
    }

    fn handle(&mut self, _: Payload, _: &mut Context<()>) -> HandlerResult {
        self.0.handle();
        Ok(())
    }
}

pub fn idle_kernels(kernels: u64) -> Result<IdleKernelCost, BenchError> {
    let counters = Counters::default();
    let build = || {
        let runtime = Runtime::with_options(RuntimeOptions::new().workers(2))
            .map_err(BenchError::subject(NAME, "creating a runtime"))?;
        let handles = launch_idlers(&runtime, kernels, &counters)?;
        Ok((runtime, handles))
    };
    let tell_each = |(_, handles): &(Runtime, Vec<KernelHandle<Payload, ()>>)| {
        for kernel in handles {
            kernel.try_tell(Payload::new(0)).map_err(BenchError::subject(NAME, "telling"))?;
        }
        Ok(())
    };
    idle_kernels::measure(NAME, kernels, &counters, build, tell_each, |(runtime, _handles)| {
        runtime.shutdown(SHUTDOWN).map_err(BenchError::subject(NAME, "shutting down"))
    })
}

fn launch_idlers(
    runtime: &Runtime,
    kernels: u64,
    counters: &Counters,
) -> Result<Vec<KernelHandle<Payload, ()>>, BenchError> {
    let launch = |index| {
        let counters = counters.clone();
        let kernel = runtime
            .launch(&format!("idler-{index}"), move || Idler(counters.clone()))
            .map_err(BenchError::subject(NAME, "launching a ring kernel"))?;
        kernel.activate().map_err(BenchError::subject(NAME, "activating a ring kernel"))?;
        Ok(kernel)
    };
    (0..kernels).map(launch).collect()
}

/// Measures look-ups by name, of ring kernels that exist or of one that does not.
pub fn look_up(config: &BenchConfig, present: bool) -> Result<Sample, BenchError> {
    /// As many names as the caches of a core hold beside other data.
    const NAMES: u64 = 1000;
    let runtime = Runtime::new().map_err(BenchError::subject(NAME, "creating a runtime"))?;
    let _handles = launch_idlers(&runtime, config.kernels, &Counters::default())?;
    let step = (config.kernels / NAMES).max(1);
    let prefix = if present { "idler" } else { "absent" };
    let names: Vec<String> =
        (0..NAMES).map(|name| format!("{prefix}-{}", name * step % config.kernels)).collect();
    let started = config.clock.ticks();
    let mut found = 0;
    for name in &names {
        found += u64::from(runtime.handle::<Payload, ()>(name).is_ok());
    }
    let nanoseconds = config.clock.seconds_since(started) * 1e9 / NAMES as f64;
    let expected = if present { NAMES } else { 0 };
    if found != expected {
        return Err(BenchError::WrongCount { subject: NAME, what: "names found", expected, found });
    }
    Ok(Sample::plain(nanoseconds))
}
