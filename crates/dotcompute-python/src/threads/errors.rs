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
pub(crate) fn queue_full(py: Python<'_>, queue: &str, size: isize) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "QueueFullError", (queue, size))
}

/// The time was over.
pub(crate) fn queue_timeout(py: Python<'_>, queue: &str, timeout: f64, operation: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "QueueTimeoutError", (queue, timeout, operation))
}

/// Something else is wrong with a queue.
#[cold]
pub(crate) fn queue_error(py: Python<'_>, message: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "QueueError", (message,))
}

/// The queue has been closed.
#[cold]
pub(crate) fn queue_closed(py: Python<'_>, message: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "QueueClosedError", (message,))
}

/// The process at the other end has ended without closing the queue.
#[cold]
pub(crate) fn peer_died(py: Python<'_>, queue: &str, pid: u32, side: &str) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    exception(py, &CLASS, "PeerDiedError", (queue, pid, side))
}

/// A message has more bytes than a slot.
#[cold]
pub(crate) fn message_too_large(py: Python<'_>, queue: &str, bytes: usize, slot_size: usize) -> PyErr {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let message = format!(
        "Cannot put a message of {bytes} bytes into queue '{queue}', whose slots have room for {slot_size}; nothing was put in: create the \
         queue with slot_size={bytes} or more, or pass large data by handle"
    );
    exception(py, &CLASS, "MessageError", (message,))
}

/// Two threads at one end of a queue that is for one.
#[cold]
pub(crate) fn end_in_use(side: &str) -> PyErr {
    let message = format!(
        "Cannot use the {side}'s end of this queue while another thread is using it: the queue is for one producer and one consumer \
         at a time, and nothing was put in or taken out; use a SyncQueue for more of them"
    );
    Python::attach(|py| queue_error(py, &message))
}

/// `class[item]`, for annotations.
pub(crate) fn generic_alias(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let alias = CLASS.import(class.py(), "types", "GenericAlias")?;
    Ok(alias.call1((class, item))?.unbind())
}
