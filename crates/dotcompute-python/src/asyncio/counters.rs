//! Counters of a ring kernel: messages handled, dropped, their latencies, and errors.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::arguments::take_one;

use super::latencies::Latencies;

/// Returns nanoseconds of the monotonic clock since the first call of this function. Never 0.
pub(super) fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed().as_nanos();
    u64::try_from(elapsed).unwrap_or(u64::MAX - 1) + 1
}

/// The lowest latency before the first message.
const NO_LATENCY: u64 = u64::MAX;

/// Counters of one ring kernel. `RingKernelTelemetry` derives from it.
///
/// Writers hold the lock of the mailbox, or are Python code of one thread. The counters are atomic for concurrent readers.
#[pyclass(name = "RingKernelTelemetry", frozen, subclass, module = "pydotcompute._core")]
pub(crate) struct Counters {
    processed: AtomicU64,
    dropped: AtomicU64,
    total_latency: AtomicU64,
    max_latency: AtomicU64,
    /// [`NO_LATENCY`] before the first message.
    min_latency: AtomicU64,
    never_awaited: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<Option<String>>,
    started: AtomicU64,
    pub(super) latencies: Latencies,
}

impl Counters {
    fn zero() -> Self {
        Counters {
            processed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            total_latency: AtomicU64::new(0),
            max_latency: AtomicU64::new(0),
            min_latency: AtomicU64::new(NO_LATENCY),
            never_awaited: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            last_error: Mutex::new(None),
            started: AtomicU64::new(0),
            latencies: Latencies::default(),
        }
    }

    /// Counts a handled message and its latency since the mailbox accepted it.
    pub(super) fn count_handled(&self, latency_ns: u64) {
        self.processed.fetch_add(1, Relaxed);
        self.total_latency.fetch_add(latency_ns, Relaxed);
        self.max_latency.fetch_max(latency_ns, Relaxed);
        // Most messages are not the fastest: a load is cheaper than a read-modify-write.
        if latency_ns < self.min_latency.load(Relaxed) {
            self.min_latency.fetch_min(latency_ns, Relaxed);
        }
    }

    pub(super) fn count_dropped(&self, messages: u64) {
        self.dropped.fetch_add(messages, Relaxed);
    }

    pub(super) fn count_never_awaited(&self) {
        self.never_awaited.fetch_add(1, Relaxed);
    }
}

#[pymethods]
impl Counters {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        Counters::zero()
    }

    /// Messages handled.
    #[getter]
    fn messages_processed(&self) -> u64 {
        self.processed.load(Relaxed)
    }

    #[setter]
    fn set_messages_processed(&self, value: u64) {
        self.processed.store(value, Relaxed);
    }

    /// Messages dropped: by a full queue, or with the ring kernel.
    #[getter]
    fn messages_dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    #[setter]
    fn set_messages_dropped(&self, value: u64) {
        self.dropped.store(value, Relaxed);
    }

    /// Sum of the latencies of all messages handled, in nanoseconds.
    #[getter]
    fn total_latency_ns(&self) -> u64 {
        self.total_latency.load(Relaxed)
    }

    #[setter]
    fn set_total_latency_ns(&self, value: u64) {
        self.total_latency.store(value, Relaxed);
    }

    /// Largest latency of a message, in nanoseconds.
    #[getter]
    fn max_latency_ns(&self) -> u64 {
        self.max_latency.load(Relaxed)
    }

    #[setter]
    fn set_max_latency_ns(&self, value: u64) {
        self.max_latency.store(value, Relaxed);
    }

    /// Smallest latency of a message, in nanoseconds; 0 before the first.
    #[getter]
    fn min_latency_ns(&self) -> u64 {
        match self.min_latency.load(Relaxed) {
            NO_LATENCY => 0,
            latency => latency,
        }
    }

    /// 0 stands for no message yet.
    #[setter]
    fn set_min_latency_ns(&self, value: u64) {
        self.min_latency.store(if value == 0 { NO_LATENCY } else { value }, Relaxed);
    }

    /// Sends, receives and asks of this ring kernel that were never awaited, and so did nothing.
    #[getter]
    fn never_awaited(&self) -> u64 {
        self.never_awaited.load(Relaxed)
    }

    #[setter]
    fn set_never_awaited(&self, value: u64) {
        self.never_awaited.store(value, Relaxed);
    }

    /// Errors of the ring kernel's function.
    #[getter]
    fn error_count(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    #[setter]
    fn set_error_count(&self, value: u64) {
        self.errors.store(value, Relaxed);
    }

    /// Text of the last error, or None.
    #[getter]
    fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    #[setter]
    fn set_last_error(&self, value: Option<String>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// Starts the clock of :meth:`seconds_since_start`. Activation does so.
    fn start_clock(&self) {
        self.started.store(now_ns(), Relaxed);
    }

    /// Returns the time since :meth:`start_clock`, in seconds; 0 before it.
    fn seconds_since_start(&self) -> f64 {
        match self.started.load(Relaxed) {
            0 => 0.0,
            started => now_ns().saturating_sub(started) as f64 * 1e-9,
        }
    }

    /// Records a handled message.
    ///
    /// Args:
    ///     latency_ns: Its latency, in nanoseconds.
    #[pyo3(signature = (latency_ns, *extra), text_signature = "($self, latency_ns)")]
    fn record_message(&self, latency_ns: u64, extra: &Bound<'_, PyTuple>) -> PyResult<()> {
        take_one("RingKernelTelemetry.record_message", extra)?;
        self.count_handled(latency_ns);
        self.latencies.record_total(latency_ns);
        Ok(())
    }

    /// Records a message that will never be handled.
    fn record_drop(&self) {
        self.count_dropped(1);
    }

    /// Records an error.
    ///
    /// Args:
    ///     error: Its text, which becomes ``last_error``.
    #[pyo3(signature = (error, *extra), text_signature = "($self, error)")]
    fn record_error(&self, error: String, extra: &Bound<'_, PyTuple>) -> PyResult<()> {
        take_one("RingKernelTelemetry.record_error", extra)?;
        self.errors.fetch_add(1, Relaxed);
        self.set_last_error(Some(error));
        Ok(())
    }
}
