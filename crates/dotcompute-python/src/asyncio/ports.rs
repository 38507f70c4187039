//! Ports: tell, ask and receive for the users of a ring kernel, and the same by name for the runtime.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyDict, PyString};

use super::errors;
use super::mailbox::Mailbox;
use super::waiter::{Kind, WaiterState};
use super::{task_resume, waiter_type};
use crate::arguments::Second;

/// States, with the values of `KernelState` in Python.
const ACTIVE: u8 = 3;
const DEACTIVATED: u8 = 4;
const FAILED: u8 = 7;
const STATE_NAMES: [&str; 8] =
    ["", "CREATED", "LAUNCHED", "ACTIVE", "DEACTIVATED", "TERMINATING", "TERMINATED", "FAILED"];

struct Endpoints {
    kernel: String,
    input: Py<Mailbox>,
    output: Py<Mailbox>,
    input_type: Option<Py<PyAny>>,
}

/// The sending and receiving side of a ring kernel for its users. `RingKernel` derives from it.
#[pyclass(name = "RingKernel", frozen, subclass, weakref, module = "pydotcompute._core")]
pub(crate) struct KernelPort {
    endpoints: RwLock<Option<std::sync::Arc<Endpoints>>>,
    state: AtomicU8,
}

#[pymethods]
impl KernelPort {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        KernelPort { endpoints: RwLock::new(None), state: AtomicU8::new(1) }
    }

    fn _bind(&self, kernel: String, input: Py<Mailbox>, output: Py<Mailbox>, input_type: Option<Py<PyAny>>) {
        let endpoints = std::sync::Arc::new(Endpoints { kernel, input, output, input_type });
        let old = self.endpoints.write().unwrap_or_else(PoisonError::into_inner).replace(endpoints);
        drop(old);
    }

    /// The value of the current `KernelState`.
    ///
    /// Raises:
    ///     ForkedProcessError: The ring kernel was launched in the parent process.
    #[getter]
    fn _state_number(&self, py: Python<'_>) -> PyResult<u8> {
        if let Some(endpoints) = self.endpoints.read().unwrap_or_else(PoisonError::into_inner).as_ref() {
            endpoints.input.get().check_process(py)?;
        }
        Ok(self.state.load(Relaxed))
    }

    fn _set_state(&self, state: u8) {
        self.state.store(state, Relaxed);
    }

    /// Sends a message; waits while the input queue is full.
    ///
    /// Args:
    ///     message: The message. It is handed over, not copied: neither side changes it afterwards.
    ///     timeout: Maximum time to wait, in seconds; ``None`` for no limit.
    ///
    /// Raises:
    ///     KernelStateError: The ring kernel is not running.
    ///     KernelError: The ring kernel failed during the call.
    ///     QueueFullError: The queue stayed full until the timeout; the message was not sent.
    ///     TypeValidationError: The message is not of the kernel's input type.
    #[pyo3(signature = (message, timeout=None))]
    fn send<'py>(&self, message: Bound<'py, PyAny>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        self.send_as(message, timeout, "RingKernel.send")
    }

    /// Receives the next output; waits while there is none.
    ///
    /// Args:
    ///     timeout: Maximum time to wait, in seconds; ``None`` for no limit.
    ///
    /// Returns:
    ///     The output. It was handed over, not copied: neither side changes it.
    ///
    /// Raises:
    ///     KernelStateError: The ring kernel is not running.
    ///     KernelError: The ring kernel failed; the exception is the cause. Outputs sent before the failure are received first.
    ///     QueueTimeoutError: No output arrived before the timeout.
    #[pyo3(signature = (timeout=None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        self.receive_as(py, timeout, "RingKernel.receive")
    }

    /// Sends a request and waits for its reply.
    ///
    /// Any number of callers may wait at the same time. :meth:`KernelContext.send` and :meth:`KernelContext.reply` document how replies
    /// are matched to requests. Other messages that the ring kernel sends stay queued for :meth:`receive`.
    ///
    /// Args:
    ///     message: The request. It is handed over, not copied: neither side changes it afterwards.
    ///     timeout: Maximum time to wait for a free slot and the reply, in seconds; ``None`` for no limit.
    ///
    /// Returns:
    ///     The reply.
    ///
    /// Raises:
    ///     KernelStateError: The ring kernel is not running.
    ///     KernelError: The ring kernel failed; the exception is the cause.
    ///     NoReplyError: The ring kernel skipped the request, or its full queue dropped it.
    ///     QueueFullError: The queue stayed full until the timeout.
    ///     QueueTimeoutError: No reply arrived before the timeout.
    ///     TypeValidationError: The message is not of the kernel's input type.
    #[pyo3(signature = (message, timeout=None))]
    fn ask<'py>(&self, message: Bound<'py, PyAny>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        self.ask_as(message, timeout, "RingKernel.ask")
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Ok(endpoints) = self.endpoints.try_read()
            && let Some(endpoints) = endpoints.as_ref()
        {
            visit.call(&endpoints.input)?;
            visit.call(&endpoints.output)?;
            visit.call(&endpoints.input_type)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let old = self.endpoints.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(old);
    }
}

/// Returns the error of a call that the state does not allow. If the event loop of the ring kernel does not run, the error names the loops.
fn state_error(py: Python<'_>, endpoints: Option<&Endpoints>, state: u8, operation: &str) -> PyResult<PyErr> {
    let name = STATE_NAMES.get(usize::from(state)).copied().unwrap_or("?");
    let Some(endpoints) = endpoints else { return Ok(errors::state(py, "", name, operation)) };
    let (event_loop, failure) = {
        let output = endpoints.output.get().lock();
        (
            output.event_loop.as_ref().map(|own| own.clone_ref(py)),
            output.failure.as_ref().map(|one| one.clone_ref(py)),
        )
    };
    if let Some(own) = event_loop.map(|own| own.into_bound(py))
        && task_resume::is_stopped_elsewhere(&own)?
    {
        return Ok(errors::event_loop(py, &endpoints.kernel, name, operation, &own));
    }
    let error = errors::state(py, &endpoints.kernel, name, operation);
    if state == FAILED {
        error.set_cause(py, failure.map(|cause| PyErr::from_value(cause.into_bound(py))));
    }
    Ok(error)
}

impl KernelPort {
    fn send_as<'py>(
        &self,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
        method: &'static str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        match self.check_send(&message, "send message to") {
            Ok(endpoints) => Mailbox::put_for(endpoints.input.bind(py), message, timeout, method),
            Err(error) => waiter_type::failed(py, method, error),
        }
    }

    fn receive_as<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<f64>,
        method: &'static str,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.running_endpoints(py, "receive message from", true) {
            Ok(endpoints) => {
                let input = endpoints.input.clone_ref(py);
                Mailbox::get_for(endpoints.output.bind(py), timeout, method, Some(input))
            }
            Err(error) => waiter_type::failed(py, method, error),
        }
    }

    fn ask_as<'py>(
        &self,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
        method: &'static str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let endpoints = match self.check_send(&message, "ask") {
            Ok(endpoints) => endpoints,
            Err(error) => return waiter_type::failed(py, method, error),
        };
        let level = match endpoints.input.get().order().level_of(&message) {
            Ok(level) => level,
            Err(error) => return waiter_type::failed(py, method, error),
        };
        let mut state = WaiterState::new(Kind::Ask, None, timeout);
        state.level = level;
        state.asked_message = Some(message.unbind());
        state.input = Some(endpoints.input.clone_ref(py));
        state.method = method;
        waiter_type::new_waiter(py, endpoints.output.clone_ref(py), state)
    }

    /// Returns the endpoints of a ring kernel that is launched and has not ended, or `KernelStateError`.
    fn running_endpoints(
        &self,
        py: Python<'_>,
        operation: &str,
        allow_failed: bool,
    ) -> PyResult<std::sync::Arc<Endpoints>> {
        let state = self.state.load(Relaxed);
        let endpoints = self.endpoints.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(endpoints) = &endpoints {
            endpoints.input.get().check_process(py)?;
        }
        match (endpoints, state) {
            (Some(endpoints), ACTIVE | DEACTIVATED) => Ok(endpoints),
            // Messages sent before the failure can still be received, and then the failure is raised.
            (Some(endpoints), FAILED) if allow_failed => Ok(endpoints),
            (endpoints, state) => Err(state_error(py, endpoints.as_deref(), state, operation)?),
        }
    }

    /// Checks the state of the ring kernel and the type of the message.
    fn check_send(&self, message: &Bound<'_, PyAny>, operation: &str) -> PyResult<std::sync::Arc<Endpoints>> {
        let py = message.py();
        let endpoints = self.running_endpoints(py, operation, false)?;
        if let Some(expected) = &endpoints.input_type {
            let actual = message.get_type();
            if !actual.is(expected) && !message.is_instance(expected.bind(py))? {
                let context = format!("the input of kernel '{}'", endpoints.kernel);
                return Err(errors::wrong_type(expected.bind(py), actual.as_any(), &context));
            }
        }
        Ok(endpoints)
    }
}

/// Sending and receiving by the name of a ring kernel. `RingKernelRuntime` derives from it.
#[pyclass(name = "RingKernelRuntime", frozen, subclass, weakref, module = "pydotcompute._core")]
pub(crate) struct RuntimePort {
    kernels: Py<PyDict>,
}

#[pymethods]
impl RuntimePort {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(py: Python<'_>, _arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        RuntimePort { kernels: PyDict::new(py).unbind() }
    }

    /// The ring kernels by name.
    #[getter]
    fn _kernels(&self, py: Python<'_>) -> Py<PyDict> {
        self.kernels.clone_ref(py)
    }

    /// Sends a message to a ring kernel; waits while its input queue is full.
    ///
    /// Args:
    ///     kernel_id: Name of the ring kernel.
    ///     message: The message. It is handed over, not copied: neither side changes it afterwards. A native ring kernel gets a copy.
    ///     timeout: Maximum time to wait, in seconds; ``None`` for no limit.
    ///
    /// Raises:
    ///     KernelNotFoundError: No ring kernel has this name.
    ///     KernelStateError: The ring kernel is not running.
    ///     KernelError: The ring kernel failed during the call.
    ///     QueueFullError: The queue stayed full until the timeout.
    ///     TypeValidationError: The message is not of the kernel's input type.
    #[pyo3(signature = (kernel_id, message, *, timeout=None))]
    fn send<'py>(
        &self,
        kernel_id: &Bound<'py, PyString>,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.find_kernel(kernel_id) {
            Ok(kernel) => match kernel.cast::<KernelPort>() {
                Ok(port) => port.get().send_as(message, timeout, "RingKernelRuntime.send"),
                Err(_) => kernel.call_method1("send", (message, timeout)),
            },
            Err(error) => waiter_type::failed(kernel_id.py(), "RingKernelRuntime.send", error),
        }
    }

    /// Receives the next output of a ring kernel; waits while there is none.
    ///
    /// Args:
    ///     kernel_id: Name of the ring kernel.
    ///     timeout: Maximum time to wait, in seconds; ``None`` for no limit.
    ///
    /// Returns:
    ///     The output. It was handed over, not copied: neither side changes it.
    ///
    /// Raises:
    ///     KernelNotFoundError: No ring kernel has this name.
    ///     KernelStateError: The ring kernel is not running.
    ///     KernelError: The ring kernel failed; the exception is the cause.
    ///     QueueTimeoutError: No output arrived before the timeout.
    #[pyo3(signature = (kernel_id, second=Second::Absent, *, timeout=None), text_signature = "($self, kernel_id, *, timeout=None)")]
    fn receive<'py>(
        &self,
        kernel_id: &Bound<'py, PyString>,
        second: Second,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        second.reject("RingKernelRuntime.receive")?;
        let py = kernel_id.py();
        match self.find_kernel(kernel_id) {
            Ok(kernel) => match kernel.cast::<KernelPort>() {
                Ok(port) => port.get().receive_as(py, timeout, "RingKernelRuntime.receive"),
                Err(_) => kernel.call_method1("receive", (timeout,)),
            },
            Err(error) => waiter_type::failed(py, "RingKernelRuntime.receive", error),
        }
    }

    /// Sends a request to a ring kernel and waits for its reply, as :meth:`RingKernel.ask`.
    ///
    /// Args:
    ///     kernel_id: Name of the ring kernel.
    ///     message: The request. It is handed over, not copied: neither side changes it afterwards. A native ring kernel gets a copy.
    ///     timeout: Maximum time to wait, in seconds; ``None`` for no limit.
    ///
    /// Returns:
    ///     The reply.
    ///
    /// Raises:
    ///     KernelNotFoundError: No ring kernel has this name.
    ///     KernelStateError: The ring kernel is not running.
    ///     KernelError: The ring kernel failed; the exception is the cause.
    ///     NoReplyError: The ring kernel skipped the request, or its full queue dropped it.
    ///     QueueFullError: The queue stayed full until the timeout.
    ///     QueueTimeoutError: No reply arrived before the timeout.
    ///     TypeValidationError: The message is not of the kernel's input type.
    #[pyo3(signature = (kernel_id, message, *, timeout=None))]
    fn send_and_receive<'py>(
        &self,
        kernel_id: &Bound<'py, PyString>,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.find_kernel(kernel_id) {
            Ok(kernel) => match kernel.cast::<KernelPort>() {
                Ok(port) => port.get().ask_as(message, timeout, "RingKernelRuntime.send_and_receive"),
                Err(_) => kernel.call_method1("ask", (message, timeout)),
            },
            Err(error) => waiter_type::failed(kernel_id.py(), "RingKernelRuntime.send_and_receive", error),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.kernels)
    }
}

impl RuntimePort {
    fn find_kernel<'py>(&self, kernel_id: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let py = kernel_id.py();
        let kernels = self.kernels.bind(py);
        // SAFETY: both objects are live. The result is null (without such a key, or with an error set) or a reference borrowed from the
        // dictionary. It becomes owned here, before any Python code runs.
        let found = unsafe {
            let found = ffi::PyDict_GetItemWithError(kernels.as_ptr(), kernel_id.as_ptr());
            Bound::from_borrowed_ptr_or_opt(py, found)
        };
        match found {
            Some(kernel) => Ok(kernel),
            None => {
                if let Some(error) = PyErr::take(py) {
                    return Err(error);
                }
                let available = kernels.keys().iter().map(|name| name.extract()).collect::<PyResult<_>>()?;
                Err(errors::not_found(py, kernel_id.to_str()?, available))
            }
        }
    }
}
