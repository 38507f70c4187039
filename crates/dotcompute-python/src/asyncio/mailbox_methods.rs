//! Methods of a mailbox that users call.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::mailbox::{Effects, Entry, Mailbox};
use super::priority_queue::Order;
use super::routing;
use super::waiter::{Kind, WaiterState};
use super::waiter_type;

impl Mailbox {
    /// Accepts a message, or returns it if the mailbox is full and does not drop the oldest.
    pub(super) fn try_put(&self, py: Python<'_>, entry: Entry, effects: &mut Effects) -> Result<(), Entry> {
        self.lock().accept(py, entry, effects)
    }

    /// Returns an awaitable of `True`, which puts a message and waits while the mailbox is full.
    pub(super) fn put_for<'py>(
        me: &Bound<'py, Self>,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
        method: &'static str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = me.py();
        if let Err(error) = me.get().check_process(py) {
            return waiter_type::failed(py, method, error);
        }
        let level = match me.get().order().level_of(&message) {
            Ok(level) => level,
            Err(error) => return waiter_type::failed(py, method, error),
        };
        let mut state = WaiterState::new(Kind::Put, Some(message.unbind()), timeout);
        state.level = level;
        state.method = method;
        waiter_type::new_waiter(py, me.clone().unbind(), state)
    }

    /// Returns an awaitable of the next message. `input` is that of the ring kernel, if this is its output.
    pub(super) fn get_for<'py>(
        me: &Bound<'py, Self>,
        timeout: Option<f64>,
        method: &'static str,
        input: Option<Py<Mailbox>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if let Err(error) = me.get().check_process(me.py()) {
            return waiter_type::failed(me.py(), method, error);
        }
        let mut state = WaiterState::new(Kind::Get, None, timeout);
        (state.method, state.input) = (method, input);
        waiter_type::new_waiter(me.py(), me.clone().unbind(), state)
    }

    /// Takes the next message without waiting.
    fn take_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.check_process(py)?;
        let mut effects = Effects::default();
        let message = self.lock().take_unless_paused(py, &mut effects);
        self.apply_effects(py, effects)?;
        Ok(message)
    }

    fn put_now(&self, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = message.py();
        self.check_process(py)?;
        if let Some(router) = self.router(py) {
            return routing::deliver_now(&router, message);
        }
        let order = self.order();
        let entry = Entry {
            message: message.clone().unbind(),
            level: order.level_of(message)?,
            accepted_at: 0,
            ask: None,
        };
        let mut effects = Effects::default();
        let accepted = self.try_put(py, entry, &mut effects).is_ok();
        // No other coroutine may run between two `await`s of a coroutine, so the receiver resumes through its loop.
        effects.others.extend(effects.receiver.take());
        self.apply_effects(py, effects)?;
        Ok(accepted)
    }
}

#[pymethods]
impl Mailbox {
    /// Maximum number of messages; 0 for no limit.
    #[getter]
    fn maxsize(&self) -> usize {
        self.lock().maxsize()
    }

    /// Number of queued messages.
    #[getter]
    fn qsize(&self, py: Python<'_>) -> PyResult<usize> {
        self.check_process(py)?;
        Ok(self.lock().queue.len())
    }

    /// Whether there are no queued messages.
    #[getter]
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.qsize(py)? == 0)
    }

    /// Whether there are no free slots.
    #[getter]
    fn full(&self, py: Python<'_>) -> PyResult<bool> {
        self.check_process(py)?;
        let state = self.lock();
        Ok(state.queue.len() >= state.capacity)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.qsize(py)
    }

    /// Whether a forked child inherited the queue.
    #[getter]
    fn _is_inherited(&self) -> bool {
        self.is_inherited()
    }

    fn __bool__(&self) -> bool {
        true
    }

    /// Puts a message.
    ///
    /// Args:
    ///     message: The message.
    ///     timeout: Maximum wait for a free slot, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     An awaitable of True.
    ///
    /// Raises:
    ///     QueueFullError: The queue is full, and it rejects messages or the timeout is 0.
    ///     QueueTimeoutError: The queue was full until the timeout.
    #[pyo3(signature = (message, *, timeout=None))]
    fn put<'py>(
        slf: &Bound<'py, Self>,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::put_for(slf, message, timeout, "put")
    }

    /// Takes the next message.
    ///
    /// Args:
    ///     timeout: Maximum wait for a message, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     An awaitable of the message.
    ///
    /// Raises:
    ///     QueueTimeoutError: The queue was empty until the timeout.
    #[pyo3(signature = (*, timeout=None))]
    fn get<'py>(slf: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Self::get_for(slf, timeout, "get", None)
    }

    /// Puts a message without waiting.
    ///
    /// Args:
    ///     message: The message.
    ///
    /// Returns:
    ///     Whether the queue accepted the message.
    fn put_nowait(&self, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.put_now(message)
    }

    /// `put` with the parameter name ``item``.
    #[pyo3(signature = (item, *, timeout=None))]
    fn _put_item<'py>(
        slf: &Bound<'py, Self>,
        item: Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::put(slf, item, timeout)
    }

    /// `put_nowait` with the parameter name ``item``.
    fn _put_item_nowait(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.put_nowait(item)
    }

    /// Takes the next message without waiting.
    ///
    /// Returns:
    ///     The message, or None if the queue is empty.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.take_now(py)
    }

    /// Puts messages in order, without waiting, until the queue is full.
    ///
    /// Args:
    ///     messages: The messages.
    ///
    /// Returns:
    ///     Number of messages accepted.
    fn put_batch(&self, messages: &Bound<'_, PyList>) -> PyResult<usize> {
        let mut accepted = 0;
        for message in messages {
            if !self.put_now(&message)? {
                break;
            }
            accepted += 1;
        }
        Ok(accepted)
    }

    /// Takes queued messages without waiting.
    ///
    /// Args:
    ///     max_count: Maximum number of messages to take.
    ///
    /// Returns:
    ///     The messages, in order.
    fn get_batch(&self, py: Python<'_>, max_count: usize) -> PyResult<Vec<Py<PyAny>>> {
        let mut messages = Vec::new();
        while messages.len() < max_count
            && let Some(message) = self.take_now(py)?
        {
            messages.push(message);
        }
        Ok(messages)
    }

    /// Discards all queued messages.
    ///
    /// Returns:
    ///     Number of messages discarded.
    fn clear(&self, py: Python<'_>) -> PyResult<usize> {
        self.check_process(py)?;
        self.drain(py, false).map(|messages| messages.len())
    }

    /// Returns the counters of the queue, and for a queue with bands the number of messages in each band.
    ///
    /// Returns:
    ///     ``current_size``, ``max_size``, ``peak_size``, ``total_enqueued``, ``total_dequeued``, ``total_dropped``, ``never_awaited``,
    ///     ``band_counts``.
    fn get_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.check_process(py)?;
        let state = self.lock();
        let bands =
            (self.order() == Order::Bands).then(|| [0, 1, 2, 3].map(|level| state.queue.level_len(level)));
        let (len, maxsize, peak) = (state.queue.len(), state.maxsize(), state.peak);
        let (enqueued, dequeued, dropped) = (state.enqueued, state.dequeued, state.dropped);
        let never_awaited = state.never_awaited;
        drop(state);
        let stats = PyDict::new(py);
        stats.set_item(intern!(py, "current_size"), len)?;
        stats.set_item(intern!(py, "max_size"), maxsize)?;
        stats.set_item(intern!(py, "peak_size"), peak)?;
        stats.set_item(intern!(py, "total_enqueued"), enqueued)?;
        stats.set_item(intern!(py, "total_dequeued"), dequeued)?;
        stats.set_item(intern!(py, "total_dropped"), dropped)?;
        stats.set_item(intern!(py, "never_awaited"), never_awaited)?;
        if let Some(bands) = bands {
            let counts = PyDict::new(py);
            for (name, count) in ["system", "high", "normal", "low"].into_iter().zip(bands) {
                counts.set_item(name, count)?;
            }
            stats.set_item(intern!(py, "band_counts"), counts)?;
        }
        Ok(stats)
    }
}
