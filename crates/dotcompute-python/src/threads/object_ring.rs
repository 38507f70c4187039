//! A ring of Python objects with one producer and one consumer at a time.
//!
//! Python cannot keep two threads from using the same end, so each end is behind a lock that is only ever tried: whoever finds it taken
//! is told so by an exception. An end is taken for as long as a call lasts, its waiting included.

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
use super::gil_wait::{deadline_once, detached, give_way, wait_detached};

type Object = Py<PyAny>;

/// What became of an object that was to be put in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Put {
    Done,
    Full,
    ShutDown,
}

/// One end, and how many objects have passed it: for other threads to read.
#[repr(align(128))]
struct End<E> {
    end: Mutex<E>,
    passed: AtomicU64,
}

impl<E> End<E> {
    fn new(end: E) -> Self {
        Self { end: Mutex::new(end), passed: AtomicU64::new(0) }
    }

    /// The end, or the exception for those who come second.
    #[inline]
    fn enter(&self, side: &'static str) -> PyResult<MutexGuard<'_, E>> {
        self.end.try_lock().map_err(|_| errors::end_in_use(side))
    }

    /// Counts `more` objects. Called by whoever has the end, so that nobody else writes.
    #[inline]
    fn count(&self, more: u64) {
        self.passed.store(self.passed.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }
}

/// The ring, with what it takes to wait at either end.
pub(crate) struct ObjectRing {
    producer: End<Producer<Object>>,
    consumer: End<Consumer<Object>>,
    /// Where the consumer waits for objects.
    filled: Notifier,
    /// Where the producer waits for room.
    freed: Notifier,
    /// What [`detached`] was at the last put and the last get.
    put_at: AtomicU64,
    got_at: AtomicU64,
    /// Nobody waits for room any more.
    hurried: AtomicBool,
    shut_down: AtomicBool,
    capacity: usize,
}

impl ObjectRing {
    /// A ring with room for `capacity` objects, rounded up to a power of two.
    ///
    /// # Errors
    ///
    /// `ValueError` if the capacity is less than 1, or more than there is memory for.
    pub(crate) fn new(capacity: isize, fence: Fence) -> PyResult<Self> {
        let made = channel(usize::try_from(capacity).unwrap_or(0));
        let (producer, consumer) = made.map_err(|error| {
            PyValueError::new_err(format!("Cannot make a queue of capacity {capacity}: {error}"))
        })?;
        Ok(Self {
            capacity: producer.capacity(),
            producer: End::new(producer),
            consumer: End::new(consumer),
            filled: Notifier::new(fence),
            freed: Notifier::new(fence),
            put_at: AtomicU64::new(0),
            got_at: AtomicU64::new(0),
            hurried: AtomicBool::new(false),
            shut_down: AtomicBool::new(false),
        })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many objects are in the ring.
    pub(crate) fn len(&self) -> usize {
        // What was taken first: it can only be too small then, and is never beyond what was put in.
        let taken = self.consumer.passed.load(Ordering::Acquire);
        let put = self.producer.passed.load(Ordering::Acquire);
        (put.saturating_sub(taken) as usize).min(self.capacity)
    }

    fn is_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::Acquire)
    }

    #[inline]
    fn push(&self, producer: &mut Producer<Object>, item: Object) -> Result<(), Object> {
        // First: who finds the object finds this too.
        self.put_at.store(detached(), Ordering::Relaxed);
        producer.try_push(item).map_err(dotcompute_ring::PushError::into_inner)?;
        self.producer.count(1);
        self.filled.notify();
        Ok(())
    }

    #[inline]
    fn pop(&self, consumer: &mut Consumer<Object>) -> Option<Object> {
        self.got_at.store(detached(), Ordering::Relaxed);
        let item = consumer.try_pop()?;
        self.consumer.count(1);
        self.freed.notify();
        Some(item)
    }

    /// Puts an object in if there is room.
    ///
    /// # Errors
    ///
    /// `QueueError` if another thread is at this end.
    #[inline]
    pub(crate) fn put_now(&self, py: Python<'_>, item: Object) -> PyResult<Put> {
        let mut producer = self.producer.enter("producer")?;
        if self.is_shut_down() {
            return Ok(Put::ShutDown);
        }
        let Err(item) = self.push(&mut producer, item) else { return Ok(Put::Done) };
        let end = &mut *producer;
        give_way(py, move || end.len() < self.capacity, &self.got_at);
        if self.is_shut_down() {
            return Ok(Put::ShutDown);
        }
        Ok(if self.push(&mut producer, item).is_ok() { Put::Done } else { Put::Full })
    }

    /// Takes the oldest object if there is one.
    ///
    /// # Errors
    ///
    /// `QueueError` if another thread is at this end.
    #[inline]
    pub(crate) fn get_now(&self, py: Python<'_>) -> PyResult<Option<Object>> {
        let mut consumer = self.consumer.enter("consumer")?;
        if let Some(item) = self.pop(&mut consumer) {
            return Ok(Some(item));
        }
        let end = &mut *consumer;
        give_way(py, move || !end.is_empty(), &self.put_at);
        Ok(self.pop(&mut consumer))
    }

    /// Puts an object in, waiting for room for `timeout` seconds, or without limit.
    ///
    /// # Errors
    ///
    /// As for [`put_now`](Self::put_now), and what a handler of a signal raised.
    pub(crate) fn put(&self, py: Python<'_>, item: Object, timeout: Option<f64>) -> PyResult<Put> {
        let mut producer = self.producer.enter("producer")?;
        let mut item = item;
        let mut until = None;
        loop {
            if self.is_shut_down() {
                return Ok(Put::ShutDown);
            }
            item = match self.push(&mut producer, item) {
                Ok(()) => return Ok(Put::Done),
                Err(back) => back,
            };
            if self.hurried.load(Ordering::Acquire) {
                return Ok(Put::Full);
            }
            let until = deadline_once(&mut until, timeout)?;
            let end = &mut *producer;
            let ready = move || end.len() < self.capacity || self.hurried.load(Ordering::Acquire);
            let look = looking(&self.freed, ready);
            let in_time = wait_detached(py, until, look, &self.got_at);
            self.freed.cancel();
            if !in_time? {
                return Ok(Put::Full);
            }
        }
    }

    /// Takes the oldest object, waiting for one for `timeout` seconds, or without limit. None if none came, or none can come any more.
    ///
    /// # Errors
    ///
    /// As for [`get_now`](Self::get_now), and what a handler of a signal raised.
    pub(crate) fn get(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Option<Object>> {
        let mut consumer = self.consumer.enter("consumer")?;
        let mut until = None;
        loop {
            // Before the last look: what was put in before the shutdown is still found.
            let shut_down = self.is_shut_down();
            if let Some(item) = self.pop(&mut consumer) {
                return Ok(Some(item));
            }
            if shut_down {
                return Ok(None);
            }
            let until = deadline_once(&mut until, timeout)?;
            let end = &mut *consumer;
            let look = looking(&self.filled, move || !end.is_empty() || self.is_shut_down());
            let in_time = wait_detached(py, until, look, &self.put_at);
            self.filled.cancel();
            if !in_time? {
                return Ok(None);
            }
        }
    }

    /// Takes everything out, oldest first.
    ///
    /// # Errors
    ///
    /// `QueueError` if another thread is at the consumer's end.
    pub(crate) fn drain(&self) -> PyResult<Vec<Object>> {
        let mut items = Vec::new();
        let mut consumer = self.consumer.enter("consumer")?;
        consumer.pop_batch(&mut items, self.capacity);
        self.consumer.count(items.len() as u64);
        self.freed.notify();
        Ok(items)
    }

    /// From now on nobody waits for room.
    pub(crate) fn hurry(&self) {
        self.hurried.store(true, Ordering::Release);
        self.freed.notify_with_full_fence();
    }

    /// Refuses what comes, and wakes all who wait.
    pub(crate) fn shutdown(&self) {
        self.shut_down.store(true, Ordering::Release);
        self.hurry();
        self.filled.notify_with_full_fence();
    }

    /// Shows the collector of garbage what is in the ring.
    ///
    /// Whoever is inside `get` has found the ring empty, and keeps it alive: then there is nothing to show.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(mut consumer) = self.consumer.end.try_lock() else { return Ok(()) };
        match consumer.claim(self.capacity) {
            Some(claim) => claim.iter().try_for_each(|item| visit.call(item)),
            None => Ok(()),
        }
    }
}

/// How to look whether it is `ready`, and, with a context, to be woken through `signal` first.
fn looking<'a>(
    signal: &'a Notifier,
    mut ready: impl FnMut() -> bool + Send + 'a,
) -> impl FnMut(Option<&mut Context<'_>>) -> Poll<()> + Send + 'a {
    move |cx| {
        if let Some(cx) = cx {
            // False while somebody is waking this thread, for a few instructions.
            while !signal.register(cx.waker()) {
                std::thread::yield_now();
            }
        }
        if ready() { Poll::Ready(()) } else { Poll::Pending }
    }
}
