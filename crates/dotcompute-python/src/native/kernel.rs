//! `NativeKernel`: a ring kernel whose handler is machine code.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dotcompute_core::error::{AskError, ReceiveError, Refusal};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::message::record::RecordBytes;
use dotcompute_core::telemetry::LatencySummary;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::blocking::{Deadline, SIGNAL_CHECK_INTERVAL, block_on};
use super::error;
use super::execution_place::ExecutionPlace;
use super::record_codec::{RecordCodec, bytes_of};
use crate::fork::Origin;

pub(super) type Handle = KernelHandle<RecordBytes, RecordBytes>;

/// The priority of a message without the attribute `priority`.
const NORMAL: u8 = 128;

/// A ring kernel whose handler is machine code.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct NativeKernel {
    /// For asks with a timeout, and for every other call.
    pub(super) handle: Arc<Handle>,
    /// For asks without a timeout: an idle ring kernel handles them on the thread of the caller.
    pub(super) inline: Arc<Handle>,
    /// Handles for other priorities, with and without inline asks.
    pub(super) by_priority: Mutex<BTreeMap<(u8, bool), Arc<Handle>>>,
    input: Py<RecordCodec>,
    output: Option<Py<RecordCodec>>,
    pub(super) place: ExecutionPlace,
    pub(super) origin: Origin,
}

impl NativeKernel {
    pub(super) fn new(
        handle: Handle,
        input: Py<RecordCodec>,
        output: Option<Py<RecordCodec>>,
        place: ExecutionPlace,
    ) -> Self {
        let inline = Arc::new(handle.with_inline_asks());
        Self {
            handle: Arc::new(handle),
            inline,
            by_priority: Mutex::default(),
            input,
            output,
            place,
            origin: Origin::current(),
        }
    }

    /// Checks that the ring kernel runs in this process. A forked child has a copy of it without its thread.
    ///
    /// # Errors
    ///
    /// `ForkedProcessError`.
    #[inline]
    pub(super) fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        self.origin.check(py, || format!("native ring kernel '{}'", self.handle.name()))
    }

    /// The handle for messages of normal priority.
    #[cfg(unix)]
    pub(super) fn handle(&self) -> Arc<Handle> {
        Arc::clone(&self.handle)
    }

    /// The record of a message for the input.
    #[cfg(unix)]
    pub(super) fn pack_input(&self, message: &Bound<'_, PyAny>) -> PyResult<RecordBytes> {
        self.input.get().pack(message)
    }

    /// Returns the handle for the priority of a message.
    pub(super) fn handle_for(&self, message: &Bound<'_, PyAny>, inline: bool) -> PyResult<Arc<Handle>> {
        self.check_process(message.py())?;
        let normal = if inline { &self.inline } else { &self.handle };
        let Some(priority) = message.getattr_opt(intern!(message.py(), "priority"))? else {
            return Ok(Arc::clone(normal));
        };
        let priority: u8 = priority.extract().map_err(|cause| {
            let class = message.get_type();
            error::serialization_error(&class, cause)
        })?;
        if priority == NORMAL {
            return Ok(Arc::clone(normal));
        }
        let mut by_priority = self.by_priority.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = by_priority.entry((priority, inline));
        Ok(Arc::clone(entry.or_insert_with(|| Arc::new(normal.with_priority(priority)))))
    }

    fn input_name(&self, py: Python<'_>) -> String {
        let name = self.input.get().class(py).name();
        name.map_or_else(|_| String::from("message"), |name| name.to_string())
    }

    /// Unpacks a record of the output. `None` as a Python object if the ring kernel has no output class.
    pub(super) fn unpack_output<'py>(
        &self,
        py: Python<'py>,
        record: &RecordBytes,
    ) -> PyResult<Bound<'py, PyAny>> {
        match &self.output {
            Some(output) => output.get().unpack(py, record.as_slice()),
            None => Ok(py.None().into_bound(py)),
        }
    }

    pub(super) fn ask_error(&self, py: Python<'_>, error: &AskError<RecordBytes>) -> PyErr {
        error::ask_error(py, error, &self.input_name(py), &self.place)
    }

    fn ask_record(
        &self,
        py: Python<'_>,
        handle: &Handle,
        record: RecordBytes,
        deadline: Deadline,
    ) -> PyResult<RecordBytes> {
        // The fast path: post the message and poll once, which runs an idle ring kernel inline.
        let posted = block_on(py, deadline, async {
            let mut pending = KernelHandle::begin_ask(handle, record).await?;
            match pending.try_take() {
                Some(reply) => reply.map(Ok),
                None => Ok(Err(pending)),
            }
        })?;
        let mut pending = match posted {
            Some(Ok(Ok(reply))) => return Ok(reply),
            Some(Ok(Err(pending))) => pending,
            Some(Err(error)) => return Err(self.ask_error(py, &error)),
            None => return Err(error::send_timeout(py, handle.name(), deadline.seconds())),
        };
        loop {
            let Some(interval) = deadline.next_interval() else {
                let waited = Duration::from_secs_f64(deadline.seconds());
                return Err(self.ask_error(py, &pending.into_timeout_error(waited)));
            };
            match py.detach(|| pending.wait(interval)) {
                Some(Ok(reply)) => return Ok(reply),
                Some(Err(error)) => return Err(self.ask_error(py, &error)),
                None => py.check_signals()?,
            }
        }
    }

    fn tell_record(
        &self,
        py: Python<'_>,
        handle: &Handle,
        record: RecordBytes,
        deadline: Deadline,
    ) -> PyResult<()> {
        let mut tell = pin!(handle.tell_async(record));
        // While the mailbox has free slots the call does not wait, so it stays attached.
        let mut cx = Context::from_waker(Waker::noop());
        let result = match tell.as_mut().poll(&mut cx) {
            Poll::Ready(result) => Some(result),
            Poll::Pending => block_on(py, deadline, tell)?,
        };
        match result {
            Some(result) => result.map_err(|error| error::rejected(py, &error, "tell")),
            None => Err(error::send_timeout(py, handle.name(), deadline.seconds())),
        }
    }
}

#[pymethods]
impl NativeKernel {
    /// Name of the ring kernel.
    #[getter]
    fn name(&self) -> &str {
        self.handle.name()
    }

    /// Name of the lifecycle state, such as ``"ACTIVE"``.
    #[getter]
    fn lifecycle_state(&self, py: Python<'_>) -> PyResult<String> {
        self.check_process(py)?;
        Ok(self.handle.state().to_string().to_uppercase())
    }

    /// Sends a message without waiting for a reply.
    ///
    /// Args:
    ///     message: The message.
    ///     timeout: Maximum wait for a free slot, in seconds. None waits without limit.
    ///
    /// Raises:
    ///     QueueTimeoutError: The mailbox was full until the timeout.
    ///     QueueFullError: The mailbox is full and rejects messages.
    ///     KernelStateError: The ring kernel does not accept messages in its state.
    #[pyo3(signature = (message, timeout = None))]
    fn tell(&self, py: Python<'_>, message: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        let record = self.input.get().pack(message)?;
        let handle = self.handle_for(message, false)?;
        self.tell_record(py, &handle, record, Deadline::new(py, timeout)?)
    }

    /// Sends a message and waits for its reply.
    ///
    /// Args:
    ///     message: The message.
    ///     timeout: Maximum wait, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     The reply.
    ///
    /// Raises:
    ///     QueueTimeoutError: There was no reply until the timeout.
    ///     QueueFullError: The mailbox is full and rejects messages.
    ///     KernelError: The handler raised, or did not reply.
    ///     KernelStateError: The ring kernel does not accept messages in its state, or ended.
    #[pyo3(signature = (message, timeout = None))]
    fn ask<'py>(
        &self,
        py: Python<'py>,
        message: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let record = self.input.get().pack(message)?;
        let handle = self.handle_for(message, timeout.is_none())?;
        let reply = self.ask_record(py, &handle, record, Deadline::new(py, timeout)?)?;
        self.unpack_output(py, &reply)
    }

    /// Waits for the next output.
    ///
    /// Args:
    ///     timeout: Maximum wait, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     The output.
    ///
    /// Raises:
    ///     QueueTimeoutError: There was no output until the timeout.
    ///     KernelStateError: The ring kernel is not activated, or ended.
    #[pyo3(signature = (timeout = None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        self.check_process(py)?;
        let output = self.receive_record(py, Deadline::new(py, timeout)?)?;
        self.unpack_output(py, &output)
    }

    /// Sends the records of a contiguous array, in order.
    ///
    /// Args:
    ///     records: The records: an object with the buffer protocol.
    ///     timeout: Maximum wait for free slots, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     Number of records accepted, and the error of the first one rejected or None.
    #[pyo3(signature = (records, timeout = None))]
    fn tell_records(
        &self,
        py: Python<'_>,
        records: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<(usize, Option<PyErr>)> {
        self.check_process(py)?;
        let bytes = bytes_of(records)?;
        let deadline = Deadline::new(py, timeout)?;
        let size = self.input.get().size();
        let mut accepted = 0;
        let mut chunks = bytes.chunks_exact(size);
        loop {
            // Detached until the mailbox is full: records need no Python objects.
            let full = py.detach(|| {
                for chunk in chunks.by_ref() {
                    match self.handle.try_tell(RecordBytes::from_slice(chunk)) {
                        Ok(()) => accepted += 1,
                        Err(error) => return Some(error),
                    }
                }
                None
            });
            let Some(full) = full else { return Ok((accepted, None)) };
            if !matches!(full.reason, Refusal::Full { .. }) {
                return Ok((accepted, Some(error::rejected(py, &full, "tell"))));
            }
            match self.tell_record(py, &self.handle, full.into_message(), deadline) {
                Ok(()) => accepted += 1,
                Err(error) => return Ok((accepted, Some(error))),
            }
        }
    }

    /// Asks with each record of a contiguous array, in order. Stops at the first error.
    ///
    /// Args:
    ///     records: The records: an object with the buffer protocol.
    ///     timeout: Maximum wait for all replies, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     The records of the replies, and the error of the first ask that failed or None.
    #[pyo3(signature = (records, timeout = None))]
    fn ask_records<'py>(
        &self,
        py: Python<'py>,
        records: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<(Bound<'py, PyBytes>, Option<PyErr>)> {
        self.check_process(py)?;
        let bytes = bytes_of(records)?;
        let deadline = Deadline::new(py, timeout)?;
        let mut replies = Vec::new();
        let mut failure = None;
        let mut chunks = bytes.chunks_exact(self.input.get().size());
        while failure.is_none() && chunks.len() > 0 {
            let until = Instant::now() + SIGNAL_CHECK_INTERVAL;
            // Inline asks wait in Rust. Signals and the deadline are checked once per interval.
            failure = py
                .detach(|| {
                    for chunk in chunks.by_ref() {
                        match self.inline.ask(RecordBytes::from_slice(chunk)) {
                            Ok(reply) => replies.extend_from_slice(reply.as_slice()),
                            Err(error) => return Some(error),
                        }
                        if Instant::now() >= until {
                            break;
                        }
                    }
                    None
                })
                .map(|error| self.ask_error(py, &error));
            py.check_signals()?;
            if failure.is_none() && chunks.len() > 0 && deadline.next_interval().is_none() {
                failure = Some(error::receive_timeout(py, self.handle.name(), deadline.seconds()));
            }
        }
        Ok((PyBytes::new(py, &replies), failure))
    }

    /// Returns the counters and latencies of the ring kernel.
    ///
    /// Returns:
    ///     Counters by name. ``queue_time`` and ``handle_time`` are samples, median, 99 %, 99.9 % and maximum, in seconds.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.check_process(py)?;
        let stats = self.handle.stats();
        let dict = PyDict::new(py);
        for (name, count) in [
            ("sent", stats.sent),
            ("handled", stats.handled),
            ("queued", stats.queued),
            ("dead_letters", stats.dead_letters),
            ("rejected", stats.rejected),
            ("emitted", stats.emitted),
            ("undelivered", stats.undelivered),
            ("replied", stats.replied),
            ("restarts", stats.restarts),
        ] {
            dict.set_item(name, count)?;
        }
        dict.set_item("queue_time", latency(&stats.queue_time))?;
        dict.set_item("handle_time", latency(&stats.handle_time))?;
        Ok(dict)
    }
}

/// Converts latencies: number of samples, then median, 99 %, 99.9 % and maximum in seconds.
fn latency(latency: &LatencySummary) -> (u64, f64, f64, f64, f64) {
    let LatencySummary { samples, p50, p99, p999, max } = latency;
    (*samples, p50.as_secs_f64(), p99.as_secs_f64(), p999.as_secs_f64(), max.as_secs_f64())
}

impl NativeKernel {
    fn receive_record(&self, py: Python<'_>, deadline: Deadline) -> PyResult<RecordBytes> {
        match self.handle.try_receive() {
            Ok(output) => return Ok(output),
            Err(ReceiveError::Empty { .. }) => {}
            Err(error) => return Err(error::not_received(py, &error, deadline.seconds())),
        }
        loop {
            let Some(interval) = deadline.next_interval() else {
                return Err(error::receive_timeout(py, self.handle.name(), deadline.seconds()));
            };
            match py.detach(|| self.handle.receive_timeout(interval)) {
                Ok(output) => return Ok(output),
                Err(ReceiveError::TimedOut { .. }) => py.check_signals()?,
                Err(error) => return Err(error::not_received(py, &error, deadline.seconds())),
            }
        }
    }
}
