//! The package's exceptions, as seen from here.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyTuple;

/// An exception of `pydotcompute.exceptions`, made of its arguments; or what went wrong in making it.
fn make<'py, A>(py: Python<'py>, name: &str, arguments: A) -> PyErr
where
    A: IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
{
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let made = MODULE
        .get_or_try_init(py, || py.import("pydotcompute.exceptions").map(Bound::unbind))
        .and_then(|module| module.bind(py).getattr(name))
        .and_then(|class| class.call1(arguments.into_pyobject(py)?));
    match made {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

pub(super) fn timeout(py: Python<'_>, kernel: &str, seconds: f64, operation: &str) -> PyErr {
    make(py, "QueueTimeoutError", (kernel, seconds, operation))
}

pub(super) fn full(py: Python<'_>, kernel: &str, capacity: usize) -> PyErr {
    make(py, "QueueFullError", (kernel, capacity))
}

pub(super) fn state(py: Python<'_>, kernel: &str, state: &str, operation: &str) -> PyErr {
    make(py, "KernelStateError", (kernel, state, operation))
}

pub(super) fn not_found(py: Python<'_>, kernel: &str, available: Vec<String>) -> PyErr {
    make(py, "KernelNotFoundError", (kernel, available))
}

pub(super) fn wrong_type(expected: &Bound<'_, PyAny>, actual: &Bound<'_, PyAny>, context: &str) -> PyErr {
    make(expected.py(), "TypeValidationError", (expected, actual, context))
}

/// What whoever waits for a ring kernel gets once it has failed: a new error each time, with the ring kernel's own as its cause.
///
/// A cause that is an error about this ring kernel's state is that error itself.
pub(super) fn failed(py: Python<'_>, kernel: &str, cause: &Bound<'_, PyAny>) -> PyErr {
    if cause.getattr("kernel_id").and_then(|id| id.extract::<String>()).is_ok_and(|id| id == kernel)
        && let Ok(state) = cause.getattr("current_state").and_then(|state| state.extract::<String>())
        && let Ok(operation) = cause.getattr("operation").and_then(|operation| operation.extract::<String>())
    {
        return self::state(py, kernel, &state, &operation);
    }
    let kind = cause.get_type().name().map_or_else(|_| "an exception".to_owned(), |name| name.to_string());
    let error = make(py, "KernelError", (format!("Kernel '{kernel}' failed: {kind}: {cause}"),));
    error.set_cause(py, Some(PyErr::from_value(cause.clone())));
    error
}

/// What an asker gets whose message will not be handled.
pub(super) fn unanswered(py: Python<'_>, kernel: &str, why: &str) -> PyErr {
    make(py, "KernelError", (format!("Kernel '{kernel}' will not answer: {why}"),))
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
