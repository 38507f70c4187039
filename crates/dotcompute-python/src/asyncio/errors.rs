//! Exceptions of the package that mailboxes and ports raise.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

/// Creates an exception of `pydotcompute.exceptions`. Returns the error of creating it if that fails.
fn exception<'py, A>(py: Python<'py>, name: &str, arguments: A) -> PyErr
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
{
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let created = MODULE
        .get_or_try_init(py, || py.import("pydotcompute.exceptions").map(Bound::unbind))
        .and_then(|module| module.bind(py).getattr(name))
        .and_then(|class| class.call1(arguments.into_pyobject(py)?));
    match created {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

pub(super) fn timeout(py: Python<'_>, kernel: &str, seconds: f64, operation: &str) -> PyErr {
    exception(py, "QueueTimeoutError", (kernel, seconds, operation))
}

pub(super) fn full(py: Python<'_>, kernel: &str, capacity: usize) -> PyErr {
    exception(py, "QueueFullError", (kernel, capacity))
}

pub(super) fn state(py: Python<'_>, kernel: &str, state: &str, operation: &str) -> PyErr {
    exception(py, "KernelStateError", (kernel, state, operation))
}

/// The ring kernel terminates while it waits for a message.
pub(super) fn stopped(py: Python<'_>, kernel: &str, timeout: Option<f64>) -> PyErr {
    match timeout {
        None => exception(py, "KernelStopped", (kernel,)),
        Some(seconds) => exception(py, "KernelStoppedInTime", (kernel, seconds)),
    }
}

/// The call came from another event loop than that of the ring kernel, which does not run.
pub(super) fn event_loop(
    py: Python<'_>,
    kernel: &str,
    state: &str,
    operation: &str,
    own: &Bound<'_, PyAny>,
) -> PyErr {
    let calling = match super::task_resume::running_loop_or_none(py) {
        Ok(calling) => calling,
        Err(error) => return error,
    };
    exception(py, "EventLoopError", (kernel, state, operation, own, calling))
}

pub(super) fn not_found(py: Python<'_>, kernel: &str, available: Vec<String>) -> PyErr {
    exception(py, "KernelNotFoundError", (kernel, available))
}

pub(super) fn wrong_type(expected: &Bound<'_, PyAny>, actual: &Bound<'_, PyAny>, context: &str) -> PyErr {
    exception(expected.py(), "TypeValidationError", (expected, actual, context))
}

/// The error of a wait for a failed ring kernel: a new `KernelError` for each caller, with the failure as its cause.
///
/// If the cause is a `KernelStateError` about this ring kernel, it has ended: the result is an equal `KernelStateError`, and a
/// `KernelEndedError` for an ask.
pub(super) fn failed(py: Python<'_>, kernel: &str, cause: &Bound<'_, PyAny>, is_ask: bool) -> PyErr {
    if cause.getattr("kernel_id").and_then(|id| id.extract::<String>()).is_ok_and(|id| id == kernel)
        && let Ok(state) = cause.getattr("current_state").and_then(|state| state.extract::<String>())
        && let Ok(operation) = cause.getattr("operation").and_then(|operation| operation.extract::<String>())
    {
        return if is_ask {
            exception(py, "KernelEndedError", (kernel, state))
        } else {
            self::state(py, kernel, &state, &operation)
        };
    }
    let kind = cause.get_type().name().map_or_else(|_| "an exception".to_owned(), |name| name.to_string());
    let error = exception(py, "KernelError", (format!("Kernel '{kernel}' failed: {kind}: {cause}"),));
    error.set_cause(py, Some(PyErr::from_value(cause.clone())));
    error
}

/// The error of an ask to which there will be no reply.
pub(super) fn no_reply(py: Python<'_>, kernel: &str, reason: &str) -> PyErr {
    exception(py, "NoReplyError", (kernel, reason))
}

/// The error of a message that may be the reply to one of several asks.
pub(super) fn ambiguous_reply(py: Python<'_>, kernel: &str, open: usize) -> PyErr {
    exception(py, "AmbiguousReplyError", (kernel, open))
}

/// Ring kernels wait for each other. `kernels` are their names, the first one also last.
pub(super) fn wait_cycle(py: Python<'_>, kernel: &str, kernels: Vec<String>) -> PyErr {
    exception(py, "WaitCycleError", (kernel, kernels))
}

/// `asyncio.CancelledError`.
pub(super) fn cancelled(py: Python<'_>, message: Option<Bound<'_, PyAny>>) -> PyErr {
    static CLASS: PyOnceLock<Py<pyo3::types::PyType>> = PyOnceLock::new();
    match CLASS.import(py, "asyncio", "CancelledError") {
        Ok(class) => match message {
            Some(message) if !message.is_none() => PyErr::from_type(class.clone(), (message.unbind(),)),
            _ => PyErr::from_type(class.clone(), ()),
        },
        Err(error) => error,
    }
}
