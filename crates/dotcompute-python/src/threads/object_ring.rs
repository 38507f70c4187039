//! A ring of Python objects with one producer and one consumer at a time.
//!
//! Python cannot prevent two threads from using the same endpoint, so each endpoint is behind a mutex. Calls only try to lock it, and a
//! second thread gets an exception. A call holds the lock until it returns, also while it waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll};

use dotcompute_ring::fence::Fence;
use dotcompute_ring::notifier::Notifier;
use dotcompute_ring::spsc::{Consumer, Producer, channel};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, PyVisit};

use super::errors;
use super::gil_wait::{deadline_once, detach_count, wait_detached, yield_gil};
use crate::fork::Origin;

type Object = Py<PyAny>;

/// The result of a put.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PutResult {
    Done,
    Full,
    ShutDown,
}

/// An endpoint, and the number of objects that have passed it, for other threads to read.
#[repr(align(128))]
struct Endpoint<E> {
    endpoint: Mutex<E>,
    passed: AtomicU64,
}

impl<E> Endpoint<E> {
    fn new(endpoint: E) -> Self {
        Self { endpoint: Mutex::new(endpoint), passed: AtomicU64::new(0) }
    }

    /// Locks the endpoint. A second thread gets `QueueError`.
    #[inline]
    fn lock(&self, side: &'static str) -> PyResult<MutexGuard<'_, E>> {
        self.endpoint.try_lock().map_err(|_| errors::end_in_use(side))
    }

    /// Counts objects. Only the holder of the lock calls it, so there is one writer.
    #[inline]
    fn count(&self, objects: u64) {
        self.passed.store(self.passed.load(Ordering::Relaxed) + objects, Ordering::Relaxed);
    }
}

/// The ring, and the notifiers on which its two sides wait.
pub(crate) struct ObjectRing {
    producer: Endpoint<Producer<Object>>,
    consumer: Endpoint<Consumer<Object>>,
    /// The consumer waits here for objects.
    filled: Notifier,
    /// The producer waits here for a free slot.
    freed: Notifier,
    /// The [`detach_count`] at the last put and at the last get.
    put_detach_count: AtomicU64,
    get_detach_count: AtomicU64,
    /// Puts return at once if the ring is full.
    puts_do_not_block: AtomicBool,
    /// Gets find no object.
    gets_are_paused: AtomicBool,
    shut_down: AtomicBool,
    capacity: usize,
    origin: Origin,
}

impl ObjectRing {
    /// Creates a ring for `capacity` objects, rounded up to a power of two.
    ///
    /// # Errors
    ///
    /// `ValueError` if the capacity is less than 1, or if there is not enough memory.
    pub(crate) fn new(capacity: isize, fence: Fence) -> PyResult<Self> {
        let channel = channel(usize::try_from(capacity).unwrap_or(0));
        let (producer, consumer) = channel.map_err(|error| {
            PyValueError::new_err(format!("Cannot create a queue of capacity {capacity}: {error}"))
        })?;
        Ok(Self {
            capacity: producer.capacity(),
            producer: Endpoint::new(producer),
            consumer: Endpoint::new(consumer),
            filled: Notifier::new(fence),
            freed: Notifier::new(fence),
            put_detach_count: AtomicU64::new(0),
            get_detach_count: AtomicU64::new(0),
            puts_do_not_block: AtomicBool::new(false),
            gets_are_paused: AtomicBool::new(false),
            shut_down: AtomicBool::new(false),
            origin: Origin::current(),
        })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Checks that the ring is no copy that a forked child inherited.
    ///
    /// # Errors
    ///
    /// `ForkedProcessError`.
    #[inline]
    pub(crate) fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        self.origin.check(py, || "this queue between threads".to_owned())
    }

    /// Whether a forked child inherited the ring.
    pub(crate) fn is_inherited(&self) -> bool {
        self.origin.is_inherited()
    }

    /// Number of objects in the ring.
    pub(crate) fn len(&self) -> usize {
        // Load the consumer count first: an outdated value makes the result too large, never negative. Acquire keeps the other load after
        // it.
        let popped = self.consumer.passed.load(Ordering::Acquire);
        let pushed = self.producer.passed.load(Ordering::Acquire);
        (pushed.saturating_sub(popped) as usize).min(self.capacity)
    }

    fn is_shut_down(&self) -> bool {
        // Acquire: pairs with the release store in `shutdown`.
        self.shut_down.load(Ordering::Acquire)
    }

    #[inline]
    fn is_paused(&self) -> bool {
        // Acquire: pairs with the release store in `set_paused`.
        self.gets_are_paused.load(Ordering::Acquire)
    }

    #[inline]
    fn push(&self, producer: &mut Producer<Object>, item: Object) -> Result<(), Object> {
        // Stored before the push, which publishes it with the object.
        self.put_detach_count.store(detach_count(), Ordering::Relaxed);
        producer.try_push(item).map_err(dotcompute_ring::PushError::into_inner)?;
        self.producer.count(1);
        // SYNC POINT: spsc filled
        // Push, then notify: pairs with register, then poll in `get`. The fence of `Notifier` orders the two steps on each side.
        self.filled.notify();
        Ok(())
    }

    #[inline]
    fn pop(&self, consumer: &mut Consumer<Object>) -> Option<Object> {
        self.get_detach_count.store(detach_count(), Ordering::Relaxed);
        let item = consumer.try_pop()?;
        self.consumer.count(1);
        // SYNC POINT: spsc freed
        // Pop, then notify: pairs with register, then poll in `put`.
        self.freed.notify();
        Some(item)
    }

    /// Puts an object without waiting.
    ///
    /// # Errors
    ///
    /// `QueueError` if another thread uses the producer endpoint; `ForkedProcessError` in a forked child.
    #[inline]
    pub(crate) fn put_now(&self, py: Python<'_>, item: Object) -> PyResult<PutResult> {
        self.check_process(py)?;
        let mut producer = self.producer.lock("producer")?;
        if self.is_shut_down() {
            return Ok(PutResult::ShutDown);
        }
        let Err(item) = self.push(&mut producer, item) else { return Ok(PutResult::Done) };
        let endpoint = &mut *producer;
        yield_gil(py, move || endpoint.len() < self.capacity, &self.get_detach_count);
        if self.is_shut_down() {
            return Ok(PutResult::ShutDown);
        }
        Ok(if self.push(&mut producer, item).is_ok() { PutResult::Done } else { PutResult::Full })
    }

    /// Takes the oldest object without waiting.
    ///
    /// # Errors
    ///
    /// `QueueError` if another thread uses the consumer endpoint; `ForkedProcessError` in a forked child.
    #[inline]
    pub(crate) fn get_now(&self, py: Python<'_>) -> PyResult<Option<Object>> {
        self.check_process(py)?;
        let mut consumer = self.consumer.lock("consumer")?;
        if self.is_paused() {
            return Ok(None);
        }
        if let Some(item) = self.pop(&mut consumer) {
            return Ok(Some(item));
        }
        let endpoint = &mut *consumer;
        yield_gil(py, move || !endpoint.is_empty(), &self.put_detach_count);
        Ok(self.pop(&mut consumer))
    }

    /// Puts an object, waiting for a free slot for up to `timeout` seconds, or without limit.
    ///
    /// # Errors
    ///
    /// As for [`put_now`](Self::put_now), and the exception of a signal handler.
    pub(crate) fn put(&self, py: Python<'_>, item: Object, timeout: Option<f64>) -> PyResult<PutResult> {
        self.check_process(py)?;
        let mut producer = self.producer.lock("producer")?;
        let mut item = item;
        let mut deadline = None;
        loop {
            if self.is_shut_down() {
                return Ok(PutResult::ShutDown);
            }
            item = match self.push(&mut producer, item) {
                Ok(()) => return Ok(PutResult::Done),
                Err(rejected) => rejected,
            };
            if self.puts_do_not_block.load(Ordering::Acquire) {
                return Ok(PutResult::Full);
            }
            let deadline = deadline_once(&mut deadline, timeout)?;
            let endpoint = &mut *producer;
            let ready =
                move || endpoint.len() < self.capacity || self.puts_do_not_block.load(Ordering::Acquire);
            // SYNC POINT: spsc freed
            // Register, then poll: pairs with pop, then notify in `pop`.
            let poll = poll_with_waker(&self.freed, ready);
            let is_ready = wait_detached(py, deadline, poll, &self.get_detach_count);
            self.freed.cancel();
            if !is_ready? {
                return Ok(PutResult::Full);
            }
        }
    }

    /// Takes the oldest object, waiting for up to `timeout` seconds, or without limit. `None` at the deadline, or if the ring is shut down
    /// and empty.
    ///
    /// # Errors
    ///
    /// As for [`get_now`](Self::get_now), and the exception of a signal handler.
    pub(crate) fn get(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Object>> {
        self.check_process(py)?;
        let mut consumer = self.consumer.lock("consumer")?;
        let mut deadline = None;
        loop {
            // Read before the last pop, so that objects pushed before the shutdown are still found. A shutdown ends a pause before.
            let shut_down = self.is_shut_down();
            if !self.is_paused()
                && let Some(item) = self.pop(&mut consumer)
            {
                return Ok(Some(item));
            }
            if shut_down {
                return Ok(None);
            }
            let deadline = deadline_once(&mut deadline, timeout)?;
            let endpoint = &mut *consumer;
            // SYNC POINT: spsc filled
            // Register, then poll: pairs with push, then notify in `push`.
            let ready = move || (!endpoint.is_empty() && !self.is_paused()) || self.is_shut_down();
            let poll = poll_with_waker(&self.filled, ready);
            let is_ready = wait_detached(py, deadline, poll, &self.put_detach_count);
            self.filled.cancel();
            if !is_ready? {
                return Ok(None);
            }
        }
    }

    /// Takes all objects, oldest first.
    ///
    /// # Errors
    ///
    /// `QueueError` if another thread uses the consumer endpoint.
    pub(crate) fn drain(&self) -> PyResult<Vec<Object>> {
        let mut items = Vec::new();
        let mut consumer = self.consumer.lock("consumer")?;
        consumer.pop_batch(&mut items, self.capacity);
        self.consumer.count(items.len() as u64);
        // SYNC POINT: spsc freed
        // Pop, then notify: pairs with register, then poll in `put`.
        self.freed.notify();
        Ok(items)
    }

    /// Makes puts return at once if the ring is full, including waiting ones.
    pub(crate) fn stop_blocking_puts(&self) {
        // SYNC POINT: spsc freed
        // Release: pairs with the acquire loads in `put`. Store, then notify with a full fence, since this thread is not the consumer.
        self.puts_do_not_block.store(true, Ordering::Release);
        self.freed.notify_with_full_fence();
    }

    /// Pauses gets, or ends the pause. During it objects are accepted, and gets find none.
    pub(crate) fn set_paused(&self, paused: bool) {
        // SYNC POINT: spsc filled
        // Release: pairs with the acquire load in `is_paused`. Store, then notify with a full fence, since this thread is not the producer.
        self.gets_are_paused.store(paused, Ordering::Release);
        self.filled.notify_with_full_fence();
    }

    /// Rejects puts from now on, ends a pause and wakes both sides.
    pub(crate) fn shutdown(&self) {
        // SYNC POINT: spsc filled
        // Release: pairs with the acquire load in `is_shut_down`. Store, then notify with a full fence, since this thread is not the
        // producer.
        self.gets_are_paused.store(false, Ordering::Release);
        self.shut_down.store(true, Ordering::Release);
        self.stop_blocking_puts();
        self.filled.notify_with_full_fence();
    }

    /// Visits the objects in the ring for the garbage collector.
    ///
    /// Visits none if another thread is inside a call: that thread keeps the ring alive.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(mut consumer) = self.consumer.endpoint.try_lock() else { return Ok(()) };
        match consumer.claim(self.capacity) {
            Some(claim) => claim.iter().try_for_each(|item| visit.call(item)),
            None => Ok(()),
        }
    }
}

/// Creates a poll function for [`wait_detached`]: with a context, it registers the waker with `notifier` before it checks `ready`.
fn poll_with_waker<'a>(
    notifier: &'a Notifier,
    mut ready: impl FnMut() -> bool + Send + 'a,
) -> impl FnMut(Option<&mut Context<'_>>) -> Poll<()> + Send + 'a {
    move |cx| {
        if let Some(cx) = cx {
            // `register` fails while another thread is notifying, which takes a few instructions.
            while !notifier.register(cx.waker()) {
                std::thread::yield_now();
            }
        }
        if ready() { Poll::Ready(()) } else { Poll::Pending }
    }
}
