//! `SharedRing`: a queue between two processes as Python sees it.
//!
//! An end is taken by the first call that needs it, and given back by `close`. Within a process a lock that is only tried keeps two
//! threads off one end; between processes it is the word of the owner, taken by one compare-exchange from nobody or from a process that
//! has ended.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once};
use std::time::{Duration, Instant};

use dotcompute_ring::PushError;
use dotcompute_ring::wait::WaitStrategy;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyMemoryView};

use super::frame::{Receiver, Sender};
use super::parking::Bed;
use super::process::Process;
use super::segment::Segment;
use crate::threads::errors;
use crate::threads::waiting::deadline;

/// How long a wait goes on before it looks whether the other process still runs, and whether there is a signal to handle.
const SLICE: Duration = Duration::from_millis(50);

/// What a frame holds.
const BYTES: u32 = 0;
const MESSAGE: u32 = 1;

/// How often this process has been forked off another: what its parent had, it has not.
static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

fn watch_forks() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        // SAFETY: the function only adds to an atomic number, which may be done in a child of any process.
        unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
    });
}

/// How a wait ended.
enum Waited {
    Ready,
    TimedOut,
    Died(u32),
}

/// A queue in shared memory.
#[pyclass(name = "SharedRing", module = "pydotcompute._core", frozen, subclass, weakref)]
pub(crate) struct SharedRing {
    // Before the segment, in whose memory they are: fields are dropped in this order.
    producer: Mutex<Option<Box<dyn Sender>>>,
    consumer: Mutex<Option<Box<dyn Receiver>>>,
    segment: Segment,
    strategy: WaitStrategy,
    /// What [`FORKS`] was when this was made or last looked at it.
    forks: AtomicU64,
    /// Whether this process has made the queue, and its name is to go with it.
    made_here: AtomicBool,
    closed: AtomicBool,
    /// When the other side was last seen to run, in nanoseconds after [`beginning`].
    looked_at: AtomicU64,
}

fn beginning() -> Instant {
    static BEGINNING: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *BEGINNING.get_or_init(Instant::now)
}

impl SharedRing {
    fn name(&self) -> &str {
        &self.segment.name
    }

    fn failure(&self, py: Python<'_>, what: &str) -> PyErr {
        errors::queue_error(py, &format!("Cannot {what} queue '{}'", self.name()))
    }

    /// After a fork: the ends are the parent's, and so is the name.
    #[inline]
    fn forget_if_forked(&self) {
        if self.forks.load(Ordering::Relaxed) != FORKS.load(Ordering::Relaxed) {
            self.forget();
        }
    }

    #[cold]
    fn forget(&self) {
        self.forks.store(FORKS.load(Ordering::Relaxed), Ordering::Relaxed);
        self.made_here.store(false, Ordering::Relaxed);
        // Not dropped: that would close the ring under the parent. A lock that another thread held at the fork stays locked.
        if let Ok(mut producer) = self.producer.try_lock() {
            std::mem::forget(producer.take());
        }
        if let Ok(mut consumer) = self.consumer.try_lock() {
            std::mem::forget(consumer.take());
        }
    }

    /// Makes this process the owner of an end.
    fn claim(&self, py: Python<'_>, side: &str, owner: &AtomicU64) -> PyResult<()> {
        let me = Process::current();
        loop {
            let word = owner.load(Ordering::Relaxed);
            if let Some(other) = Process::from_word(word)
                && other.is_alive()
            {
                let what = format!(
                    "Cannot take the {side}'s end of queue '{}': process {} has it; a queue is for one producer and one consumer, so make \
                     another queue for the second",
                    self.name(),
                    other.id()
                );
                return Err(errors::queue_error(py, &what));
            }
            // Acquire: what the last owner did comes before what this one does.
            if owner.compare_exchange(word, me.word(), Ordering::Acquire, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
    }

    fn check_open(&self, py: Python<'_>, what: &str) -> PyResult<()> {
        if self.closed.load(Ordering::Acquire) {
            let what = format!(
                "Cannot {what} queue '{}': it has been closed in this process; attach again",
                self.name()
            );
            return Err(errors::queue_closed(py, &what));
        }
        Ok(())
    }

    #[inline]
    fn enter_producer<'a>(
        &'a self,
        this: &Bound<'_, Self>,
    ) -> PyResult<MutexGuard<'a, Option<Box<dyn Sender>>>> {
        let py = this.py();
        self.forget_if_forked();
        let mut end = self.producer.try_lock().map_err(|_| errors::end_in_use("producer"))?;
        if end.is_none() {
            self.check_open(py, "put into")?;
            let owner = &self.segment.head().owners.producer;
            self.claim(py, "producer", owner)?;
            // SAFETY: the segment is mapped until after the ends are dropped, all who write to it keep to the protocol, and the word of
            // the owner keeps other producers away.
            let made = unsafe { (self.segment.class.sender)(self.segment.ring(), self.segment.ring_bytes()) };
            let made = made.map_err(|error| self.failure(py, &format!("attach to ({error})")));
            *end = Some(made.inspect_err(|_| owner.store(0, Ordering::Release))?);
            close_at_exit(this)?;
        }
        Ok(end)
    }

    #[inline]
    fn enter_consumer<'a>(
        &'a self,
        this: &Bound<'_, Self>,
    ) -> PyResult<MutexGuard<'a, Option<Box<dyn Receiver>>>> {
        let py = this.py();
        self.forget_if_forked();
        let mut end = self.consumer.try_lock().map_err(|_| errors::end_in_use("consumer"))?;
        if end.is_none() {
            self.check_open(py, "get from")?;
            let owner = &self.segment.head().owners.consumer;
            self.claim(py, "consumer", owner)?;
            // SAFETY: as for the producer.
            let made =
                unsafe { (self.segment.class.receiver)(self.segment.ring(), self.segment.ring_bytes()) };
            let made = made.map_err(|error| self.failure(py, &format!("attach to ({error})")));
            *end = Some(made.inspect_err(|_| owner.store(0, Ordering::Release))?);
            close_at_exit(this)?;
        }
        Ok(end)
    }

    /// Waits until `ready`, until `deadline`, or until the process in `peer` has ended.
    fn wait(
        &self,
        py: Python<'_>,
        deadline: Option<Instant>,
        bed: &Bed,
        peer: &AtomicU64,
        mut ready: impl FnMut() -> bool + Send,
    ) -> PyResult<Waited> {
        let mut strategy = self.strategy;
        loop {
            let now = Instant::now();
            let slice = now + SLICE;
            let until = deadline.map_or(slice, |deadline| deadline.min(slice));
            if until > now && py.detach(|| bed.wait(strategy, until, &mut ready)) {
                return Ok(Waited::Ready);
            }
            py.check_signals()?;
            if let Some(died) = self.look_at(peer) {
                // It may have published before its end.
                return Ok(if ready() { Waited::Ready } else { Waited::Died(died) });
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                return Ok(Waited::TimedOut);
            }
            if strategy == WaitStrategy::Adaptive {
                strategy = WaitStrategy::Park;
            }
        }
    }

    /// The id of the process in `peer` if it has ended. Looks no more often than once in a slice.
    fn look_at(&self, peer: &AtomicU64) -> Option<u32> {
        let now = beginning().elapsed().as_nanos() as u64;
        if now.saturating_sub(self.looked_at.load(Ordering::Relaxed)) < SLICE.as_nanos() as u64 / 2 {
            return None;
        }
        let died = Process::from_word(peer.load(Ordering::Acquire)).filter(|process| !process.is_alive());
        if died.is_none() {
            self.looked_at.store(now, Ordering::Relaxed);
        }
        died.map(Process::id)
    }

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
        let (py, me) = (this.py(), this.get());
        let (kind, bytes) = encoded(item)?;
        let bytes = bytes.as_bytes();
        let mut end = me.enter_producer(this)?;
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
            let until = match until {
                Some(until) => until,
                None => *until.insert(deadline(timeout)?),
            };
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
        let (py, me) = (this.py(), this.get());
        let mut end = me.enter_consumer(this)?;
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
            let until = match until {
                Some(until) => until,
                None => *until.insert(deadline(timeout)?),
            };
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

    /// Gives the ends back that this has. Those that another thread waits at it gives back itself.
    fn give_back(&self) {
        let owners = &self.segment.head().owners;
        let me = Process::current().word();
        if let Ok(mut end) = self.producer.try_lock()
            && end.take().is_some()
        {
            // Release: who takes the end next comes after this.
            let _ = owners.producer.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed);
            self.segment.head().consumer_bed.wake();
        }
        if let Ok(mut end) = self.consumer.try_lock()
            && end.take().is_some()
        {
            let _ = owners.consumer.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed);
            self.segment.head().producer_bed.wake();
        }
    }

    fn close_now(&self) {
        self.forget_if_forked();
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let head = self.segment.head();
        let consumes = self.consumer.try_lock().is_ok_and(|end| end.is_some());
        self.give_back();
        // Of this process, if another thread waits.
        head.producer_bed.wake();
        head.consumer_bed.wake();
        let consumer = Process::from_word(head.owners.consumer.load(Ordering::Acquire));
        let reachable = consumes || self.segment.messages() == 0 || consumer.is_some_and(Process::is_alive);
        if consumes || (self.made_here.load(Ordering::Relaxed) && reachable) {
            // Already gone, or not ours to remove: nothing that whoever closes could do about it.
            let _ = Segment::remove(self.name());
        }
    }
}

impl Drop for SharedRing {
    fn drop(&mut self) {
        self.close_now();
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
        watch_forks();
        let strategy = strategy_of(wait)?;
        let (made, doing) = match capacity {
            Some(capacity) => (Segment::create(name, capacity, slot_size), "create"),
            None => (Segment::attach(name), "attach to"),
        };
        let segment = made.map_err(|error| {
            errors::queue_error(py, &format!("Cannot {doing} shared queue '{name}': {error}"))
        })?;
        Ok(Self {
            producer: Mutex::new(None),
            consumer: Mutex::new(None),
            segment,
            strategy,
            forks: AtomicU64::new(FORKS.load(Ordering::Relaxed)),
            made_here: AtomicBool::new(capacity.is_some()),
            closed: AtomicBool::new(false),
            looked_at: AtomicU64::new(beginning().elapsed().as_nanos() as u64),
        })
    }

    /// Takes a name away. Whether there was a queue, or anything else, of that name.
    #[staticmethod]
    fn _remove(py: Python<'_>, name: &str) -> PyResult<bool> {
        Segment::remove(name).map_err(|error| {
            errors::queue_error(py, &format!("Cannot remove shared queue '{name}': {error}"))
        })
    }

    #[getter(name)]
    fn py_name(&self) -> &str {
        self.name()
    }

    #[getter]
    fn capacity(&self) -> usize {
        self.segment.capacity()
    }

    #[getter]
    fn slot_size(&self) -> usize {
        self.segment.class.slot_size()
    }

    #[getter]
    fn size(&self) -> usize {
        self.segment.messages()
    }

    #[getter]
    fn empty(&self) -> bool {
        self.segment.messages() == 0
    }

    #[getter]
    fn full(&self) -> bool {
        self.segment.messages() == self.segment.capacity()
    }

    #[getter]
    fn closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    #[getter]
    fn wait_strategy(&self) -> &'static str {
        match self.strategy {
            WaitStrategy::Spin => "spin",
            WaitStrategy::Adaptive => "adaptive",
            WaitStrategy::Park => "park",
        }
    }

    #[getter]
    fn producer_pid(&self) -> Option<u32> {
        Process::from_word(self.segment.head().owners.producer.load(Ordering::Relaxed)).map(Process::id)
    }

    #[getter]
    fn consumer_pid(&self) -> Option<u32> {
        Process::from_word(self.segment.head().owners.consumer.load(Ordering::Relaxed)).map(Process::id)
    }

    #[pyo3(signature = (item, timeout = None))]
    fn put(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>, timeout: Option<f64>) -> PyResult<bool> {
        let py = item.py();
        if Self::put_within(slf, item, timeout)? {
            return Ok(true);
        }
        Err(errors::queue_full(py, slf.get().name(), slf.get().segment.capacity() as isize))
    }

    #[pyo3(signature = (timeout = None))]
    fn get(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        match Self::get_within(slf, timeout)? {
            Some(item) => Ok(item),
            None => Err(errors::queue_timeout(slf.py(), slf.get().name(), timeout.unwrap_or(0.0), "receive")),
        }
    }

    fn put_nowait(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::put_within(slf, item, Some(0.0))
    }

    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        Self::get_within(slf, Some(0.0))
    }

    fn close(&self) {
        self.close_now();
    }

    fn __len__(&self) -> usize {
        self.segment.messages()
    }
}
