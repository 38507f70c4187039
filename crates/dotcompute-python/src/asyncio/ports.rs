//! Ports: `receive` and `send` for a ring kernel, tell, ask and receive for its users, and the same by name for the runtime.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{OnceLock, PoisonError, RwLock};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyDict, PyString};
use pyo3::{ffi, intern};

use super::errors;
use super::mailbox::Mailbox;
use super::waiter::{Kind, WaiterState};
use super::{task_resume, waiter_type};

/// The queues of a ring kernel.
struct Queues {
    input: Py<PyAny>,
    output: Py<PyAny>,
    /// Whether `input.get` is the method of `Mailbox`, so that it can be called directly.
    is_plain_get: bool,
    /// Whether `output.put` is the method of `Mailbox`.
    is_plain_put: bool,
}

/// Returns whether a method of a queue is the one of `Mailbox`. A user may pass another queue class, or override the method.
fn is_plain(queue: &Bound<'_, PyAny>, method: &str) -> PyResult<bool> {
    let py = queue.py();
    if !queue.is_instance_of::<Mailbox>() {
        return Ok(false);
    }
    let instance_dict = queue.getattr_opt(intern!(py, "__dict__"))?;
    Ok(queue.get_type().getattr(method)?.is(py.get_type::<Mailbox>().getattr(method)?)
        && !instance_dict.map_or(Ok(false), |dict| dict.contains(method))?)
}

/// The context of a ring kernel: its queues and its stop flag. `KernelContext` derives from it.
#[pyclass(frozen, subclass, module = "pydotcompute._core")]
pub(crate) struct ContextPort {
    queues: OnceLock<Queues>,
    stop_requested: AtomicBool,
}

#[pymethods]
impl ContextPort {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        ContextPort { queues: OnceLock::new(), stop_requested: AtomicBool::new(false) }
    }

    /// Sets the queues, once.
    fn _bind(&self, input: &Bound<'_, PyAny>, output: &Bound<'_, PyAny>) -> PyResult<()> {
        let (is_plain_get, is_plain_put) = (is_plain(input, "get")?, is_plain(output, "put")?);
        let (input, output) = (input.clone().unbind(), output.clone().unbind());
        self.queues.set(Queues { input, output, is_plain_get, is_plain_put }).map_err(|_| {
            PyRuntimeError::new_err(
                "binding a kernel context: it has its queues already; create a new context",
            )
        })
    }

    /// Makes `should_terminate` true.
    fn _request_stop(&self) {
        self.stop_requested.store(true, Relaxed);
    }

    /// Whether the ring kernel should return.
    #[getter]
    fn should_terminate(&self) -> bool {
        self.stop_requested.load(Relaxed)
    }

    /// Takes the next message of the input.
    ///
    /// Args:
    ///     timeout: Maximum wait for a message, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     An awaitable of the message.
    #[pyo3(signature = (timeout=None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let queues = self.queues()?;
        let input = queues.input.bind(py);
        match input.cast::<Mailbox>() {
            Ok(mailbox) if queues.is_plain_get => {
                Mailbox::get_for(mailbox, timeout, "KernelContext.receive", None)
            }
            _ => input.call_method("get", (), Some(&timeout_keyword(py, timeout)?)),
        }
    }

    fn __aiter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// Takes the next message for ``async for``, which ends once the ring kernel terminates and the input is empty.
    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let queues = slf.get().queues()?;
        match queues.input.bind(py).cast::<Mailbox>() {
            Ok(mailbox) if queues.is_plain_get => {
                let mut state = WaiterState::new(Kind::Get, None, None);
                (state.iterates, state.method) = (true, "KernelContext.__anext__");
                waiter_type::new_waiter(py, mailbox.clone().unbind(), state)
            }
            _ => slf.call_method0(intern!(py, "_next_of_queue")),
        }
    }

    /// Sends the reply to the request received last, or an output; waits while the output queue is full.
    ///
    /// With a ``correlation_id``, the message is the reply to the request with that id, or an output if there is none. Otherwise it is
    /// the reply to the request if that was received last and is the only one without a reply. It is an output if no request waits for
    /// a reply.
    ///
    /// Args:
    ///     message: The reply or output.
    ///
    /// Returns:
    ///     An awaitable of True.
    ///
    /// Raises:
    ///     AmbiguousReplyError: The awaitable raises it if the message may be the reply to another request. The callers of all requests
    ///         received get it too, as the cause of their ``KernelError``. Use `reply`.
    fn send<'py>(&self, message: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.send_as(message, None, "KernelContext.send")
    }

    /// Sends the reply to a request; waits while the output queue is full, if the message was no request.
    ///
    /// The request is named by the object that `receive` returned. Of several requests with this object, the first one is meant whose
    /// caller waits. If the caller has given up, the reply is dropped. A reply to a message that is no request, or has its reply, is an
    /// output.
    ///
    /// Args:
    ///     message: The message that was received.
    ///     reply: The reply.
    ///
    /// Returns:
    ///     An awaitable of True.
    fn reply<'py>(
        &self,
        message: &Bound<'py, PyAny>,
        reply: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.send_as(reply, Some(message), "KernelContext.reply")
    }

    /// Tells the caller of a request that there will be no reply: it gets ``NoReplyError`` at once. No effect on other messages.
    ///
    /// Args:
    ///     message: The message that was received.
    ///
    /// Returns:
    ///     An awaitable of True. The effect does not depend on whether it is awaited.
    fn skip<'py>(&self, message: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if let Ok(mailbox) = self.queues()?.output.bind(message.py()).cast::<Mailbox>() {
            mailbox.get().skip_ask(message)?;
        }
        waiter_type::done(message.py())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(queues) = self.queues.get() {
            visit.call(&queues.input)?;
            visit.call(&queues.output)?;
        }
        Ok(())
    }
}

impl ContextPort {
    /// Returns an awaitable that sends a message, as the reply to a question if one is given.
    fn send_as<'py>(
        &self,
        message: Bound<'py, PyAny>,
        question: Option<&Bound<'py, PyAny>>,
        method: &'static str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let queues = self.queues()?;
        let output = queues.output.bind(py);
        let mailbox = match output.cast::<Mailbox>() {
            Ok(mailbox) if queues.is_plain_put => mailbox,
            _ => return output.call_method1("put", (message,)),
        };
        // Without an open ask, the message is most probably an output, whose level is needed.
        let has_level = !mailbox.get().expects_replies();
        let level = match if has_level { mailbox.get().order().level_of(&message) } else { Ok(0) } {
            Ok(level) => level,
            Err(error) => return waiter_type::failed(py, method, error),
        };
        let mut state = WaiterState::new(Kind::Send, Some(message.unbind()), None);
        (state.method, state.level, state.has_level) = (method, level, has_level);
        state.asked_message = question.map(|question| question.clone().unbind());
        state.input = queues.input.bind(py).cast::<Mailbox>().ok().map(|input| input.clone().unbind());
        waiter_type::new_waiter(py, mailbox.clone().unbind(), state)
    }

    fn queues(&self) -> PyResult<&Queues> {
        self.queues.get().ok_or_else(|| {
            PyRuntimeError::new_err(
                "using a kernel context: it has no queues yet; launch the ring kernel first",
            )
        })
    }
}

fn timeout_keyword<'py>(py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyDict>> {
    let keywords = PyDict::new(py);
    keywords.set_item("timeout", timeout)?;
    Ok(keywords)
}

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
#[pyclass(frozen, subclass, weakref, module = "pydotcompute._core")]
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

    /// Sends a message to the input.
    ///
    /// Args:
    ///     message: The message.
    ///     timeout: Maximum wait for a free slot, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     An awaitable of True.
    #[pyo3(signature = (message, timeout=None))]
    fn send<'py>(&self, message: Bound<'py, PyAny>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        self.send_as(message, timeout, "RingKernel.send")
    }

    /// Takes the next message of the output.
    ///
    /// Args:
    ///     timeout: Maximum wait for a message, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     An awaitable of the message.
    #[pyo3(signature = (timeout=None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        self.receive_as(py, timeout, "RingKernel.receive")
    }

    /// Sends a message and waits for its reply.
    ///
    /// Other messages that the ring kernel sends stay queued for `receive`.
    ///
    /// Args:
    ///     message: The message.
    ///     timeout: Maximum wait for the reply, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     An awaitable of the reply.
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
#[pyclass(frozen, subclass, weakref, module = "pydotcompute._core")]
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

    /// Sends a message to the input of a ring kernel, as ``RingKernel.send``.
    ///
    /// Raises:
    ///     KernelNotFoundError: The awaitable raises it if no ring kernel has this name.
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

    /// Takes the next message of the output of a ring kernel, as ``RingKernel.receive``.
    ///
    /// Raises:
    ///     KernelNotFoundError: The awaitable raises it if no ring kernel has this name.
    #[pyo3(signature = (kernel_id, *, timeout=None))]
    fn receive<'py>(
        &self,
        kernel_id: &Bound<'py, PyString>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = kernel_id.py();
        match self.find_kernel(kernel_id) {
            Ok(kernel) => match kernel.cast::<KernelPort>() {
                Ok(port) => port.get().receive_as(py, timeout, "RingKernelRuntime.receive"),
                Err(_) => kernel.call_method1("receive", (timeout,)),
            },
            Err(error) => waiter_type::failed(py, "RingKernelRuntime.receive", error),
        }
    }

    /// Sends a message and waits for its reply, as ``RingKernel.ask``.
    ///
    /// Raises:
    ///     KernelNotFoundError: The awaitable raises it if no ring kernel has this name.
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
