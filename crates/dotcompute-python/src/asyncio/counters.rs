//! What a ring kernel has handled, and how long that took.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use pyo3::prelude::*;

/// Nanoseconds of the monotonic clock since the first look at it; never 0.
pub(super) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().as_nanos();
    u64::try_from(elapsed).unwrap_or(u64::MAX - 1) + 1
}

/// Counters of one ring kernel. The class of Python that users read derives from this one.
///
/// Each is written where the mailbox's lock is held or by Python code of one thread; they are atomic for those who read meanwhile.
#[pyclass(frozen, subclass, module = "pydotcompute._core")]
pub(crate) struct Counters {
    processed: AtomicU64,
    dropped: AtomicU64,
    total_latency: AtomicU64,
    max_latency: AtomicU64,
    /// 0 before the first.
    min_latency: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<Option<String>>,
    started: AtomicU64,
}

impl Counters {
    fn fresh() -> Self {
        Counters {
            processed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            total_latency: AtomicU64::new(0),
            max_latency: AtomicU64::new(0),
            min_latency: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: Mutex::new(None),
            started: AtomicU64::new(0),
        }
    }

    /// A message was handled; it took so long from when it was accepted.
    pub(super) fn handled(&self, nanoseconds: u64) {
        self.processed.fetch_add(1, Relaxed);
        self.total_latency.fetch_add(nanoseconds, Relaxed);
        self.max_latency.fetch_max(nanoseconds, Relaxed);
        let least = self.min_latency.load(Relaxed);
        if least == 0 || nanoseconds < least {
            self.min_latency.store(nanoseconds.max(1), Relaxed);
        }
    }

    pub(super) fn dropped(&self, messages: u64) {
        self.dropped.fetch_add(messages, Relaxed);
    }
}

#[pymethods]
impl Counters {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        Counters::fresh()
    }

    #[getter]
    fn messages_processed(&self) -> u64 {
        self.processed.load(Relaxed)
    }

    #[setter]
    fn set_messages_processed(&self, value: u64) {
        self.processed.store(value, Relaxed);
    }

    #[getter]
    fn messages_dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    #[setter]
    fn set_messages_dropped(&self, value: u64) {
        self.dropped.store(value, Relaxed);
    }

    #[getter]
    fn total_latency_ns(&self) -> u64 {
        self.total_latency.load(Relaxed)
    }

    #[setter]
    fn set_total_latency_ns(&self, value: u64) {
        self.total_latency.store(value, Relaxed);
    }

    #[getter]
    fn max_latency_ns(&self) -> u64 {
        self.max_latency.load(Relaxed)
    }

    #[setter]
    fn set_max_latency_ns(&self, value: u64) {
        self.max_latency.store(value, Relaxed);
    }

    #[getter]
    fn min_latency_ns(&self) -> u64 {
        self.min_latency.load(Relaxed)
    }

    #[setter]
    fn set_min_latency_ns(&self, value: u64) {
        self.min_latency.store(value, Relaxed);
    }

    #[getter]
    fn error_count(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    #[setter]
    fn set_error_count(&self, value: u64) {
        self.errors.store(value, Relaxed);
    }

    #[getter]
    fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[setter]
    fn set_last_error(&self, value: Option<String>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// Begins to count the time that `seconds_since_start` tells.
    fn start_clock(&self) {
        self.started.store(now(), Relaxed);
    }

    /// Seconds since `start_clock`; 0 before.
    fn seconds_since_start(&self) -> f64 {
        match self.started.load(Relaxed) {
            0 => 0.0,
            started => now().saturating_sub(started) as f64 * 1e-9,
        }
    }

    /// Records a message that was handled.
    ///
    /// Args:
    ///     latency_ns: How long it took, in nanoseconds.
    fn record_message(&self, latency_ns: u64) {
        self.handled(latency_ns);
    }

    /// Records a message that will never be handled.
    fn record_drop(&self) {
        self.dropped(1);
    }

    /// Records an error.
    ///
    /// Args:
    ///     error: Its text, kept as the last one.
    fn record_error(&self, error: String) {
        self.errors.fetch_add(1, Relaxed);
        self.set_last_error(Some(error));
    }
}
