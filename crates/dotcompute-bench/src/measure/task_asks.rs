//! Measures asks from tokio tasks, as a program with an async runtime has them: nothing is pinned, and no thread spins.

use std::time::Instant;

use tokio::runtime::Runtime;

use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measure::cpu_time::process_nanoseconds;
use crate::measurement::Sample;
use crate::payload::Payload;

/// What is measured of each ask.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Processor time of the whole process.
    Cpu,
    /// Time.
    Wall,
}

/// Lets `tasks` tasks of `runtime` ask one after another, together as often as `config` says. Each task awaits a reply before it asks again.
///
/// # Errors
///
/// Returns the error of `ask`, or [`BenchError::WrongReply`].
pub fn drive<A, F>(
    subject: &'static str,
    config: &BenchConfig,
    runtime: &Runtime,
    tasks: u64,
    quantity: Quantity,
    ask: A,
) -> Result<Sample, BenchError>
where
    A: Fn(Payload) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Payload, BenchError>> + Send,
{
    let each = (config.asks / tasks).max(1);
    // A tenth as many first: the peers grow their queues, and a ring kernel learns that its handler is short.
    round(subject, runtime, tasks, each.div_ceil(10), &ask)?;
    let (cpu, started) = (process_nanoseconds(), Instant::now());
    round(subject, runtime, tasks, each, &ask)?;
    let nanoseconds = match quantity {
        Quantity::Cpu => process_nanoseconds() - cpu,
        Quantity::Wall => started.elapsed().as_secs_f64() * 1e9,
    };
    Ok(Sample::plain(nanoseconds / (each * tasks) as f64))
}

fn round<A, F>(
    subject: &'static str,
    runtime: &Runtime,
    tasks: u64,
    each: u64,
    ask: &A,
) -> Result<(), BenchError>
where
    A: Fn(Payload) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Payload, BenchError>> + Send,
{
    let spawn = |task| {
        let ask = ask.clone();
        runtime.spawn(async move {
            for sequence in task * each..(task + 1) * each {
                if !ask(Payload::new(sequence)).await?.is_reply_to(sequence) {
                    return Err(BenchError::WrongReply { subject, sequence });
                }
            }
            Ok(())
        })
    };
    let spawned: Vec<_> = (0..tasks).map(spawn).collect();
    runtime.block_on(async {
        for task in spawned {
            task.await.map_err(|_| BenchError::Panicked { subject })??;
        }
        Ok(())
    })
}
