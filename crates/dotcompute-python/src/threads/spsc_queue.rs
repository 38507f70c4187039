//! `SPSCQueue` and `FastSPSCQueue`: one thread puts, one thread gets.

use dotcompute_ring::fence::Fence;
use pyo3::prelude::*;
use pyo3::types::PyType;
use pyo3::{PyTraverseError, PyVisit};

use super::errors::generic_alias;
use super::object_ring::{ObjectRing, Put};
use super::waiting::deadline;

/// A bounded queue between one producer thread and one consumer thread.
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

    #[getter]
    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    #[getter]
    fn size(&self) -> usize {
        self.ring.len()
    }

    #[getter]
    fn empty(&self) -> bool {
        self.ring.len() == 0
    }

    #[getter]
    fn full(&self) -> bool {
        self.ring.len() == self.ring.capacity()
    }

    #[pyo3(signature = (item, timeout = None))]
    fn put(&self, py: Python<'_>, item: Py<PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        Ok(self.ring.put(py, item, deadline(timeout)?)? == Put::Done)
    }

    #[pyo3(signature = (timeout = None))]
    fn get(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get(py, deadline(timeout)?)
    }

    fn put_nowait(&self, item: Py<PyAny>) -> PyResult<bool> {
        Ok(self.ring.put_now(item)? == Put::Done)
    }

    fn get_nowait(&self) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get_now()
    }

    fn clear(&self) -> PyResult<usize> {
        Ok(self.ring.drain()?.len())
    }

    fn shutdown(&self) {
        self.ring.shutdown();
    }

    /// For a ring kernel that stops: what it sends is still taken while there is room, but it is not kept waiting for room.
    fn _hurry(&self) {
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

/// As `SPSCQueue`, made for calls that do not wait.
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

    #[getter]
    fn capacity(&self) -> usize {
        self.ring.capacity()
    }

    #[getter]
    fn size(&self) -> usize {
        self.ring.len()
    }

    #[getter]
    fn empty(&self) -> bool {
        self.ring.len() == 0
    }

    #[getter]
    fn full(&self) -> bool {
        self.ring.len() == self.ring.capacity()
    }

    fn put(&self, item: Py<PyAny>) -> PyResult<bool> {
        Ok(self.ring.put_now(item)? == Put::Done)
    }

    fn get(&self) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get_now()
    }

    #[pyo3(signature = (item, timeout_sec = 1.0))]
    fn put_wait(&self, py: Python<'_>, item: Py<PyAny>, timeout_sec: f64) -> PyResult<bool> {
        Ok(self.ring.put(py, item, deadline(Some(timeout_sec))?)? == Put::Done)
    }

    #[pyo3(signature = (timeout_sec = 1.0))]
    fn get_wait(&self, py: Python<'_>, timeout_sec: f64) -> PyResult<Option<Py<PyAny>>> {
        self.ring.get(py, deadline(Some(timeout_sec))?)
    }

    fn clear(&self) -> PyResult<()> {
        self.ring.drain().map(drop)
    }

    fn shutdown(&self) {
        self.ring.shutdown();
    }

    /// As `SPSCQueue._hurry`.
    fn _hurry(&self) {
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
