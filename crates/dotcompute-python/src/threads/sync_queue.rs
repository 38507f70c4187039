//! `SyncQueue`: any number of threads on both sides, an exact limit or none.
//!
//! Not on a ring: its limit need not be a power of two, and may be missing. Its lock is held for a few instructions in which no Python
//! code runs, so that on an interpreter with a lock of its own nobody ever finds it taken.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use dotcompute_ring::fence::Fence;
use dotcompute_ring::wait_list::{Ticket, WaitList};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::errors::{self, generic_alias};
use super::waiting::{deadline, detached, wait_detached};

type Object = Py<PyAny>;

#[derive(Default)]
struct Items {
    waiting: VecDeque<Object>,
    enqueued: u64,
    dequeued: u64,
}

/// A bounded queue between threads.
#[pyclass(name = "SyncQueue", module = "pydotcompute.ring_kernels.sync_queue", frozen, subclass)]
pub(crate) struct SyncQueue {
    /// Zero or less is no limit.
    maxsize: isize,
    items: Mutex<Items>,
    /// How many items there are: written under the lock, read by waiters without it.
    len: AtomicUsize,
    filled: WaitList,
    freed: WaitList,
    /// What [`detached`] was at the last put and the last get.
    put_at: AtomicU64,
    got_at: AtomicU64,
    hurried: AtomicBool,
    shut_down: AtomicBool,
}

impl SyncQueue {
    fn lock(&self) -> MutexGuard<'_, Items> {
        // Nothing under the lock leaves the items half changed.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self, len: usize) -> bool {
        usize::try_from(self.maxsize).is_ok_and(|maxsize| maxsize > 0 && len >= maxsize)
    }

    fn is_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::Acquire)
    }

    fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// Puts an item in, or gives it back.
    fn push(&self, item: Object) -> Result<(), Object> {
        let mut items = self.lock();
        if self.is_full(items.waiting.len()) {
            return Err(item);
        }
        // First: who finds the item finds this too.
        self.put_at.store(detached(), Ordering::Relaxed);
        items.waiting.push_back(item);
        items.enqueued += 1;
        self.len.store(items.waiting.len(), Ordering::Release);
        drop(items);
        self.filled.notify_all();
        Ok(())
    }

    fn pop(&self) -> Option<Object> {
        let mut items = self.lock();
        let item = items.waiting.pop_front()?;
        items.dequeued += 1;
        self.got_at.store(detached(), Ordering::Relaxed);
        self.len.store(items.waiting.len(), Ordering::Release);
        drop(items);
        self.freed.notify_all();
        Some(item)
    }

    fn take_all(&self) -> VecDeque<Object> {
        let mut items = self.lock();
        self.len.store(0, Ordering::Release);
        // Dropped by the caller, without the lock: that may run any code.
        let taken = std::mem::take(&mut items.waiting);
        drop(items);
        self.freed.notify_all();
        taken
    }

    fn wait(
        py: Python<'_>,
        deadline: Option<Instant>,
        list: &WaitList,
        ready: impl Fn() -> bool + Send + Sync,
        published: &AtomicU64,
    ) -> PyResult<bool> {
        let mut ticket = Ticket::default();
        let look = |cx: Option<&mut Context<'_>>| {
            if let Some(cx) = cx {
                list.prepare(&mut ticket, cx.waker());
            }
            if ready() { Poll::Ready(()) } else { Poll::Pending }
        };
        let in_time = wait_detached(py, deadline, look, published);
        list.cancel(&mut ticket);
        in_time
    }
}

#[pymethods]
impl SyncQueue {
    #[new]
    #[pyo3(signature = (maxsize = 4096))]
    fn new(maxsize: isize) -> Self {
        Self {
            maxsize,
            items: Mutex::default(),
            len: AtomicUsize::new(0),
            filled: WaitList::new(Fence::Symmetric),
            freed: WaitList::new(Fence::Symmetric),
            put_at: AtomicU64::new(0),
            got_at: AtomicU64::new(0),
            hurried: AtomicBool::new(false),
            shut_down: AtomicBool::new(false),
        }
    }

    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        generic_alias(class, item)
    }

    #[getter]
    fn maxsize(&self) -> isize {
        self.maxsize
    }

    #[getter]
    fn qsize(&self) -> usize {
        self.len()
    }

    #[getter]
    fn empty(&self) -> bool {
        self.len() == 0
    }

    #[getter]
    fn full(&self) -> bool {
        self.is_full(self.len())
    }

    #[pyo3(signature = (item, timeout = None))]
    fn put(&self, py: Python<'_>, item: Py<PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let deadline = deadline(timeout)?;
        let mut item = item;
        loop {
            if self.is_shut_down() {
                return Err(PyRuntimeError::new_err(
                    "Cannot put into a queue that has been shut down; the message was not taken",
                ));
            }
            item = match self.push(item) {
                Ok(()) => return Ok(true),
                Err(back) => back,
            };
            let hurried = || self.hurried.load(Ordering::Acquire);
            let ready = || !self.is_full(self.len()) || hurried();
            if hurried() || !Self::wait(py, deadline, &self.freed, ready, &self.got_at)? {
                return Err(errors::queue_full(py, "sync_queue", self.maxsize));
            }
        }
    }

    #[pyo3(signature = (timeout = None))]
    fn get(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let deadline = deadline(timeout)?;
        loop {
            // Before the last look: what was put in before the shutdown is still found.
            let shut_down = self.is_shut_down();
            if let Some(item) = self.pop() {
                return Ok(item);
            }
            if shut_down {
                return Err(PyRuntimeError::new_err(
                    "Cannot get from a queue that has been shut down and is empty; nothing will come any more",
                ));
            }
            let ready = || self.len() > 0 || self.is_shut_down();
            if !Self::wait(py, deadline, &self.filled, ready, &self.put_at)? {
                return Err(errors::queue_timeout(py, "sync_queue", timeout.unwrap_or(0.0), "get"));
            }
        }
    }

    fn put_nowait(&self, item: Py<PyAny>) -> bool {
        !self.is_shut_down() && self.push(item).is_ok()
    }

    fn get_nowait(&self) -> Option<Py<PyAny>> {
        self.pop()
    }

    fn clear(&self) -> usize {
        self.take_all().len()
    }

    fn shutdown(&self) {
        self.shut_down.store(true, Ordering::Release);
        self._hurry();
        self.filled.notify_all();
    }

    /// As `SPSCQueue._hurry`.
    fn _hurry(&self) {
        self.hurried.store(true, Ordering::Release);
        self.freed.notify_all();
    }

    /// As `SPSCQueue._drain`.
    fn _drain(&self) -> Vec<Py<PyAny>> {
        self.take_all().into()
    }

    fn get_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (size, enqueued, dequeued) = {
            let items = self.lock();
            (items.waiting.len(), items.enqueued, items.dequeued)
        };
        let stats = PyDict::new(py);
        stats.set_item("current_size", size)?;
        stats.set_item("max_size", self.maxsize)?;
        stats.set_item("total_enqueued", enqueued)?;
        stats.set_item("total_dequeued", dequeued)?;
        Ok(stats)
    }

    fn __len__(&self) -> usize {
        self.len()
    }

    fn __repr__(&self) -> String {
        format!("SyncQueue(size={}/{})", self.len(), self.maxsize)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Whoever has the lock this moment has a reference to the queue too: it is no garbage.
        let Ok(items) = self.items.try_lock() else { return Ok(()) };
        items.waiting.iter().try_for_each(|item| visit.call(item))
    }

    fn __clear__(&self) {
        drop(self.take_all());
    }
}
