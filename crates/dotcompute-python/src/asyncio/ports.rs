//! The ends of a ring kernel: its own (`receive`, `send`), its users' (tell, ask, receive), and the runtime's, by name.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{OnceLock, PoisonError, RwLock};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyDict, PyString};
use pyo3::{ffi, intern};

use super::errors;
use super::mailbox_state::{Effects, Entry};
use super::mailbox::{Mailbox, level};
use super::waiter::{self, Kind, State, Status};

/// What a ring kernel reads from and writes to.
struct Queues {
    input: Py<PyAny>,
    output: Py<PyAny>,
    /// Whether they are mailboxes that get and put as mailboxes do.
    plain_get: bool,
    plain_put: bool,
}

/// Whether a queue's method is the mailbox's: it may be a queue of the user's own, or one that was given a method of its own.
fn is_plain(queue: &Bound<'_, PyAny>, method: &str) -> PyResult<bool> {
    let py = queue.py();
    if !queue.is_instance_of::<Mailbox>() {
        return Ok(false);
    }
    let own = queue.getattr_opt(intern!(py, "__dict__"))?;
    Ok(queue.get_type().getattr(method)?.is(py.get_type::<Mailbox>().getattr(method)?)
        && !own.map_or(Ok(false), |own| own.contains(method))?)
}

/// What a ring kernel sees of itself. `KernelContext` derives from it.
#[pyclass(frozen, subclass, module = "pydotcompute._core")]
pub(crate) struct ContextPort {
    queues: OnceLock<Queues>,
    ends: AtomicBool,
}

#[pymethods]
impl ContextPort {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        ContextPort { queues: OnceLock::new(), ends: AtomicBool::new(false) }
    }

    fn _bind(&self, input: &Bound<'_, PyAny>, output: &Bound<'_, PyAny>) -> PyResult<()> {
        let (plain_get, plain_put) = (is_plain(input, "get")?, is_plain(output, "put")?);
        let (input, output) = (input.clone().unbind(), output.clone().unbind());
        self.queues
            .set(Queues { input, output, plain_get, plain_put })
            .map_err(|_| PyRuntimeError::new_err("a context has its queues for life"))
    }

    fn _request_stop(&self) {
        self.ends.store(true, Relaxed);
    }

    #[getter]
    fn should_terminate(&self) -> bool {
        self.ends.load(Relaxed)
    }

    #[pyo3(signature = (timeout=None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let queues = self.queues()?;
        let input = queues.input.bind(py);
        match input.cast::<Mailbox>() {
            Ok(mailbox) if queues.plain_get => Mailbox::get_for(mailbox, timeout),
            _ => input.call_method("get", (), Some(&keyword(py, timeout)?)),
        }
    }

    fn send<'py>(&self, message: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let queues = self.queues()?;
        let output = queues.output.bind(py);
        let mailbox = match output.cast::<Mailbox>() {
            Ok(mailbox) if queues.plain_put => mailbox,
            _ => return output.call_method1("put", (message,)),
        };
        let mut effects = Effects::default();
        let own = if mailbox.get().expects_answers() {
            mailbox.get().answer(py, message.unbind(), &mut effects)?
        } else {
            Some(message.unbind())
        };
        match own {
            Some(message) => Mailbox::put_for(mailbox, message.into_bound(py), None, None),
            None => {
                mailbox.get().settle(py, effects)?;
                waiter::done(py)
            }
        }
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
    fn queues(&self) -> PyResult<&Queues> {
        self.queues.get().ok_or_else(|| PyRuntimeError::new_err("this context has no queues yet"))
    }
}

fn keyword<'py>(py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyDict>> {
    let keywords = PyDict::new(py);
    keywords.set_item("timeout", timeout)?;
    Ok(keywords)
}

/// States, numbered as `KernelState` of Python.
const ACTIVE: u8 = 3;
const DEACTIVATED: u8 = 4;
const FAILED: u8 = 7;
const NAMES: [&str; 8] =
    ["", "CREATED", "LAUNCHED", "ACTIVE", "DEACTIVATED", "TERMINATING", "TERMINATED", "FAILED"];

struct Ends {
    kernel: String,
    input: Py<Mailbox>,
    output: Py<Mailbox>,
    input_type: Option<Py<PyAny>>,
}

/// What users have of a ring kernel. `RingKernel` derives from it.
#[pyclass(frozen, subclass, weakref, module = "pydotcompute._core")]
pub(crate) struct KernelPort {
    ends: RwLock<Option<std::sync::Arc<Ends>>>,
    state: AtomicU8,
}

#[pymethods]
impl KernelPort {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        KernelPort { ends: RwLock::new(None), state: AtomicU8::new(1) }
    }

    fn _bind(&self, kernel: String, input: Py<Mailbox>, output: Py<Mailbox>, input_type: Option<Py<PyAny>>) {
        let ends = std::sync::Arc::new(Ends { kernel, input, output, input_type });
        let old = self.ends.write().unwrap_or_else(PoisonError::into_inner).replace(ends);
        drop(old);
    }

    #[getter]
    fn _state_number(&self) -> u8 {
        self.state.load(Relaxed)
    }

    fn _set_state(&self, state: u8) {
        self.state.store(state, Relaxed);
    }

    #[pyo3(signature = (message, timeout=None))]
    fn send<'py>(&self, message: Bound<'py, PyAny>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        match self.admit(&message, "send message to") {
            Ok(ends) => Mailbox::put_for(ends.input.bind(py), message, timeout, None),
            Err(error) => waiter::ready(py, Err(error)),
        }
    }

    #[pyo3(signature = (timeout=None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        match self.running(py, "receive message from", true) {
            Ok(ends) => Mailbox::get_for(ends.output.bind(py), timeout),
            Err(error) => waiter::ready(py, Err(error)),
        }
    }

    /// Sends a message and waits for its answer.
    ///
    /// An answer that carries a correlation id goes to whoever asked the message of that id. One without goes to the oldest question that
    /// the ring kernel has taken. What the ring kernel sends otherwise stays for `receive`.
    #[pyo3(signature = (message, timeout=None))]
    fn ask<'py>(
        slf: &Bound<'py, Self>,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let ends = match slf.get().admit(&message, "ask") {
            Ok(ends) => ends,
            Err(error) => return waiter::ready(py, Err(error)),
        };
        let order = ends.input.get().order();
        let level = match level(order, &message) {
            Ok(level) => level,
            Err(error) => return waiter::ready(py, Err(error)),
        };
        let answer = expect(&ends, &message, timeout)?;
        let entry =
            Entry { message: message.clone().unbind(), level, since: 0, ask: Some(answer.clone().unbind()) };
        let mut effects = Effects::default();
        let refused = ends.input.get().offer(py, entry, &mut effects);
        ends.input.get().settle(py, effects)?;
        match refused {
            Ok(()) => Ok(answer),
            Err(entry) => {
                let room = Mailbox::put_for(ends.input.bind(py), message, timeout, entry.ask)?;
                py.import("pydotcompute.ring_kernels.lifecycle")?
                    .call_method1("_ask_after_put", (room, answer))
            }
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Ok(ends) = self.ends.try_read()
            && let Some(ends) = ends.as_ref()
        {
            visit.call(&ends.input)?;
            visit.call(&ends.output)?;
            visit.call(&ends.input_type)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let old = self.ends.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(old);
    }
}

/// A waiter for the answer to a message that is about to be sent.
fn expect<'py>(
    ends: &Ends,
    message: &Bound<'py, PyAny>,
    timeout: Option<f64>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = message.py();
    let mut state = State::new(Kind::Ask, None, timeout);
    state.status = Status::Expecting;
    state.asked = Some(message.clone().unbind());
    let answer = waiter::at(py, ends.output.clone_ref(py), state)?;
    ends.output.get().lock().asks_sent.push_back(answer.clone().unbind());
    Ok(answer)
}

impl KernelPort {
    /// The ends of a ring kernel that runs, or what to tell who wanted something of it.
    fn running(&self, py: Python<'_>, operation: &str, failed_too: bool) -> PyResult<std::sync::Arc<Ends>> {
        let state = self.state.load(Relaxed);
        let ends = self.ends.read().unwrap_or_else(PoisonError::into_inner).clone();
        match (ends, state) {
            (Some(ends), ACTIVE | DEACTIVATED) => Ok(ends),
            // What it sent before it failed can be received, and then the reason.
            (Some(ends), FAILED) if failed_too => Ok(ends),
            (ends, state) => {
                let kernel = ends.map(|ends| ends.kernel.clone()).unwrap_or_default();
                Err(errors::state(py, &kernel, NAMES.get(usize::from(state)).unwrap_or(&"?"), operation))
            }
        }
    }

    /// Checks that a message may be sent.
    fn admit(&self, message: &Bound<'_, PyAny>, operation: &str) -> PyResult<std::sync::Arc<Ends>> {
        let py = message.py();
        let ends = self.running(py, operation, false)?;
        if let Some(expected) = &ends.input_type {
            let actual = message.get_type();
            if !actual.is(expected) && !message.is_instance(expected.bind(py))? {
                let context = format!("the input of kernel '{}'", ends.kernel);
                return Err(errors::wrong_type(expected.bind(py), actual.as_any(), &context));
            }
        }
        Ok(ends)
    }
}

/// What users have of all ring kernels. `RingKernelRuntime` derives from it.
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

    #[pyo3(signature = (kernel_id, message, *, timeout=None))]
    fn send<'py>(
        &self,
        kernel_id: &Bound<'py, PyString>,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.find(kernel_id) {
            Ok(kernel) => match kernel.cast::<KernelPort>() {
                Ok(port) => port.get().send(message, timeout),
                Err(_) => kernel.call_method1("send", (message, timeout)),
            },
            Err(error) => waiter::ready(kernel_id.py(), Err(error)),
        }
    }

    #[pyo3(signature = (kernel_id, *, timeout=None))]
    fn receive<'py>(
        &self,
        kernel_id: &Bound<'py, PyString>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = kernel_id.py();
        match self.find(kernel_id) {
            Ok(kernel) => match kernel.cast::<KernelPort>() {
                Ok(port) => port.get().receive(py, timeout),
                Err(_) => kernel.call_method1("receive", (timeout,)),
            },
            Err(error) => waiter::ready(py, Err(error)),
        }
    }

    #[pyo3(signature = (kernel_id, message, *, timeout=None))]
    fn send_and_receive<'py>(
        &self,
        kernel_id: &Bound<'py, PyString>,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        match self.find(kernel_id) {
            Ok(kernel) => match kernel.cast::<KernelPort>() {
                Ok(port) => KernelPort::ask(port, message, timeout),
                Err(_) => kernel.call_method1("ask", (message, timeout)),
            },
            Err(error) => waiter::ready(kernel_id.py(), Err(error)),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.kernels)
    }
}

impl RuntimePort {
    fn find<'py>(&self, kernel_id: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        let py = kernel_id.py();
        let kernels = self.kernels.bind(py);
        // SAFETY: both are live; the reference is borrowed from the dictionary, null where there is no such key, with or without an error.
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
