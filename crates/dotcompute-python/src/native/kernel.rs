//! `NativeKernel`: talking to a ring kernel whose handler is machine code.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use dotcompute_core::error::{AskError, LifecycleError, ReceiveError, Refusal};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::message::record::RecordBytes;
use dotcompute_core::telemetry::LatencySummary;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

#[cfg(unix)]
use super::bell::{NativeOperation, Outcome};
use super::codec::{RecordCodec, bytes_of};
use super::error;
use super::handler::Program;
use super::wait::{Deadline, SLICE, block_on};

pub(super) type Handle = KernelHandle<RecordBytes, RecordBytes>;

/// The priority of a message that says nothing about it.
const NORMAL: u8 = 128;

/// Where its state is.
pub(super) enum Place {
    /// In this process.
    Host(Arc<Program>),
    /// On a device.
    Device {
        /// A function that makes the exception, and the place where it was raised, of the number that a handler has returned.
        exception_of: Py<PyAny>,
    },
}

/// A ring kernel whose handler is machine code.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct NativeKernel {
    /// For asks with a timeout, and for all that does not ask.
    handle: Arc<Handle>,
    /// For asks without one: an idle ring kernel handles them on the asker's thread.
    inline: Arc<Handle>,
    /// Handles whose messages have another priority than the normal one, with and without inline asks.
    others: Mutex<BTreeMap<(u8, bool), Arc<Handle>>>,
    input: Py<RecordCodec>,
    output: Option<Py<RecordCodec>>,
    place: Place,
}

impl NativeKernel {
    pub(super) fn new(
        handle: Handle,
        input: Py<RecordCodec>,
        output: Option<Py<RecordCodec>>,
        place: Place,
    ) -> Self {
        let inline = Arc::new(handle.with_inline_asks());
        Self { handle: Arc::new(handle), inline, others: Mutex::default(), input, output, place }
    }

    /// The handle for a message's priority.
    fn handle_for(&self, message: &Bound<'_, PyAny>, inline: bool) -> PyResult<Arc<Handle>> {
        let normal = if inline { &self.inline } else { &self.handle };
        let Some(priority) = message.getattr_opt(intern!(message.py(), "priority"))? else {
            return Ok(Arc::clone(normal));
        };
        let priority: u8 = priority.extract().map_err(|cause| {
            let class = message.get_type();
            error::unpackable(&class, cause)
        })?;
        if priority == NORMAL {
            return Ok(Arc::clone(normal));
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let other = others.entry((priority, inline));
        Ok(Arc::clone(other.or_insert_with(|| Arc::new(normal.with_priority(priority)))))
    }

    fn input_name(&self, py: Python<'_>) -> String {
        let name = self.input.get().class(py).name();
        name.map_or_else(|_| String::from("message"), |name| name.to_string())
    }

    fn answer<'py>(&self, py: Python<'py>, record: &RecordBytes) -> PyResult<Bound<'py, PyAny>> {
        match &self.output {
            Some(output) => output.get().unpack(py, record.as_slice()),
            None => Ok(py.None().into_bound(py)),
        }
    }

    fn unanswered(&self, py: Python<'_>, error: &AskError<RecordBytes>) -> PyErr {
        error::unanswered(py, error, &self.input_name(py), &self.place)
    }

    fn ask_record(
        &self,
        py: Python<'_>,
        handle: &Handle,
        record: RecordBytes,
        deadline: Deadline,
    ) -> PyResult<RecordBytes> {
        // The fast way first: one look, with the answer of an idle ring kernel.
        let begun = block_on(py, deadline, async {
            let mut pending = KernelHandle::begin_ask(handle, record).await?;
            match pending.try_take() {
                Some(answer) => answer.map(Ok),
                None => Ok(Err(pending)),
            }
        })?;
        let mut pending = match begun {
            Some(Ok(Ok(answer))) => return Ok(answer),
            Some(Ok(Err(pending))) => pending,
            Some(Err(error)) => return Err(self.unanswered(py, &error)),
            None => return Err(error::no_room(py, handle.name(), deadline)),
        };
        loop {
            let Some(slice) = deadline.slice() else {
                let waited = Duration::from_secs_f64(deadline.seconds());
                return Err(self.unanswered(py, &pending.into_timeout_error(waited)));
            };
            match py.detach(|| pending.wait(slice)) {
                Some(Ok(answer)) => return Ok(answer),
                Some(Err(error)) => return Err(self.unanswered(py, &error)),
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
        let mut telling = pin!(handle.tell_async(record));
        // As long as there is room nobody waits, and the interpreter is kept.
        let mut cx = Context::from_waker(Waker::noop());
        let told = match telling.as_mut().poll(&mut cx) {
            Poll::Ready(told) => Some(told),
            Poll::Pending => block_on(py, deadline, telling)?,
        };
        match told {
            Some(told) => told.map_err(|error| error::refused(py, &error, "tell")),
            None => Err(error::no_room(py, handle.name(), deadline)),
        }
    }
}

#[pymethods]
impl NativeKernel {
    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        self.handle.name()
    }

    /// The name of its lifecycle's state, such as `ACTIVE`.
    #[getter]
    fn lifecycle_state(&self) -> String {
        self.handle.state().to_string().to_uppercase()
    }

    /// Sends a message and does not wait for it to be handled.
    #[pyo3(signature = (message, timeout = None))]
    fn tell(&self, py: Python<'_>, message: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<()> {
        let record = self.input.get().pack(message)?;
        let handle = self.handle_for(message, false)?;
        self.tell_record(py, &handle, record, Deadline::new(py, timeout)?)
    }

    /// Sends a message and waits for its answer.
    #[pyo3(signature = (message, timeout = None))]
    fn ask<'py>(
        &self,
        py: Python<'py>,
        message: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let record = self.input.get().pack(message)?;
        let handle = self.handle_for(message, timeout.is_none())?;
        let answer = self.ask_record(py, &handle, record, Deadline::new(py, timeout)?)?;
        self.answer(py, &answer)
    }

    /// Waits for the next output.
    #[pyo3(signature = (timeout = None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let output = self.receive_record(py, Deadline::new(py, timeout)?)?;
        self.answer(py, &output)
    }

    /// As `tell`, for an event loop.
    #[cfg(unix)]
    fn begin_tell(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<NativeOperation> {
        let record = slf.get().input.get().pack(message)?;
        let handle = slf.get().handle_for(message, false)?;
        let telling = async move { Outcome::Told(handle.tell_async(record).await) };
        Ok(NativeOperation::new(slf.clone().unbind(), telling))
    }

    /// As `ask`, for an event loop. An ask `within` a time does not run the handler on the loop's thread.
    #[cfg(unix)]
    fn begin_ask(
        slf: &Bound<'_, Self>,
        message: &Bound<'_, PyAny>,
        within: bool,
    ) -> PyResult<NativeOperation> {
        let record = slf.get().input.get().pack(message)?;
        let handle = slf.get().handle_for(message, !within)?;
        let asking = async move { Outcome::Asked(handle.ask_async(record).await) };
        Ok(NativeOperation::new(slf.clone().unbind(), asking))
    }

    /// As `receive`, for an event loop.
    #[cfg(unix)]
    fn begin_receive(slf: &Bound<'_, Self>) -> NativeOperation {
        let handle = Arc::clone(&slf.get().handle);
        let receiving = async move { Outcome::Received(handle.receive_async().await) };
        NativeOperation::new(slf.clone().unbind(), receiving)
    }

    /// Sends the records of a contiguous array, in order. Gives how many were accepted, and the error of the one that was not.
    #[pyo3(signature = (records, timeout = None))]
    fn tell_records(
        &self,
        py: Python<'_>,
        records: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<(usize, Option<PyErr>)> {
        let bytes = bytes_of(records)?;
        let deadline = Deadline::new(py, timeout)?;
        let size = self.input.get().size();
        let mut told = 0;
        let mut chunks = bytes.chunks_exact(size);
        loop {
            // Until one has to wait, none of them touches the interpreter.
            let full = py.detach(|| {
                for chunk in chunks.by_ref() {
                    match self.handle.try_tell(RecordBytes::from_slice(chunk)) {
                        Ok(()) => told += 1,
                        Err(error) => return Some(error),
                    }
                }
                None
            });
            let Some(full) = full else { return Ok((told, None)) };
            if !matches!(full.reason, Refusal::Full { .. }) {
                return Ok((told, Some(error::refused(py, &full, "tell"))));
            }
            match self.tell_record(py, &self.handle, full.into_message(), deadline) {
                Ok(()) => told += 1,
                Err(error) => return Ok((told, Some(error))),
            }
        }
    }

    /// Asks with each record of a contiguous array, in order; gives the answers' records. Of an ask that fails it gives the error, after the
    /// answers before it.
    #[pyo3(signature = (records, timeout = None))]
    fn ask_records<'py>(
        &self,
        py: Python<'py>,
        records: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<(Bound<'py, PyBytes>, Option<PyErr>)> {
        let bytes = bytes_of(records)?;
        let deadline = Deadline::new(py, timeout)?;
        let mut answers = Vec::new();
        let mut failure = None;
        let mut chunks = bytes.chunks_exact(self.input.get().size());
        while failure.is_none() && chunks.len() > 0 {
            let until = Instant::now() + SLICE;
            // Asks through the handle for inline ones wait in Rust; signals and the deadline are looked at between slices.
            failure = py
                .detach(|| {
                    for chunk in chunks.by_ref() {
                        match self.inline.ask(RecordBytes::from_slice(chunk)) {
                            Ok(answer) => answers.extend_from_slice(answer.as_slice()),
                            Err(error) => return Some(error),
                        }
                        if Instant::now() >= until {
                            break;
                        }
                    }
                    None
                })
                .map(|error| self.unanswered(py, &error));
            py.check_signals()?;
            if failure.is_none() && chunks.len() > 0 && deadline.slice().is_none() {
                failure = Some(error::nothing_came(py, self.handle.name(), deadline));
            }
        }
        Ok((PyBytes::new(py, &answers), failure))
    }

    /// The bytes of the state, between two messages.
    fn state_bytes<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = match &self.place {
            Place::Host(program) => py.detach(|| program.snapshot()),
            Place::Device { .. } => {
                let timeout = Duration::from_secs_f64(timeout);
                py.detach(|| self.handle.checkpoint_bytes(timeout))
                    .map_err(|error| error::lifecycle(py, &error))?
            }
        };
        Ok(PyBytes::new(py, &bytes))
    }

    /// Overwrites the state, between two messages.
    fn restore_bytes(&self, py: Python<'_>, bytes: &[u8], timeout: f64) -> PyResult<()> {
        match &self.place {
            Place::Host(program) => match py.detach(|| program.restore(bytes)) {
                true => Ok(()),
                false => Err(error::kernel_error(py, "the bytes are not as many as the state has")),
            },
            Place::Device { .. } => {
                let timeout = Duration::from_secs_f64(timeout);
                py.detach(|| self.handle.restore_bytes(bytes, timeout))
                    .map_err(|error| error::lifecycle(py, &error))
            }
        }
    }

    /// Starts handling messages.
    fn activate(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.activate().map_err(|error| error::lifecycle(py, &error))
    }

    /// Pauses at the next message boundary, and waits for that.
    fn deactivate(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let pausing = self.handle.deactivate_async(Duration::from_secs_f64(timeout));
        self.live(py, pausing)
    }

    /// Goes on after a pause.
    fn reactivate(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.reactivate().map_err(|error| error::lifecycle(py, &error))
    }

    /// Ends the ring kernel once it has handled what it has accepted.
    fn terminate(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let ending = self.handle.terminate_async(Duration::from_secs_f64(timeout));
        self.live(py, ending)
    }

    /// Ends the ring kernel at the next message boundary; what is queued becomes dead letters.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.handle.abort()).map_err(|error| error::lifecycle(py, &error))
    }

    /// Waits until the ring kernel has ended. False if it had not in time.
    fn wait_ended(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = Deadline::new(py, timeout)?;
        while let Some(slice) = deadline.slice() {
            if py.detach(|| self.handle.wait_ended(slice)).has_ended() {
                return Ok(true);
            }
            py.check_signals()?;
        }
        Ok(self.handle.state().has_ended())
    }

    /// The counters and latencies, by name; durations in seconds.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
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

/// Samples, and seconds: median, 99 %, 99.9 %, longest.
fn latency(latency: &LatencySummary) -> (u64, f64, f64, f64, f64) {
    let LatencySummary { samples, p50, p99, p999, max } = latency;
    (*samples, p50.as_secs_f64(), p99.as_secs_f64(), p999.as_secs_f64(), max.as_secs_f64())
}

impl NativeKernel {
    /// What an operation of an event loop gives Python.
    #[cfg(unix)]
    pub(super) fn outcome<'py>(
        &self,
        py: Python<'py>,
        outcome: Outcome,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match outcome {
            Outcome::Told(told) => {
                told.map_err(|error| error::refused(py, &error, "tell"))?;
                Ok(None)
            }
            Outcome::Asked(asked) => {
                let answer = asked.map_err(|error| self.unanswered(py, &error))?;
                self.answer(py, &answer).map(Some)
            }
            Outcome::Received(received) => {
                let endless = Deadline::new(py, None)?;
                let output = received.map_err(|error| error::not_received(py, &error, endless))?;
                self.answer(py, &output).map(Some)
            }
        }
    }

    fn live(
        &self,
        py: Python<'_>,
        change: impl Future<Output = Result<(), LifecycleError>> + Send,
    ) -> PyResult<()> {
        let endless = Deadline::new(py, None)?;
        match block_on(py, endless, change)? {
            Some(Err(error)) => Err(error::lifecycle(py, &error)),
            Some(Ok(())) | None => Ok(()),
        }
    }

    fn receive_record(&self, py: Python<'_>, deadline: Deadline) -> PyResult<RecordBytes> {
        match self.handle.try_receive() {
            Ok(output) => return Ok(output),
            Err(ReceiveError::Empty { .. }) => {}
            Err(error) => return Err(error::not_received(py, &error, deadline)),
        }
        loop {
            let Some(slice) = deadline.slice() else {
                return Err(error::nothing_came(py, self.handle.name(), deadline));
            };
            match py.detach(|| self.handle.receive_timeout(slice)) {
                Ok(output) => return Ok(output),
                Err(ReceiveError::TimedOut { .. }) => py.check_signals()?,
                Err(error) => return Err(error::not_received(py, &error, deadline)),
            }
        }
    }
}

impl Drop for NativeKernel {
    /// Nobody can reach it any more: it ends once it has handled what it has accepted.
    fn drop(&mut self) {
        let mut ending = pin!(self.handle.terminate_async(Duration::MAX));
        // Asked for at the first look; nobody waits.
        let _ = ending.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
}
