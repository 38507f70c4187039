//! The exceptions of `pydotcompute.exceptions` that queues raise.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// Creates an exception of the package. Returns the error of creating it if that fails.
fn exception<A>(py: Python<'_>, class: &PyOnceLock<Py<PyType>>, name: &str, args: A) -> PyErr
where
    A: for<'py> pyo3::call::PyCallArgs<'py>,
{
    let created = class.import(py, "pydotcompute.exceptions", name).and_then(|class| class.call1(args));
    created.map_or_else(|error| error, PyErr::from_value)
}

/// A queue with this capacity is full.
pub(crate) fn queue_full(py: Python<'_>, queue: &str, capacity: isize) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "QueueFullError", (queue, capacity))
}

/// The deadline has passed.
pub(crate) fn queue_timeout(py: Python<'_>, queue: &str, timeout: f64, operation: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "QueueTimeoutError", (queue, timeout, operation))
}

/// An error of a queue without a class of its own.
#[cold]
pub(crate) fn queue_error(py: Python<'_>, message: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "QueueError", (message,))
}

/// The queue was closed.
#[cold]
pub(crate) fn queue_closed(py: Python<'_>, message: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "QueueClosedError", (message,))
}

/// The other process ended without closing the queue.
#[cold]
pub(crate) fn peer_died(py: Python<'_>, queue: &str, pid: u32, side: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "PeerDiedError", (queue, pid, side))
}

/// A message is larger than a slot.
#[cold]
pub(crate) fn message_too_large(py: Python<'_>, queue: &str, bytes: usize, slot_size: usize) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let message = format!(
        "Cannot put a message of {bytes} bytes into queue '{queue}', whose slots hold {slot_size}; the message was not put: create the \
         queue with slot_size={bytes} or more, or pass large data by handle"
    );
    exception(py, &CLASS, "MessageError", (message,))
}

/// Two threads use the same endpoint of an SPSC queue.
#[cold]
pub(crate) fn end_in_use(side: &str) -> PyErr {
    let message = format!(
        "Cannot use the {side}'s end of this queue while another thread is using it: the queue is for one producer and one consumer \
         at a time, and no message was put or taken; use a SyncQueue for more threads"
    );
    Python::attach(|py| queue_error(py, &message))
}

/// `class[item]`, for type annotations.
pub(crate) fn generic_alias(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let alias = CLASS.import(class.py(), "types", "GenericAlias")?;
    Ok(alias.call1((class, item))?.unbind())
}
