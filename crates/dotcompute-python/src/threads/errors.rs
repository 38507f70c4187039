//! The exceptions of `pydotcompute.exceptions` that queues raise.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// An exception of that name, made of `args`; or the one that making it raised.
fn exception<A>(py: Python<'_>, class: &PyOnceLock<Py<PyType>>, name: &str, args: A) -> PyErr
where
    A: for<'py> pyo3::call::PyCallArgs<'py>,
{
    let made = class.import(py, "pydotcompute.exceptions", name).and_then(|class| class.call1(args));
    made.map_or_else(|error| error, PyErr::from_value)
}

/// There is no room in a queue of `size`.
pub(super) fn queue_full(py: Python<'_>, queue: &str, size: isize) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "QueueFullError", (queue, size))
}

/// The time was over.
pub(super) fn queue_timeout(py: Python<'_>, queue: &str, timeout: f64, operation: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "QueueTimeoutError", (queue, timeout, operation))
}

/// Two threads at one end of a queue that is for one.
#[cold]
pub(super) fn end_in_use(side: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    Python::attach(|py| {
        let message = format!(
            "Cannot use the {side}'s end of this queue while another thread is using it: the queue is for one producer and one consumer \
             at a time, and nothing was put in or taken out; use a SyncQueue for more of them"
        );
        exception(py, &CLASS, "QueueError", (message,))
    })
}

/// `class[item]`, for annotations.
pub(super) fn generic_alias(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let alias = CLASS.import(class.py(), "types", "GenericAlias")?;
    Ok(alias.call1((class, item))?.unbind())
}
