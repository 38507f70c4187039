//! `SharedRing`: the Python class of a queue between two processes.

use std::sync::atomic::Ordering;

use dotcompute_ring::PushError;
use dotcompute_ring::wait::WaitStrategy;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyMemoryView, PyTuple};

use super::endpoints::{Endpoints, WaitOutcome};
use super::owner_process::Process;
use super::segment::Segment;
use crate::arguments::take_one;
use crate::message::class_mark;
use crate::threads::errors;
use crate::threads::gil_wait::deadline_once;

/// Kind of a frame with bytes. Any other kind is a message: the mark of its class, which tells classes with the same name apart.
const BYTES: u32 = 0;

/// A queue in shared memory. `SharedQueue` derives from it and adds constructors.
#[pyclass(name = "SharedQueue", module = "pydotcompute._core", frozen, subclass, weakref)]
pub(crate) struct SharedRing {
    endpoints: Endpoints,
}

impl SharedRing {
    /// Decodes a message that `get` has taken. An error has the bytes as attribute `data`, since they are no longer in the queue.
    fn decode(py: Python<'_>, kind: u32, bytes: Bound<'_, PyBytes>) -> PyResult<Py<PyAny>> {
        static DECODE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if kind == BYTES {
            return Ok(bytes.into_any().unbind());
        }
        let decode = DECODE.import(py, "pydotcompute.ring_kernels.message", "_deserialize_marked")?;
        decode.call1((&bytes, kind)).map(Bound::unbind).inspect_err(|error| {
            // Best effort: the decoding error is the one to report.
            let _ = error.value(py).setattr("data", &bytes);
        })
    }

    fn put_within(this: &Bound<'_, Self>, item: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let (py, endpoints) = (this.py(), &this.get().endpoints);
        let (kind, bytes) = encode(item)?;
        let bytes = bytes.as_bytes();
        let mut producer = endpoints.lock_producer(py, || close_at_exit(this))?;
        if bytes.len() > endpoints.segment.class.slot_size() {
            let error = errors::message_too_large(
                py,
                endpoints.name(),
                bytes.len(),
                endpoints.segment.class.slot_size(),
            );
            return Err(error);
        }
        let header = endpoints.segment.header();
        let mut until = None;
        loop {
            let Some(sender) = producer.as_deref_mut() else {
                return endpoints.check_open(py, "put into").map(|()| false);
            };
            match sender.put(kind, bytes) {
                Ok(()) => {
                    header.pushed.0.store(sender.pushed(), Ordering::Relaxed);
                    header.consumer_parking.wake();
                    return Ok(true);
                }
                Err(PushError::Closed(())) => {
                    let text =
                        format!("Cannot put into queue '{}': its consumer has closed it", endpoints.name());
                    return Err(errors::queue_closed(py, &text));
                }
                Err(PushError::Full(())) => {}
            }
            let closed = &endpoints.closed;
            let ready =
                move || sender.has_free_slot() || sender.is_closed() || closed.load(Ordering::Relaxed);
            let until = deadline_once(&mut until, timeout)?;
            match endpoints.wait(py, until, &header.producer_parking, &header.owners.consumer, ready)? {
                WaitOutcome::Ready if endpoints.closed.load(Ordering::Acquire) => {
                    // Another thread closed the queue during the wait and could not lock the endpoint, so release it here.
                    drop(producer);
                    endpoints.release();
                    return endpoints.check_open(py, "put into").map(|()| false);
                }
                WaitOutcome::Ready => {}
                WaitOutcome::TimedOut => return Ok(false),
                WaitOutcome::PeerDied(pid) => {
                    return Err(errors::peer_died(py, endpoints.name(), pid, "consumer"));
                }
            }
        }
    }

    fn get_within(this: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Option<Py<PyAny>>> {
        let (py, endpoints) = (this.py(), &this.get().endpoints);
        let mut consumer = endpoints.lock_consumer(py, || close_at_exit(this))?;
        let header = endpoints.segment.header();
        let mut until = None;
        loop {
            let Some(receiver) = consumer.as_deref_mut() else {
                return endpoints.check_open(py, "get from").map(|()| None);
            };
            // Read before the last `peek`, so that messages pushed before the close are still found.
            let closed = receiver.is_closed();
            if let Some(frame) = receiver.peek() {
                let kind = frame.kind;
                let bytes = frame.bytes.map(|bytes| PyBytes::new(py, bytes));
                receiver.advance();
                header.popped.0.store(receiver.popped(), Ordering::Relaxed);
                header.producer_parking.wake();
                let bytes = bytes
                    .ok_or_else(|| endpoints.error(py, "get a message that is longer than its slot from"))?;
                drop(consumer);
                return Self::decode(py, kind, bytes).map(Some);
            }
            if closed {
                let text = format!(
                    "Cannot get from queue '{}': it is empty, and its producer has closed it",
                    endpoints.name()
                );
                return Err(errors::queue_closed(py, &text));
            }
            let closed = &endpoints.closed;
            let ready =
                move || !receiver.is_empty() || receiver.is_closed() || closed.load(Ordering::Relaxed);
            let until = deadline_once(&mut until, timeout)?;
            match endpoints.wait(py, until, &header.consumer_parking, &header.owners.producer, ready)? {
                WaitOutcome::Ready if endpoints.closed.load(Ordering::Acquire) => {
                    // Another thread closed the queue during the wait and could not lock the endpoint, so release it here.
                    drop(consumer);
                    endpoints.release();
                    return endpoints.check_open(py, "get from").map(|()| None);
                }
                WaitOutcome::Ready => {}
                WaitOutcome::TimedOut => return Ok(None),
                WaitOutcome::PeerDied(pid) => {
                    return Err(errors::peer_died(py, endpoints.name(), pid, "producer"));
                }
            }
        }
    }
}

/// Registers `close` with `atexit`, so that the other process sees a closed queue and not a process that died.
fn close_at_exit(ring: &Bound<'_, SharedRing>) -> PyResult<()> {
    static REGISTER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let register = REGISTER.import(ring.py(), "pydotcompute.ring_kernels.shared_queue", "_close_at_exit")?;
    register.call1((ring,)).map(drop)
}

/// Encodes an item: bytes unchanged, objects with `serialize` by that method, and other objects by the buffer protocol.
#[inline]
fn encode<'py>(item: &Bound<'py, PyAny>) -> PyResult<(u32, Bound<'py, PyBytes>)> {
    if let Ok(bytes) = item.cast::<PyBytes>() {
        return Ok((BYTES, bytes.clone()));
    }
    if item.hasattr("serialize")? {
        let bytes = item.call_method0("serialize")?;
        return Ok((class_mark(item), bytes.cast_into::<PyBytes>()?));
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
            "Cannot wait by {other:?}: it is not a wait strategy; use 'spin', 'adaptive' or 'park'"
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
        let (result, operation) = match capacity {
            Some(capacity) => (Segment::create(name, capacity, slot_size), "create"),
            None => (Segment::attach(name), "attach to"),
        };
        let segment = result.map_err(|error| {
            errors::queue_error(py, &format!("Cannot {operation} shared queue '{name}': {error}"))
        })?;
        Ok(Self { endpoints: Endpoints::new(segment, strategy, capacity.is_some()) })
    }

    /// Unlinks a name.
    ///
    /// Args:
    ///     name: The name.
    ///
    /// Returns:
    ///     Whether the name existed.
    ///
    /// Raises:
    ///     QueueError: The name is invalid, or unlinking it failed.
    #[staticmethod]
    fn _remove(py: Python<'_>, name: &str) -> PyResult<bool> {
        Segment::remove(name).map_err(|error| {
            errors::queue_error(py, &format!("Cannot remove shared queue '{name}': {error}"))
        })
    }

    /// Name by which other processes attach.
    #[getter(name)]
    fn py_name(&self) -> &str {
        self.endpoints.name()
    }

    /// Maximum number of messages.
    #[getter]
    fn capacity(&self) -> usize {
        self.endpoints.segment.capacity()
    }

    /// Size of the largest message, in bytes.
    #[getter]
    fn slot_size(&self) -> usize {
        self.endpoints.segment.class.slot_size()
    }

    /// Current number of messages.
    #[getter]
    fn size(&self) -> usize {
        self.endpoints.segment.messages()
    }

    /// Whether the queue is currently empty.
    #[getter]
    fn empty(&self) -> bool {
        self.endpoints.segment.messages() == 0
    }

    /// Whether the queue is currently full.
    #[getter]
    fn full(&self) -> bool {
        self.endpoints.segment.messages() == self.endpoints.segment.capacity()
    }

    /// Whether this process has closed the queue.
    #[getter]
    fn closed(&self) -> bool {
        self.endpoints.closed.load(Ordering::Acquire)
    }

    /// How this process waits: ``"spin"``, ``"adaptive"`` or ``"park"``.
    #[getter]
    fn wait_strategy(&self) -> &'static str {
        match self.endpoints.strategy {
            WaitStrategy::Spin => "spin",
            WaitStrategy::Adaptive => "adaptive",
            WaitStrategy::Park => "park",
        }
    }

    /// Id of the process that owns the producer endpoint, or died while it owned it. None without an owner.
    #[getter]
    fn producer_pid(&self) -> Option<u32> {
        Process::from_word(self.endpoints.segment.header().owners.producer.load(Ordering::Relaxed))
            .map(Process::id)
    }

    /// Id of the process that owns the consumer endpoint, or died while it owned it. None without an owner.
    #[getter]
    fn consumer_pid(&self) -> Option<u32> {
        Process::from_word(self.endpoints.segment.header().owners.consumer.load(Ordering::Relaxed))
            .map(Process::id)
    }

    /// Waits until a running process owns an endpoint.
    ///
    /// Args:
    ///     producer: Whether to wait for the producer, and not for the consumer.
    ///     timeout: Maximum wait, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     Its process id, or None after the timeout.
    ///
    /// Raises:
    ///     QueueClosedError: This process has closed the queue.
    fn _wait_for_owner(&self, py: Python<'_>, producer: bool, timeout: Option<f64>) -> PyResult<Option<u32>> {
        let owners = &self.endpoints.segment.header().owners;
        let owner = if producer { &owners.producer } else { &owners.consumer };
        let deadline = deadline_once(&mut None, timeout)?;
        self.endpoints.wait_for_owner(py, owner, deadline)
    }

    /// Puts a message.
    ///
    /// Args:
    ///     item: Bytes, an object with a method ``serialize``, or an object with the buffer protocol.
    ///     timeout: Maximum wait for a free slot, in seconds. 0 does not wait, None waits without limit.
    ///
    /// Returns:
    ///     True.
    ///
    /// Raises:
    ///     QueueFullError: The queue was full until the timeout; the message was not put.
    ///     QueueClosedError: The consumer or this process has closed the queue.
    ///     PeerDiedError: The queue is full, and the process of the consumer has ended.
    ///     MessageError: The message is larger than a slot.
    ///     QueueError: Another thread or process is the producer.
    #[pyo3(signature = (item, timeout = None))]
    fn put(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let py = item.py();
        if Self::put_within(slf, item, timeout)? {
            return Ok(true);
        }
        Err(errors::queue_full(
            py,
            slf.get().endpoints.name(),
            slf.get().endpoints.segment.capacity() as isize,
        ))
    }

    /// Takes the oldest message.
    ///
    /// Args:
    ///     timeout: Maximum wait for a message, in seconds. 0 does not wait, None waits without limit.
    ///
    /// Returns:
    ///     The message, as bytes or decoded.
    ///
    /// Raises:
    ///     QueueTimeoutError: The queue was empty until the timeout.
    ///     QueueClosedError: The queue is empty and the producer has closed it, or this process has closed it.
    ///     PeerDiedError: The queue is empty, and the process of the producer has ended.
    ///     QueueError: Another thread or process is the consumer.
    #[pyo3(signature = (timeout = None))]
    fn get(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        match Self::get_within(slf, timeout)? {
            Some(item) => Ok(item),
            None => Err(errors::queue_timeout(
                slf.py(),
                slf.get().endpoints.name(),
                timeout.unwrap_or(0.0),
                "receive",
            )),
        }
    }

    /// Adds a message without waiting.
    ///
    /// Args:
    ///     item: As for :meth:`put`. It is handed over: neither side changes it afterwards. The queue takes a copy during the call.
    ///
    /// Returns:
    ///     Whether the message was added. ``False`` if the queue is full.
    ///
    /// Raises:
    ///     MessageError: The message is larger than `slot_size`.
    ///     PeerDiedError: The queue is full, and the consumer's process has ended.
    ///     QueueClosedError: The consumer or this process has closed the queue.
    ///     QueueError: Another process or thread is the producer.
    ///     TypeError: The item is neither bytes nor a message.
    #[pyo3(signature = (item, *extra), text_signature = "($self, item)")]
    fn put_nowait(
        slf: &Bound<'_, Self>,
        item: &Bound<'_, PyAny>,
        extra: &Bound<'_, PyTuple>,
    ) -> PyResult<bool> {
        take_one("SharedQueue.put_nowait", extra)?;
        Self::put_within(slf, item, Some(0.0))
    }

    /// Removes and returns the oldest message without waiting.
    ///
    /// Returns:
    ///     Bytes or the message; ``None`` if the queue is empty.
    ///
    /// Raises:
    ///     PeerDiedError: The queue is empty, and the producer's process has ended.
    ///     QueueClosedError: The queue is empty and the producer has closed it, or this process has closed it.
    ///     QueueError: Another process or thread is the consumer.
    ///     MessageDeserializationError: The message cannot be deserialized; its bytes are the error's attribute `data`.
    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::get_within(slf, Some(0.0))
    }

    /// Releases the endpoints of this process, wakes its waiting threads, and usually unlinks the name; see the module.
    fn close(&self) {
        self.endpoints.close();
    }

    fn __len__(&self) -> usize {
        self.endpoints.segment.messages()
    }
}
