//! `SharedRing`: a queue between two processes as Python sees it.

use std::sync::atomic::Ordering;

use dotcompute_ring::PushError;
use dotcompute_ring::wait::WaitStrategy;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyMemoryView};

use super::endpoints::{Ends, Waited};
use super::owner_process::Process;
use super::segment::Segment;
use crate::threads::errors;
use crate::threads::gil_wait::deadline_once;

/// What a frame holds.
const BYTES: u32 = 0;
const MESSAGE: u32 = 1;

/// A queue in shared memory, which `SharedQueue` gives a constructor for each purpose.
#[pyclass(name = "SharedRing", module = "pydotcompute._core", frozen, subclass, weakref)]
pub(crate) struct SharedRing {
    ends: Ends,
}

impl SharedRing {
    /// What `get` found, turned into Python's. It is out of the queue by then, so an error takes it along.
    fn decoded(py: Python<'_>, kind: u32, bytes: Bound<'_, PyBytes>) -> PyResult<Py<PyAny>> {
        static DECODE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if kind != MESSAGE {
            return Ok(bytes.into_any().unbind());
        }
        let decode = DECODE.import(py, "pydotcompute.ring_kernels.message", "deserialize_message")?;
        decode.call1((&bytes,)).map(Bound::unbind).inspect_err(|error| {
            // Best effort: the error itself matters more.
            let _ = error.value(py).setattr("data", &bytes);
        })
    }

    fn put_within(this: &Bound<'_, Self>, item: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let (py, me) = (this.py(), &this.get().ends);
        let (kind, bytes) = encoded(item)?;
        let bytes = bytes.as_bytes();
        let mut end = me.enter_producer(py, || close_at_exit(this))?;
        if bytes.len() > me.segment.class.slot_size() {
            let error = errors::message_too_large(py, me.name(), bytes.len(), me.segment.class.slot_size());
            return Err(error);
        }
        let head = me.segment.head();
        let mut until = None;
        loop {
            let Some(sender) = end.as_deref_mut() else {
                return me.check_open(py, "put into").map(|()| false);
            };
            match sender.put(kind, bytes) {
                Ok(()) => {
                    head.put.0.store(sender.pushed(), Ordering::Relaxed);
                    head.consumer_bed.wake();
                    return Ok(true);
                }
                Err(PushError::Closed(())) => {
                    let what = format!("Cannot put into queue '{}': its consumer has closed it", me.name());
                    return Err(errors::queue_closed(py, &what));
                }
                Err(PushError::Full(())) => {}
            }
            let closed = &me.closed;
            let ready = move || sender.has_room() || sender.is_closed() || closed.load(Ordering::Relaxed);
            let until = deadline_once(&mut until, timeout)?;
            match me.wait(py, until, &head.producer_bed, &head.owners.consumer, ready)? {
                Waited::Ready if me.closed.load(Ordering::Acquire) => {
                    // Closed while this was waiting, by a thread that could not have the end.
                    drop(end);
                    me.give_back();
                    return me.check_open(py, "put into").map(|()| false);
                }
                Waited::Ready => {}
                Waited::TimedOut => return Ok(false),
                Waited::Died(pid) => return Err(errors::peer_died(py, me.name(), pid, "consumer")),
            }
        }
    }

    fn get_within(this: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        let (py, me) = (this.py(), &this.get().ends);
        let mut end = me.enter_consumer(py, || close_at_exit(this))?;
        let head = me.segment.head();
        let mut until = None;
        loop {
            let Some(receiver) = end.as_deref_mut() else {
                return me.check_open(py, "get from").map(|()| None);
            };
            // Before the last look: what was put in before the end is still found.
            let closed = receiver.is_closed();
            if let Some(found) = receiver.peek() {
                let kind = found.kind;
                let bytes = found.bytes.map(|bytes| PyBytes::new(py, bytes));
                receiver.advance();
                head.taken.0.store(receiver.popped(), Ordering::Relaxed);
                head.producer_bed.wake();
                let bytes =
                    bytes.ok_or_else(|| me.failure(py, "get a message that is longer than its slot from"))?;
                drop(end);
                return Self::decoded(py, kind, bytes).map(Some);
            }
            if closed {
                let what = format!(
                    "Cannot get from queue '{}': it is empty, and its producer has closed it",
                    me.name()
                );
                return Err(errors::queue_closed(py, &what));
            }
            let closed = &me.closed;
            let ready =
                move || !receiver.is_empty() || receiver.is_closed() || closed.load(Ordering::Relaxed);
            let until = deadline_once(&mut until, timeout)?;
            match me.wait(py, until, &head.consumer_bed, &head.owners.producer, ready)? {
                Waited::Ready if me.closed.load(Ordering::Acquire) => {
                    // Closed while this was waiting, by a thread that could not have the end.
                    drop(end);
                    me.give_back();
                    return me.check_open(py, "get from").map(|()| None);
                }
                Waited::Ready => {}
                Waited::TimedOut => return Ok(None),
                Waited::Died(pid) => return Err(errors::peer_died(py, me.name(), pid, "producer")),
            }
        }
    }
}

/// Has Python close the queue when this process ends: that the process is done is then no accident to the other one.
fn close_at_exit(ring: &Bound<'_, SharedRing>) -> PyResult<()> {
    static REGISTER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let register = REGISTER.import(ring.py(), "pydotcompute.ring_kernels.shared_queue", "_close_at_exit")?;
    register.call1((ring,)).map(drop)
}

/// Bytes as they are; messages, and whatever else says how, as bytes.
#[inline]
fn encoded<'py>(item: &Bound<'py, PyAny>) -> PyResult<(u32, Bound<'py, PyBytes>)> {
    if let Ok(bytes) = item.cast::<PyBytes>() {
        return Ok((BYTES, bytes.clone()));
    }
    if item.hasattr("serialize")? {
        let bytes = item.call_method0("serialize")?;
        return Ok((MESSAGE, bytes.cast_into::<PyBytes>()?));
    }
    let bytes = PyMemoryView::from(item)?.call_method0("tobytes")?;
    Ok((BYTES, bytes.cast_into::<PyBytes>()?))
}

fn strategy_of(wait: &str) -> PyResult<WaitStrategy> {
    match wait {
        "spin" => Ok(WaitStrategy::Spin),
        "adaptive" => Ok(WaitStrategy::Adaptive),
        "park" => Ok(WaitStrategy::Park),
        other => Err(PyValueError::new_err(format!(
            "Cannot wait by {other:?}; wait is 'spin', 'adaptive' or 'park'"
        ))),
    }
}

#[pymethods]
impl SharedRing {
    #[new]
    #[pyo3(signature = (name, capacity = None, slot_size = 256, wait = "adaptive"))]
    fn new(
        py: Python<'_>,
        name: &str,
        capacity: Option<usize>,
        slot_size: usize,
        wait: &str,
    ) -> PyResult<Self> {
        let strategy = strategy_of(wait)?;
        let (made, doing) = match capacity {
            Some(capacity) => (Segment::create(name, capacity, slot_size), "create"),
            None => (Segment::attach(name), "attach to"),
        };
        let segment = made.map_err(|error| {
            errors::queue_error(py, &format!("Cannot {doing} shared queue '{name}': {error}"))
        })?;
        Ok(Self { ends: Ends::new(segment, strategy, capacity.is_some()) })
    }

    /// Takes a name away. Whether there was a queue, or anything else, of that name.
    #[staticmethod]
    fn _remove(py: Python<'_>, name: &str) -> PyResult<bool> {
        Segment::remove(name).map_err(|error| {
            errors::queue_error(py, &format!("Cannot remove shared queue '{name}': {error}"))
        })
    }

    /// What other processes attach to.
    #[getter(name)]
    fn py_name(&self) -> &str {
        self.ends.name()
    }

    /// Messages that it has room for.
    #[getter]
    fn capacity(&self) -> usize {
        self.ends.segment.capacity()
    }

    /// Bytes of the largest message.
    #[getter]
    fn slot_size(&self) -> usize {
        self.ends.segment.class.slot_size()
    }

    /// Messages in the queue this moment.
    #[getter]
    fn size(&self) -> usize {
        self.ends.segment.messages()
    }

    /// Whether there is nothing in the queue this moment.
    #[getter]
    fn empty(&self) -> bool {
        self.ends.segment.messages() == 0
    }

    /// Whether there is no room this moment.
    #[getter]
    fn full(&self) -> bool {
        self.ends.segment.messages() == self.ends.segment.capacity()
    }

    /// Whether this process has closed the queue.
    #[getter]
    fn closed(&self) -> bool {
        self.ends.closed.load(Ordering::Acquire)
    }

    /// How this process waits: ``"spin"``, ``"adaptive"`` or ``"park"``.
    #[getter]
    fn wait_strategy(&self) -> &'static str {
        match self.ends.strategy {
            WaitStrategy::Spin => "spin",
            WaitStrategy::Adaptive => "adaptive",
            WaitStrategy::Park => "park",
        }
    }

    /// The process that has the producer's end, or had it when it died; None if nobody has.
    #[getter]
    fn producer_pid(&self) -> Option<u32> {
        Process::from_word(self.ends.segment.head().owners.producer.load(Ordering::Relaxed)).map(Process::id)
    }

    /// The process that has the consumer's end, or had it when it died; None if nobody has.
    #[getter]
    fn consumer_pid(&self) -> Option<u32> {
        Process::from_word(self.ends.segment.head().owners.consumer.load(Ordering::Relaxed)).map(Process::id)
    }

    #[pyo3(signature = (item, timeout = None))]
    fn put(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let py = item.py();
        if Self::put_within(slf, item, timeout)? {
            return Ok(true);
        }
        Err(errors::queue_full(py, slf.get().ends.name(), slf.get().ends.segment.capacity() as isize))
    }

    #[pyo3(signature = (timeout = None))]
    fn get(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        match Self::get_within(slf, timeout)? {
            Some(item) => Ok(item),
            None => {
                Err(errors::queue_timeout(slf.py(), slf.get().ends.name(), timeout.unwrap_or(0.0), "receive"))
            }
        }
    }

    /// Puts a message in if there is room.
    ///
    /// Returns:
    ///     Whether it was put in.
    ///
    /// Raises:
    ///     Exception: As for `put`, but for `QueueFullError`.
    fn put_nowait(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::put_within(slf, item, Some(0.0))
    }

    /// Takes the oldest message if there is one.
    ///
    /// Returns:
    ///     The message, or None.
    ///
    /// Raises:
    ///     Exception: As for `get`, but for `QueueTimeoutError`.
    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::get_within(slf, Some(0.0))
    }

    /// Gives up the ends that this process has, and usually the queue's name; see the module. Whoever waits here is woken.
    fn close(&self) {
        self.ends.close();
    }

    fn __len__(&self) -> usize {
        self.ends.segment.messages()
    }
}
