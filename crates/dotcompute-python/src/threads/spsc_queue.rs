//! `SPSCQueue` and `FastSPSCQueue`: one thread puts, one thread gets.

use dotcompute_ring::fence::Fence;
use pyo3::prelude::*;
use pyo3::types::PyType;
use pyo3::{PyTraverseError, PyVisit};

use super::errors::generic_alias;
use super::object_ring::{ObjectRing, Put};

/// A first in, first out queue between one producer thread and one consumer thread, without locks.
///
/// Objects pass as they are. Waiting happens without the interpreter's lock and ends when the other side puts or takes, at the timeout,
/// at `shutdown`, or by Ctrl-C. Which thread is the producer may change, and so may the consumer; a second one at the same time is
/// refused by `QueueError`, and nothing is lost.
///
/// Args:
///     capacity: How many items it holds at the most; rounded up to a power of two.
///
/// Raises:
///     ValueError: The capacity is less than 1, or more than there is memory for.
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

    /// Items that it has room for.
    #[getter]
    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Items in the queue this moment.
    #[getter]
    fn size(&self) -> usize {
        self.ring.len()
    }

    /// Whether there is nothing in the queue this moment.
    #[getter]
    fn empty(&self) -> bool {
        self.ring.len() == 0
    }

    /// Whether there is no room this moment.
    #[getter]
    fn full(&self) -> bool {
        self.ring.len() == self.ring.capacity()
    }

    /// Puts an item in, waiting for room.
    ///
    /// Args:
    ///     item: Any object.
    ///     timeout: How long to wait, in seconds; 0 or less does not wait, None waits for ever.
    ///
    /// Returns:
    ///     Whether the item was put in. False at the timeout, and if the queue has been shut down.
    ///
    /// Raises:
    ///     QueueError: Another thread is putting.
    #[pyo3(signature = (item, timeout = None))]
    fn put(&self, py: Python<'_>, item: Py<PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        Ok(self.ring.put(py, item, timeout)? == Put::Done)
    }

    /// Takes the oldest item, waiting for one.
    ///
    /// Args:
    ///     timeout: How long to wait, in seconds; 0 or less does not wait, None waits for ever.
    ///
    /// Returns:
    ///     The item. None at the timeout, and if the queue has been shut down and is empty.
    ///
    /// Raises:
    ///     QueueError: Another thread is getting.
    #[pyo3(signature = (timeout = None))]
    fn get(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get(py, timeout)
    }

    /// Puts an item in if there is room. Where there is none, the consumer gets a microsecond to make some.
    ///
    /// Returns:
    ///     Whether the item was put in. False also if the queue has been shut down.
    ///
    /// Raises:
    ///     QueueError: Another thread is putting.
    fn put_nowait(&self, py: Python<'_>, item: Py<PyAny>) -> PyResult<bool> {
        Ok(self.ring.put_now(py, item)? == Put::Done)
    }

    /// Takes the oldest item if there is one. Where there is none, the producer gets a microsecond to put one in.
    ///
    /// Returns:
    ///     The item, or None.
    ///
    /// Raises:
    ///     QueueError: Another thread is getting.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get_now(py)
    }

    /// Drops all items.
    ///
    /// Returns:
    ///     How many there were.
    ///
    /// Raises:
    ///     QueueError: Another thread is getting.
    fn clear(&self) -> PyResult<usize> {
        Ok(self.ring.drain()?.len())
    }

    /// Refuses what comes from now on and wakes everybody who waits. What is in the queue can still be taken.
    fn shutdown(&self) {
        self.ring.shutdown();
    }

    /// For a ring kernel that stops: what it sends is still taken while there is room, but it is not kept waiting for room.
    fn _stop_blocking_puts(&self) {
        self.ring.hurry();
    }

    /// Takes everything out, for a ring kernel's dead letters.
    fn _drain(&self) -> PyResult<Vec<Py<PyAny>>> {
        self.ring.drain()
    }

    fn __len__(&self) -> usize {
        self.ring.len()
    }

    fn __repr__(&self) -> String {
        format!("SPSCQueue(size={}/{})", self.ring.len(), self.ring.capacity())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.ring.traverse(&visit)
    }

    fn __clear__(&self) {
        drop(self.ring.drain());
    }
}

/// As `SPSCQueue`, where most calls need not wait: the fastest queue of Python objects here.
///
/// Publishing costs next to nothing, and going to sleep a system call more than in `SPSCQueue`: so use this where both sides are busy,
/// `SPSCQueue` where one usually sleeps, `SyncQueue` for more than one thread on a side, and `SharedQueue`
/// (`pydotcompute.ring_kernels.shared_queue`) between processes.
///
/// Args:
///     capacity: How many items it holds at the most; rounded up to a power of two.
///
/// Raises:
///     ValueError: The capacity is less than 1, or more than there is memory for.
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

    /// Items that it has room for.
    #[getter]
    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    /// Items in the queue this moment.
    #[getter]
    fn size(&self) -> usize {
        self.ring.len()
    }

    /// Whether there is nothing in the queue this moment.
    #[getter]
    fn empty(&self) -> bool {
        self.ring.len() == 0
    }

    /// Whether there is no room this moment.
    #[getter]
    fn full(&self) -> bool {
        self.ring.len() == self.ring.capacity()
    }

    /// Puts an item in if there is room. Where there is none, the consumer gets a microsecond to make some.
    ///
    /// Returns:
    ///     Whether the item was put in. False also if the queue has been shut down.
    ///
    /// Raises:
    ///     QueueError: Another thread is putting.
    fn put(&self, py: Python<'_>, item: Py<PyAny>) -> PyResult<bool> {
        Ok(self.ring.put_now(py, item)? == Put::Done)
    }

    /// Takes the oldest item if there is one. Where there is none, the producer gets a microsecond to put one in.
    ///
    /// Returns:
    ///     The item, or None.
    ///
    /// Raises:
    ///     QueueError: Another thread is getting.
    fn get(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get_now(py)
    }

    /// Puts an item in, waiting for room.
    ///
    /// Args:
    ///     item: Any object.
    ///     timeout_sec: How long to wait, in seconds; 0 or less does not wait.
    ///
    /// Returns:
    ///     Whether the item was put in. False at the timeout, and if the queue has been shut down.
    ///
    /// Raises:
    ///     QueueError: Another thread is putting.
    #[pyo3(signature = (item, timeout_sec = 1.0))]
    fn put_wait(&self, py: Python<'_>, item: Py<PyAny>, timeout_sec: f64) -> PyResult<bool> {
        Ok(self.ring.put(py, item, Some(timeout_sec))? == Put::Done)
    }

    /// Takes the oldest item, waiting for one.
    ///
    /// Args:
    ///     timeout_sec: How long to wait, in seconds; 0 or less does not wait.
    ///
    /// Returns:
    ///     The item. None at the timeout, and if the queue has been shut down and is empty.
    ///
    /// Raises:
    ///     QueueError: Another thread is getting.
    #[pyo3(signature = (timeout_sec = 1.0))]
    fn get_wait(&self, py: Python<'_>, timeout_sec: f64) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get(py, Some(timeout_sec))
    }

    /// Drops all items.
    ///
    /// Raises:
    ///     QueueError: Another thread is getting.
    fn clear(&self) -> PyResult<()> {
        self.ring.drain().map(drop)
    }

    /// Refuses what comes from now on and wakes everybody who waits. What is in the queue can still be taken.
    fn shutdown(&self) {
        self.ring.shutdown();
    }

    /// As `SPSCQueue._stop_blocking_puts`.
    fn _stop_blocking_puts(&self) {
        self.ring.hurry();
    }

    /// As `SPSCQueue._drain`.
    fn _drain(&self) -> PyResult<Vec<Py<PyAny>>> {
        self.ring.drain()
    }

    fn __len__(&self) -> usize {
        self.ring.len()
    }

    fn __repr__(&self) -> String {
        format!("FastSPSCQueue(size={}/{})", self.ring.len(), self.ring.capacity())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.ring.traverse(&visit)
    }

    fn __clear__(&self) {
        drop(self.ring.drain());
    }
}
