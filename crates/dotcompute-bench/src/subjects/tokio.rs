//! `tokio`: the bounded mpsc channel, with a oneshot channel for replies, and the runtimes of the actor peers.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};

use crate::config::{BATCH, BenchConfig, CAPACITY};
use crate::error::BenchError;
use crate::measure::ask as asks;
use crate::measure::idle_kernels::{self, Counters, IdleKernelCost};
use crate::measure::queue;
use crate::measure::tell as tells;
use crate::measurement::Sample;
use crate::payload::{Payload, Tally};

const NAME: &str = "tokio";

/// Capacity of the channel of an idle task: that of kameo's default mailbox.
const IDLE_CAPACITY: usize = 64;

/// Creates a runtime on the calling thread.
///
/// # Errors
///
/// [`BenchError::Io`] if the runtime cannot be created.
pub fn current_thread() -> Result<Runtime, BenchError> {
    let doing = "starting a current-thread runtime";
    Builder::new_current_thread().build().map_err(|source| BenchError::Io { doing, source })
}

/// Creates a runtime with two workers, one pinned to each core.
///
/// # Errors
///
/// [`BenchError::Io`] if the threads cannot be started.
pub fn two_workers(config: &BenchConfig) -> Result<Runtime, BenchError> {
    let started = AtomicUsize::new(0);
    let cores = config.cores;
    let pin = move || match started.fetch_add(1, Ordering::Relaxed) {
        0 => cores.pin_driver(),
        _ => cores.pin_peer(),
    };
    let doing = "starting a runtime with two workers";
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).on_thread_start(pin).build().map_err(|source| BenchError::Io { doing, source })
}

/// Creates a runtime with two unpinned workers.
///
/// # Errors
///
/// [`BenchError::Io`] if the threads cannot be started.
pub fn idle_workers() -> Result<Runtime, BenchError> {
    let doing = "starting a runtime with two workers";
    Builder::new_multi_thread().worker_threads(2).build().map_err(|source| BenchError::Io { doing, source })
}

/// Returns the result of a task that may have panicked.
///
/// # Errors
///
/// [`BenchError::Panicked`] naming the subject.
pub fn flatten_join<T>(
    subject: &'static str,
    outcome: Result<Result<T, BenchError>, tokio::task::JoinError>,
) -> Result<T, BenchError> {
    outcome.unwrap_or(Err(BenchError::Panicked { subject }))
}

pub fn same_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    let (sender, mut receiver) = mpsc::channel(CAPACITY);
    queue::same_thread(NAME, config, |payload| {
        sender.try_send(payload).ok()?;
        receiver.try_recv().ok()
    })
}

pub fn cross_thread(config: &BenchConfig) -> Result<Sample, BenchError> {
    stream(config, send_all, |mut receiver| async move {
        let mut tally = Tally::default();
        while let Some(payload) = receiver.recv().await {
            tally.add(&payload);
        }
        tally
    })
}

pub fn cross_thread_batched(config: &BenchConfig) -> Result<Sample, BenchError> {
    let send = |sender: mpsc::Sender<Payload>, count: u64| async move {
        for batch in 0..count / BATCH as u64 {
            let permits = sender.reserve_many(BATCH).await;
            let permits = permits.map_err(BenchError::subject(NAME, "reserving slots"))?;
            for (permit, sequence) in permits.zip(batch * BATCH as u64..) {
                permit.send(Payload::new(sequence));
            }
        }
        Ok(())
    };
    stream(config, send, |mut receiver| async move {
        let mut tally = Tally::default();
        let mut batch = Vec::with_capacity(BATCH);
        while receiver.recv_many(&mut batch, BATCH).await > 0 {
            batch.drain(..).for_each(|payload| tally.add(&payload));
        }
        tally
    })
}

async fn send_all(sender: mpsc::Sender<Payload>, count: u64) -> Result<(), BenchError> {
    for sequence in 0..count {
        sender.send(Payload::new(sequence)).await.map_err(BenchError::subject(NAME, "sending"))?;
    }
    Ok(())
}

/// Measures a producer task and a consumer task on two workers.
fn stream<S, R>(
    config: &BenchConfig,
    send: impl FnOnce(mpsc::Sender<Payload>, u64) -> S,
    receive: impl FnOnce(mpsc::Receiver<Payload>) -> R,
) -> Result<Sample, BenchError>
where
    S: Future<Output = Result<(), BenchError>> + Send + 'static,
    R: Future<Output = Tally> + Send + 'static,
{
    let runtime = two_workers(config)?;
    let (sender, receiver) = mpsc::channel(CAPACITY);
    let count = config.stream;
    let started = config.clock.ticks();
    let consumer = runtime.spawn(receive(receiver));
    let producer = runtime.spawn(send(sender, count));
    let (sent, tally) = runtime.block_on(async { (producer.await, consumer.await) });
    let seconds = config.clock.seconds_since(started);
    flatten_join(NAME, sent)?;
    tally.map_err(|_| BenchError::Panicked { subject: NAME })?.check(NAME, count)?;
    Ok(Sample::plain(count as f64 / seconds / 1e6))
}

/// Measures a hand-written actor: a task with a mailbox, and a oneshot channel in each request.
pub fn ask(config: &BenchConfig) -> Result<Sample, BenchError> {
    config.cores.pin_driver();
    current_thread()?.block_on(async {
        let (sender, mut receiver) = mpsc::channel::<(Payload, oneshot::Sender<Payload>)>(CAPACITY);
        let actor = tokio::spawn(async move {
            while let Some((request, reply)) = receiver.recv().await {
                // A caller that dropped its receiver has failed and reports the error itself.
                let _ = reply.send(request.reply());
            }
        });
        let caller = &sender;
        let sample = asks::drive_async(NAME, config, |request| async move {
            let (reply_sender, reply) = oneshot::channel();
            caller.send((request, reply_sender)).await.map_err(BenchError::subject(NAME, "asking"))?;
            reply.await.map_err(BenchError::subject(NAME, "awaiting a reply"))
        })
        .await;
        drop(sender);
        flatten_join(NAME, actor.await.map(Ok))?;
        sample
    })
}

/// Measures a producer task and a counting task with a mailbox on two workers.
pub fn tell(config: &BenchConfig) -> Result<Sample, BenchError> {
    let runtime = two_workers(config)?;
    let (sender, mut receiver) = mpsc::channel(CAPACITY);
    let started = config.clock.ticks();
    let handler = runtime.spawn(async move {
        let mut tally = Tally::default();
        while let Some(payload) = receiver.recv().await {
            tally.add(&payload);
        }
        Ok(tally)
    });
    let producer = runtime.spawn(send_all(sender, config.tells));
    let (sent, tally) = runtime.block_on(async { (producer.await, handler.await) });
    flatten_join(NAME, sent)?;
    tells::sample(NAME, config, started, flatten_join(NAME, tally)?)
}

/// Measures bare tasks, each waiting on its own channel.
pub fn idle_kernels(kernels: u64) -> Result<IdleKernelCost, BenchError> {
    let runtime = idle_workers()?;
    let counters = Counters::default();
    let build = || {
        let task = |_| {
            let (sender, mut receiver) = mpsc::channel::<Payload>(IDLE_CAPACITY);
            let counters = counters.clone();
            let task = runtime.spawn(async move {
                counters.start();
                while receiver.recv().await.is_some() {
                    counters.handle();
                }
            });
            (sender, task)
        };
        Ok((0..kernels).map(task).collect::<Vec<_>>())
    };
    let tell_each = |tasks: &Vec<(mpsc::Sender<Payload>, _)>| {
        for (sender, _) in tasks {
            sender.try_send(Payload::new(0)).map_err(BenchError::subject(NAME, "telling"))?;
        }
        Ok(())
    };
    idle_kernels::measure(NAME, kernels, &counters, build, tell_each, |tasks| {
        let (senders, tasks): (Vec<_>, Vec<_>) = tasks.into_iter().unzip();
        drop(senders);
        runtime.block_on(async {
            for task in tasks {
                task.await.map_err(|_| BenchError::Panicked { subject: NAME })?;
            }
            Ok(())
        })
    })
}
