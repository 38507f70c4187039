//! Measures threads that send more than is handled.

use std::thread;

use crate::config::BenchConfig;
use crate::error::BenchError;
use crate::measure::cpu_time::process_nanoseconds;
use crate::measurement::Sample;

/// Number of sending threads.
pub const THREADS: usize = 8;

/// Capacity of each mailbox.
pub const CAPACITY: usize = 64;

/// Lets each of the senders send its share of the messages of `config` on a thread of its own. Returns the processor time of one message.
///
/// # Errors
///
/// The first error of a sender.
pub fn drive<S>(subject: &'static str, config: &BenchConfig, senders: Vec<S>) -> Result<Sample, BenchError>
where
    S: FnMut(u64) -> Result<(), BenchError> + Send,
{
    let each = config.tells / senders.len() as u64;
    let count = (each * senders.len() as u64) as f64;
    let started = process_nanoseconds();
    thread::scope(|scope| {
        let send_all = |mut send: S| scope.spawn(move || (0..each).try_for_each(&mut send));
        let threads: Vec<_> = senders.into_iter().map(send_all).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or(Err(BenchError::Panicked { subject })))
    })?;
    Ok(Sample::plain((process_nanoseconds() - started) / count))
}
