//! `SPSCQueue` and `FastSPSCQueue`: queues between one producer thread and one consumer thread.

use dotcompute_ring::fence::Fence;
use pyo3::prelude::*;
use pyo3::types::PyType;
use pyo3::{PyTraverseError, PyVisit};

use super::errors::generic_alias;
use super::object_ring::{ObjectRing, PutResult};
use crate::arguments::Second;

/// A lock-free FIFO queue between one producer thread and one consumer thread.
///
/// Objects are passed by reference. A wait releases the GIL. It ends when the other side puts or gets, at the timeout, at ``shutdown``, or
/// with Ctrl-C. The producer may be a different thread for each call, and so may the consumer. A second thread that uses the same side at
/// the same time gets ``QueueError``, and no item is lost.
///
/// Args:
///     capacity: Maximum number of items; rounded up to a power of two.
///
/// Raises:
///     ValueError: The capacity is less than 1, or there is not enough memory.
///
/// Example:
///     >>> queue = SPSCQueue(capacity=2)
///     >>> queue.put("a"), queue.put("b"), queue.put("c", timeout=0.01)
///     (True, True, False)
///     >>> queue.get()
///     'a'
#[pyclass(name = "SPSCQueue", module = "pydotcompute.ring_kernels.sync_queue", frozen, subclass)]
pub(crate) struct SpscQueue {
    ring: ObjectRing,
}

#[pymethods]
impl SpscQueue {
    #[new]
    #[pyo3(signature = (capacity = 4096))]
    fn new(capacity: isize) -> PyResult<Self> {
        Ok(Self { ring: ObjectRing::new(capacity, Fence::Symmetric)? })
    }

    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        generic_alias(class, item)
    }

    /// Maximum number of items.
    #[getter]
    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Current number of items.
    #[getter]
    fn size(&self, py: Python<'_>) -> PyResult<usize> {
        self.ring.check_process(py)?;
        Ok(self.ring.len())
    }

    /// Whether the queue is currently empty.
    #[getter]
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.size(py)? == 0)
    }

    /// Whether the queue is currently full.
    #[getter]
    fn full(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.size(py)? == self.ring.capacity())
    }

    /// Puts an item, waiting for a free slot.
    ///
    /// Args:
    ///     item: Any object. It is handed over, not copied: neither side changes it afterwards.
    ///     timeout: Maximum wait, in seconds. 0 or less does not wait, None waits without limit.
    ///
    /// Returns:
    ///     Whether the item was put. False at the timeout, and if the queue was shut down.
    ///
    /// Raises:
    ///     QueueError: Another thread is in a put.
    #[pyo3(signature = (item, timeout = None))]
    fn put(&self, py: Python<'_>, item: Py<PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        Ok(self.ring.put(py, item, timeout)? == PutResult::Done)
    }

    /// Takes the oldest item, waiting until there is one.
    ///
    /// Args:
    ///     timeout: Maximum wait, in seconds. 0 or less does not wait, None waits without limit.
    ///
    /// Returns:
    ///     The item. None at the timeout, and if the queue was shut down and is empty.
    ///
    /// Raises:
    ///     QueueError: Another thread is in a get.
    #[pyo3(signature = (timeout = None))]
    fn get(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get(py, timeout)
    }

    /// Puts an item without waiting. If the queue is full, releases the GIL for a microsecond and tries again.
    ///
    /// Args:
    ///     item: Any object. It is handed over, not copied: neither side changes it afterwards.
    ///
    /// Returns:
    ///     Whether the item was put. False also if the queue was shut down.
    ///
    /// Raises:
    ///     QueueError: Another thread is in a put.
    #[pyo3(signature = (item, second = Second::Absent), text_signature = "($self, item)")]
    fn put_nowait(&self, py: Python<'_>, item: Py<PyAny>, second: Second) -> PyResult<bool> {
        second.reject("SPSCQueue.put_nowait")?;
        Ok(self.ring.put_now(py, item)? == PutResult::Done)
    }

    /// Takes the oldest item without waiting. If the queue is empty, releases the GIL for a microsecond and tries again.
    ///
    /// Returns:
    ///     The item, or None if the queue is empty.
    ///
    /// Raises:
    ///     QueueError: Another thread is in a get.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get_now(py)
    }

    /// Discards all items.
    ///
    /// Returns:
    ///     Number of items discarded.
    ///
    /// Raises:
    ///     QueueError: Another thread is in a get.
    fn clear(&self, py: Python<'_>) -> PyResult<usize> {
        self.ring.check_process(py)?;
        Ok(self.ring.drain()?.len())
    }

    /// Rejects puts from now on and wakes all waiting threads. Items in the queue can still be taken.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        self.ring.check_process(py)?;
        self.ring.shutdown();
        Ok(())
    }

    /// Makes puts return at once if the queue is full, including waiting ones. Called when a ring kernel stops.
    fn _stop_blocking_puts(&self, py: Python<'_>) -> PyResult<()> {
        self.ring.check_process(py)?;
        self.ring.stop_blocking_puts();
        Ok(())
    }

    /// Pauses gets, or ends the pause. Called when a ring kernel is deactivated or reactivated.
    fn _set_paused(&self, py: Python<'_>, paused: bool) -> PyResult<()> {
        self.ring.check_process(py)?;
        self.ring.set_paused(paused);
        Ok(())
    }

    /// Takes all items, oldest first. Called to collect dead letters.
    fn _drain(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.ring.check_process(py)?;
        self.ring.drain()
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.size(py)
    }

    fn __repr__(&self) -> String {
        if self.ring.is_inherited() {
            return "SPSCQueue(of the parent process)".to_owned();
        }
        format!("SPSCQueue(size={}/{})", self.ring.len(), self.ring.capacity())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.ring.traverse(&visit)
    }

    fn __clear__(&self) {
        drop(self.ring.drain());
    }
}

/// An `SPSCQueue` optimized for calls that do not wait: the fastest queue of Python objects in this package.
///
/// A put or get has no full fence, and parking costs one more system call than in ``SPSCQueue``. Use this class if both sides are busy,
/// ``SPSCQueue`` if one side usually waits, ``SyncQueue`` for several threads on a side, and ``SharedQueue``
/// (``pydotcompute.ring_kernels.shared_queue``) between processes.
///
/// Args:
///     capacity: Maximum number of items; rounded up to a power of two.
///
/// Raises:
///     ValueError: The capacity is less than 1, or there is not enough memory.
///
/// Example:
///     >>> queue = FastSPSCQueue(2)
///     >>> queue.put("a"), queue.get(), queue.get()
///     (True, 'a', None)
#[pyclass(name = "FastSPSCQueue", module = "pydotcompute.ring_kernels._cython", frozen, subclass)]
pub(crate) struct FastSpscQueue {
    ring: ObjectRing,
}

#[pymethods]
impl FastSpscQueue {
    #[new]
    #[pyo3(signature = (capacity = 4096))]
    fn new(capacity: isize) -> PyResult<Self> {
        Ok(Self { ring: ObjectRing::new(capacity, Fence::Asymmetric)? })
    }

    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        generic_alias(class, item)
    }

    /// Maximum number of items.
    #[getter]
    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Current number of items.
    #[getter]
    fn size(&self, py: Python<'_>) -> PyResult<usize> {
        self.ring.check_process(py)?;
        Ok(self.ring.len())
    }

    /// Whether the queue is currently empty.
    #[getter]
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.size(py)? == 0)
    }

    /// Whether the queue is currently full.
    #[getter]
    fn full(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.size(py)? == self.ring.capacity())
    }

    /// Puts an item without waiting. If the queue is full, releases the GIL for a microsecond and tries again.
    ///
    /// Args:
    ///     item: Any object. It is handed over, not copied: neither side changes it afterwards.
    ///
    /// Returns:
    ///     Whether the item was put. False also if the queue was shut down.
    ///
    /// Raises:
    ///     QueueError: Another thread is in a put.
    #[pyo3(signature = (item, second = Second::Absent), text_signature = "($self, item)")]
    fn put(&self, py: Python<'_>, item: Py<PyAny>, second: Second) -> PyResult<bool> {
        second.reject("FastSPSCQueue.put")?;
        Ok(self.ring.put_now(py, item)? == PutResult::Done)
    }

    /// Takes the oldest item without waiting. If the queue is empty, releases the GIL for a microsecond and tries again.
    ///
    /// Returns:
    ///     The item, or None if the queue is empty.
    ///
    /// Raises:
    ///     QueueError: Another thread is in a get.
    fn get(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get_now(py)
    }

    /// Puts an item, waiting for a free slot.
    ///
    /// Args:
    ///     item: Any object. It is handed over, not copied: neither side changes it afterwards.
    ///     timeout_sec: Maximum wait, in seconds. 0 or less does not wait.
    ///
    /// Returns:
    ///     Whether the item was put. False at the timeout, and if the queue was shut down.
    ///
    /// Raises:
    ///     QueueError: Another thread is in a put.
    #[pyo3(signature = (item, timeout_sec = 1.0))]
    fn put_wait(&self, py: Python<'_>, item: Py<PyAny>, timeout_sec: f64) -> PyResult<bool> {
        Ok(self.ring.put(py, item, Some(timeout_sec))? == PutResult::Done)
    }

    /// Takes the oldest item, waiting until there is one.
    ///
    /// Args:
    ///     timeout_sec: Maximum wait, in seconds. 0 or less does not wait.
    ///
    /// Returns:
    ///     The item. None at the timeout, and if the queue was shut down and is empty.
    ///
    /// Raises:
    ///     QueueError: Another thread is in a get.
    #[pyo3(signature = (timeout_sec = 1.0))]
    fn get_wait(&self, py: Python<'_>, timeout_sec: f64) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get(py, Some(timeout_sec))
    }

    /// Discards all items.
    ///
    /// Raises:
    ///     QueueError: Another thread is in a get.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        self.ring.check_process(py)?;
        self.ring.drain().map(drop)
    }

    /// Rejects puts from now on and wakes all waiting threads. Items in the queue can still be taken.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        self.ring.check_process(py)?;
        self.ring.shutdown();
        Ok(())
    }

    /// Makes puts return at once if the queue is full, including waiting ones. Called when a ring kernel stops.
    fn _stop_blocking_puts(&self, py: Python<'_>) -> PyResult<()> {
        self.ring.check_process(py)?;
        self.ring.stop_blocking_puts();
        Ok(())
    }

    /// Pauses gets, or ends the pause. Called when a ring kernel is deactivated or reactivated.
    fn _set_paused(&self, py: Python<'_>, paused: bool) -> PyResult<()> {
        self.ring.check_process(py)?;
        self.ring.set_paused(paused);
        Ok(())
    }

    /// Takes all items, oldest first. Called to collect dead letters.
    fn _drain(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.ring.check_process(py)?;
        self.ring.drain()
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.size(py)
    }

    fn __repr__(&self) -> String {
        if self.ring.is_inherited() {
            return "FastSPSCQueue(of the parent process)".to_owned();
        }
        format!("FastSPSCQueue(size={}/{})", self.ring.len(), self.ring.capacity())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.ring.traverse(&visit)
    }

    fn __clear__(&self) {
        drop(self.ring.drain());
    }
}
