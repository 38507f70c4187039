//! Measures many idle kernels: the memory of each, and the time to launch them, to send one message to each, and to shut them down.
//!
//! Each sample is taken in a new child process, because a process rarely returns memory to the system.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::BenchError;

/// The cost of the idle kernels.
pub struct IdleKernelCost {
    /// Resident memory of one, with its handle.
    pub bytes: f64,
    /// Time to launch one, until it has started.
    pub launch_nanoseconds: f64,
    /// Time of one message to each, until all are handled.
    pub messages_milliseconds: f64,
    /// Time until all have ended.
    pub shutdown_milliseconds: f64,
}

/// Counts the kernels that have started and the messages that have been handled.
#[derive(Clone, Default)]
pub struct Counters {
    started: Arc<AtomicU64>,
    handled: Arc<AtomicU64>,
}

impl Counters {
    pub fn start(&self) {
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    pub fn handle(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
    }
}

/// Measures one set of kernels: `build` creates every kernel, `tell_each` sends one message to each, `shut_down` waits until all have ended.
///
/// # Errors
///
/// Returns the error of one of the functions, or [`BenchError::WrongCount`] if a kernel did not start or did not handle its message.
pub fn measure<C>(
    subject: &'static str,
    kernels: u64,
    counters: &Counters,
    build: impl FnOnce() -> Result<C, BenchError>,
    tell_each: impl FnOnce(&C) -> Result<(), BenchError>,
    shut_down: impl FnOnce(C) -> Result<(), BenchError>,
) -> Result<IdleKernelCost, BenchError> {
    let before = resident_bytes()?;
    let started = Instant::now();
    let handles = build()?;
    wait_for_count(subject, "kernels started", &counters.started, kernels)?;
    let launch_nanoseconds = started.elapsed().as_secs_f64() * 1e9 / kernels as f64;
    let bytes = resident_bytes()?.saturating_sub(before) as f64 / kernels as f64;
    let started = Instant::now();
    tell_each(&handles)?;
    wait_for_count(subject, "messages handled", &counters.handled, kernels)?;
    let messages_milliseconds = started.elapsed().as_secs_f64() * 1e3;
    let started = Instant::now();
    shut_down(handles)?;
    let shutdown_milliseconds = started.elapsed().as_secs_f64() * 1e3;
    Ok(IdleKernelCost { bytes, launch_nanoseconds, messages_milliseconds, shutdown_milliseconds })
}

/// Waits until `counter` is `expected`. It sleeps between polls, because both cores belong to the workers.
fn wait_for_count(
    subject: &'static str,
    what: &'static str,
    counter: &AtomicU64,
    expected: u64,
) -> Result<(), BenchError> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let found = counter.load(Ordering::Relaxed);
        if found == expected {
            return Ok(());
        }
        if found > expected || Instant::now() > deadline {
            return Err(BenchError::WrongCount { subject, what, expected, found });
        }
        thread::sleep(Duration::from_micros(100));
    }
}

/// Returns the resident memory of this process in bytes.
fn resident_bytes() -> Result<u64, BenchError> {
    let reading = |source| BenchError::Io { doing: "reading /proc/self/status", source };
    let status = fs::read_to_string("/proc/self/status").map_err(reading)?;
    resident_in(&status).ok_or(BenchError::Memory("/proc/self/status has no VmRSS in kB"))
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status() {
        assert_eq!(resident_in("VmPeak:\t 9 kB\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1234 * 1024));
        assert_eq!(resident_in("VmPeak:\t 9 kB\n"), None);
    }

    #[test]
    fn an_extra_message_is_detected() {
        let counter = AtomicU64::new(3);
        assert!(matches!(
            wait_for_count("test", "messages", &counter, 2),
            Err(BenchError::WrongCount { .. })
        ));
    }
}
