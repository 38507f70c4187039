//! `SyncQueue`: any number of threads on both sides, with an exact limit or none.
//!
//! It does not use a ring, since its limit is not a power of two and may be absent. Its mutex is held for a few instructions, during which
//! no Python code runs. So on an interpreter with a GIL it is never contended.

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
use super::gil_wait::{deadline_once, detach_count, wait_detached, yield_gil};
use crate::arguments::Second;
use crate::fork::Origin;

type Object = Py<PyAny>;

#[derive(Default)]
struct Items {
    queue: VecDeque<Object>,
    enqueued: u64,
    dequeued: u64,
}

/// A FIFO queue between any number of threads on both sides.
///
/// Objects are passed by reference. A wait releases the GIL. It ends when the other side puts or gets, at the timeout, at ``shutdown``, or
/// with Ctrl-C.
///
/// Args:
///     maxsize: Maximum number of items, not rounded. 0 or less is unlimited.
///
/// Example:
///     >>> queue = SyncQueue(maxsize=2)
///     >>> queue.put("a"), queue.put_nowait("b"), queue.put_nowait("c")
///     (True, True, False)
///     >>> queue.get()
///     'a'
#[pyclass(name = "SyncQueue", module = "pydotcompute.ring_kernels.sync_queue", frozen, subclass)]
pub(crate) struct SyncQueue {
    /// 0 or less is unlimited.
    maxsize: isize,
    items: Mutex<Items>,
    /// Number of items. Written under the lock, read by waiters without it.
    len: AtomicUsize,
    filled: WaitList,
    freed: WaitList,
    /// The [`detach_count`] at the last put and at the last get.
    put_detach_count: AtomicU64,
    get_detach_count: AtomicU64,
    /// Puts return at once if the queue is full.
    puts_do_not_block: AtomicBool,
    /// Gets find no item.
    gets_are_paused: AtomicBool,
    shut_down: AtomicBool,
    origin: Origin,
}

impl SyncQueue {
    /// Checks that the queue is no copy that a forked child inherited.
    #[inline]
    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        self.origin.check(py, || "this queue between threads".to_owned())
    }

    fn lock(&self) -> MutexGuard<'_, Items> {
        // No code under the lock panics between two changes, so poisoned items are consistent.
        self.items.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_full(&self, len: usize) -> bool {
        usize::try_from(self.maxsize).is_ok_and(|maxsize| maxsize > 0 && len >= maxsize)
    }

    fn is_shut_down(&self) -> bool {
        // Acquire: pairs with the release store in `shutdown`.
        self.shut_down.load(Ordering::Acquire)
    }

    fn is_paused(&self) -> bool {
        // Acquire: pairs with the release store in `_set_paused`.
        self.gets_are_paused.load(Ordering::Acquire)
    }

    fn len(&self) -> usize {
        // Acquire: pairs with the release stores in `push`, `pop` and `take_all`.
        self.len.load(Ordering::Acquire)
    }

    /// Puts an item, or returns it if the queue is full.
    fn push(&self, item: Object) -> Result<(), Object> {
        let mut items = self.lock();
        if self.is_full(items.queue.len()) {
            return Err(item);
        }
        // Stored under the lock, which publishes it with the item.
        self.put_detach_count.store(detach_count(), Ordering::Relaxed);
        items.queue.push_back(item);
        items.enqueued += 1;
        self.len.store(items.queue.len(), Ordering::Release);
        drop(items);
        // SYNC POINT: sync queue filled
        // Store `len`, then notify: pairs with register, then poll in `wait`. The fence of `WaitList` orders the two steps.
        self.filled.notify_all();
        Ok(())
    }

    fn pop(&self) -> Option<Object> {
        if self.is_paused() {
            return None;
        }
        let mut items = self.lock();
        let item = items.queue.pop_front()?;
        items.dequeued += 1;
        self.get_detach_count.store(detach_count(), Ordering::Relaxed);
        self.len.store(items.queue.len(), Ordering::Release);
        drop(items);
        // SYNC POINT: sync queue freed
        // Store `len`, then notify: pairs with register, then poll in `wait`.
        self.freed.notify_all();
        Some(item)
    }

    fn take_all(&self) -> VecDeque<Object> {
        let mut items = self.lock();
        self.len.store(0, Ordering::Release);
        // The caller drops the items after the lock is released, since that may run Python code.
        let taken = std::mem::take(&mut items.queue);
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
        let mut token = WaitToken::default();
        // SYNC POINT: sync queue filled
        // SYNC POINT: sync queue freed
        // Register, then poll: pairs with store, then notify in `push` and `pop`.
        let poll = |cx: Option<&mut Context<'_>>| {
            if let Some(cx) = cx {
                list.register(&mut token, cx.waker());
            }
            if ready() { Poll::Ready(()) } else { Poll::Pending }
        };
        let is_ready = wait_detached(py, deadline, poll, published);
        list.cancel(&mut token);
        is_ready
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
            put_detach_count: AtomicU64::new(0),
            get_detach_count: AtomicU64::new(0),
            puts_do_not_block: AtomicBool::new(false),
            gets_are_paused: AtomicBool::new(false),
            shut_down: AtomicBool::new(false),
            origin: Origin::current(),
        }
    }

    #[classmethod]
    fn __class_getitem__(class: &Bound<'_, PyType>, item: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        generic_alias(class, item)
    }

    /// The ``maxsize`` given to the constructor.
    #[getter]
    fn maxsize(&self) -> isize {
        self.maxsize
    }

    /// Current number of items.
    #[getter]
    fn qsize(&self, py: Python<'_>) -> PyResult<usize> {
        self.check_process(py)?;
        Ok(self.len())
    }

    /// Whether the queue is currently empty.
    #[getter]
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.qsize(py)? == 0)
    }

    /// Whether the queue is currently full.
    #[getter]
    fn full(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.is_full(self.qsize(py)?))
    }

    /// Puts an item, waiting for a free slot.
    ///
    /// Args:
    ///     item: Any object. It is handed over, not copied: neither side changes it afterwards.
    ///     timeout: Maximum wait, in seconds. 0 or less does not wait, None waits without limit.
    ///
    /// Returns:
    ///     True.
    ///
    /// Raises:
    ///     QueueFullError: The queue was full until the timeout; the item was not put.
    ///     RuntimeError: The queue was shut down; the item was not put.
    #[pyo3(signature = (item, timeout = None))]
    fn put(&self, py: Python<'_>, item: Py<PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        self.check_process(py)?;
        let mut item = item;
        let mut deadline = None;
        loop {
            if self.is_shut_down() {
                return Err(PyRuntimeError::new_err(
                    "Cannot put into a queue that has been shut down; the item was not put",
                ));
            }
            item = match self.push(item) {
                Ok(()) => return Ok(true),
                Err(rejected) => rejected,
            };
            let does_not_block = || self.puts_do_not_block.load(Ordering::Acquire);
            let ready = || !self.is_full(self.len()) || does_not_block();
            let deadline = deadline_once(&mut deadline, timeout)?;
            if does_not_block() || !Self::wait(py, deadline, &self.freed, ready, &self.get_detach_count)? {
                return Err(errors::queue_full(py, "sync_queue", self.maxsize));
            }
        }
    }

    /// Takes the oldest item, waiting until there is one.
    ///
    /// Args:
    ///     timeout: Maximum wait, in seconds. 0 or less does not wait, None waits without limit.
    ///
    /// Returns:
    ///     The item.
    ///
    /// Raises:
    ///     QueueTimeoutError: The queue was empty until the timeout.
    ///     RuntimeError: The queue was shut down and is empty.
    #[pyo3(signature = (timeout = None))]
    fn get(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        self.check_process(py)?;
        let mut deadline = None;
        loop {
            // Read before the last pop, so that items put before the shutdown are still found.
            let shut_down = self.is_shut_down();
            if let Some(item) = self.pop() {
                return Ok(item);
            }
            if shut_down {
                return Err(PyRuntimeError::new_err(
                    "Cannot get from a queue that has been shut down and is empty; no further item can arrive",
                ));
            }
            let ready = || (self.len() > 0 && !self.is_paused()) || self.is_shut_down();
            let deadline = deadline_once(&mut deadline, timeout)?;
            if !Self::wait(py, deadline, &self.filled, ready, &self.put_detach_count)? {
                return Err(errors::queue_timeout(py, "sync_queue", timeout.unwrap_or(0.0), "get"));
            }
        }
    }

    /// Puts an item without waiting. If the queue is full, releases the GIL for a microsecond and tries again.
    ///
    /// Args:
    ///     item: Any object. It is handed over, not copied: neither side changes it afterwards.
    ///
    /// Returns:
    ///     Whether the item was put. False also if the queue was shut down.
    #[pyo3(signature = (item, second = Second::Absent), text_signature = "($self, item)")]
    fn put_nowait(&self, py: Python<'_>, item: Py<PyAny>, second: Second) -> PyResult<bool> {
        second.reject("SyncQueue.put_nowait")?;
        self.check_process(py)?;
        if self.is_shut_down() {
            return Ok(false);
        }
        let Err(item) = self.push(item) else { return Ok(true) };
        yield_gil(py, || !self.is_full(self.len()), &self.get_detach_count);
        Ok(!self.is_shut_down() && self.push(item).is_ok())
    }

    /// Takes the oldest item without waiting. If the queue is empty, releases the GIL for a microsecond and tries again.
    ///
    /// Returns:
    ///     The item, or None if the queue is empty.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.check_process(py)?;
        Ok(self.pop().or_else(|| {
            yield_gil(py, || self.len() > 0, &self.put_detach_count);
            self.pop()
        }))
    }

    /// Discards all items.
    ///
    /// Returns:
    ///     Number of items discarded.
    fn clear(&self, py: Python<'_>) -> PyResult<usize> {
        self.check_process(py)?;
        Ok(self.take_all().len())
    }

    /// Rejects puts from now on and wakes all waiting threads. Items in the queue can still be taken.
    fn shutdown(&self, py: Python<'_>) -> PyResult<()> {
        self._stop_blocking_puts(py)?;
        // Release: pairs with the acquire loads in `is_paused` and `is_shut_down`.
        self.gets_are_paused.store(false, Ordering::Release);
        self.shut_down.store(true, Ordering::Release);
        self.freed.notify_all();
        self.filled.notify_all();
        Ok(())
    }

    /// Makes puts return at once if the queue is full, including waiting ones. Called when a ring kernel stops.
    fn _stop_blocking_puts(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process(py)?;
        // Release: pairs with the acquire load in `put`.
        self.puts_do_not_block.store(true, Ordering::Release);
        self.freed.notify_all();
        Ok(())
    }

    /// Pauses gets, or ends the pause. Called when a ring kernel is deactivated or reactivated.
    fn _set_paused(&self, py: Python<'_>, paused: bool) -> PyResult<()> {
        self.check_process(py)?;
        // Release: pairs with the acquire load in `is_paused`.
        self.gets_are_paused.store(paused, Ordering::Release);
        self.filled.notify_all();
        Ok(())
    }

    /// Takes all items, oldest first. Called to collect dead letters.
    fn _drain(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.check_process(py)?;
        Ok(self.take_all().into())
    }

    /// Returns the counters, read together.
    ///
    /// Returns:
    ///     ``current_size``, ``max_size``, ``total_enqueued`` and ``total_dequeued``.
    fn get_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.check_process(py)?;
        let (size, enqueued, dequeued) = {
            let items = self.lock();
            (items.queue.len(), items.enqueued, items.dequeued)
        };
        let stats = PyDict::new(py);
        stats.set_item("current_size", size)?;
        stats.set_item("max_size", self.maxsize)?;
        stats.set_item("total_enqueued", enqueued)?;
        stats.set_item("total_dequeued", dequeued)?;
        Ok(stats)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.qsize(py)
    }

    fn __repr__(&self) -> String {
        if self.origin.is_inherited() {
            return "SyncQueue(of the parent process)".to_owned();
        }
        format!("SyncQueue(size={}/{})", self.len(), self.maxsize)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A thread that holds the lock also holds a reference to the queue, so the queue is not garbage.
        let Ok(items) = self.items.try_lock() else { return Ok(()) };
        items.queue.iter().try_for_each(|item| visit.call(item))
    }

    fn __clear__(&self) {
        // In a forked child the lock may be held by a thread of the parent.
        if !self.origin.is_inherited() {
            drop(self.take_all());
        }
    }
}
