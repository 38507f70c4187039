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
use dotcompute_ring::wait_list::{WaitList, WaitToken};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::errors::{self, generic_alias};
use super::gil_wait::{deadline_once, detached, give_way, wait_detached};

type Object = Py<PyAny>;

#[derive(Default)]
struct Items {
    waiting: VecDeque<Object>,
    enqueued: u64,
    dequeued: u64,
}

/// A first in, first out queue between any number of threads on both sides.
///
/// Objects pass as they are. Waiting happens without the interpreter's lock and ends when the other side puts or takes, at the timeout,
/// at `shutdown`, or by Ctrl-C.
///
/// Args:
///     maxsize: How many items it holds at the most; exactly so. 0 or less is no limit.
///
/// Example:
///     >>> queue = SyncQueue(maxsize=2)
///     >>> queue.put("a"), queue.put_nowait("b"), queue.put_nowait("c")
///     (True, True, False)
///     >>> queue.get()
///     'a'
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
        let mut ticket = WaitToken::default();
        let look = |cx: Option<&mut Context<'_>>| {
            if let Some(cx) = cx {
                list.register(&mut ticket, cx.waker());
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

    /// The limit that it was made with.
    #[getter]
    fn maxsize(&self) -> isize {
        self.maxsize
    }

    /// Items in the queue this moment.
    #[getter]
    fn qsize(&self) -> usize {
        self.len()
    }

    /// Whether there is nothing in the queue this moment.
    #[getter]
    fn empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is no room this moment.
    #[getter]
    fn full(&self) -> bool {
        self.is_full(self.len())
    }

    /// Puts an item in, waiting for room.
    ///
    /// Args:
    ///     item: Any object.
    ///     timeout: How long to wait, in seconds; 0 or less does not wait, None waits for ever.
    ///
    /// Returns:
    ///     True.
    ///
    /// Raises:
    ///     QueueFullError: There was no room in time; the item was not put in.
    ///     RuntimeError: The queue has been shut down; the item was not put in.
    #[pyo3(signature = (item, timeout = None))]
    fn put(&self, py: Python<'_>, item: Py<PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let mut item = item;
        let mut until = None;
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
            let until = deadline_once(&mut until, timeout)?;
            if hurried() || !Self::wait(py, until, &self.freed, ready, &self.got_at)? {
                return Err(errors::queue_full(py, "sync_queue", self.maxsize));
            }
        }
    }

    /// Takes the oldest item, waiting for one.
    ///
    /// Args:
    ///     timeout: How long to wait, in seconds; 0 or less does not wait, None waits for ever.
    ///
    /// Returns:
    ///     The item.
    ///
    /// Raises:
    ///     QueueTimeoutError: None came in time.
    ///     RuntimeError: The queue has been shut down and is empty.
    #[pyo3(signature = (timeout = None))]
    fn get(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let mut until = None;
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
            let until = deadline_once(&mut until, timeout)?;
            if !Self::wait(py, until, &self.filled, ready, &self.put_at)? {
                return Err(errors::queue_timeout(py, "sync_queue", timeout.unwrap_or(0.0), "get"));
            }
        }
    }

    /// Puts an item in if there is room. Where there is none, other threads get a microsecond to make some.
    ///
    /// Returns:
    ///     Whether the item was put in. False also if the queue has been shut down.
    fn put_nowait(&self, py: Python<'_>, item: Py<PyAny>) -> bool {
        if self.is_shut_down() {
            return false;
        }
        let Err(item) = self.push(item) else { return true };
        give_way(py, || !self.is_full(self.len()), &self.got_at);
        !self.is_shut_down() && self.push(item).is_ok()
    }

    /// Takes the oldest item if there is one. Where there is none, other threads get a microsecond to put one in.
    ///
    /// Returns:
    ///     The item, or None.
    fn get_nowait(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.pop().or_else(|| {
            give_way(py, || self.len() > 0, &self.put_at);
            self.pop()
        })
    }

    /// Drops all items.
    ///
    /// Returns:
    ///     How many there were.
    fn clear(&self) -> usize {
        self.take_all().len()
    }

    /// Refuses what comes from now on and wakes everybody who waits. What is in the queue can still be taken.
    fn shutdown(&self) {
        self.shut_down.store(true, Ordering::Release);
        self._stop_blocking_puts();
        self.filled.notify_all();
    }

    /// As `SPSCQueue._stop_blocking_puts`.
    fn _stop_blocking_puts(&self) {
        self.hurried.store(true, Ordering::Release);
        self.freed.notify_all();
    }

    /// As `SPSCQueue._drain`.
    fn _drain(&self) -> Vec<Py<PyAny>> {
        self.take_all().into()
    }

    /// Counts, of one moment.
    ///
    /// Returns:
    ///     ``current_size``, ``max_size``, ``total_enqueued`` and ``total_dequeued``.
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
