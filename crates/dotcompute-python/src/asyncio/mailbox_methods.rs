//! Operations of a mailbox that the queue classes and ports offer to users.

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
    // Inlined, so that the state of the waiter is built in place and not copied.
    #[inline(always)]
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
    #[inline(always)]
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
    pub(super) fn take_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.check_process(py)?;
        let mut effects = Effects::default();
        let message = self.lock().take_unless_paused(py, &mut effects);
        self.apply_effects(py, effects)?;
        Ok(message)
    }

    pub(super) fn put_now(&self, message: &Bound<'_, PyAny>) -> PyResult<bool> {
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

    /// Puts messages in order, without waiting, until the mailbox is full. Returns how many it accepted.
    pub(super) fn put_list(&self, messages: &Bound<'_, PyList>) -> PyResult<usize> {
        let mut accepted = 0;
        for message in messages {
            if !self.put_now(&message)? {
                break;
            }
            accepted += 1;
        }
        Ok(accepted)
    }

    /// Takes at most `max_count` messages without waiting.
    pub(super) fn take_list(&self, py: Python<'_>, max_count: usize) -> PyResult<Vec<Py<PyAny>>> {
        let mut messages = Vec::new();
        while messages.len() < max_count
            && let Some(message) = self.take_now(py)?
        {
            messages.push(message);
        }
        Ok(messages)
    }

    /// Number of queued messages.
    pub(super) fn queued(&self, py: Python<'_>) -> PyResult<usize> {
        self.check_process(py)?;
        Ok(self.lock().queue.len())
    }

    /// Whether there are no free slots.
    pub(super) fn is_full(&self, py: Python<'_>) -> PyResult<bool> {
        self.check_process(py)?;
        let state = self.lock();
        Ok(state.queue.len() >= state.capacity)
    }

    /// Discards all queued messages. Returns how many.
    pub(super) fn discard_all(&self, py: Python<'_>) -> PyResult<usize> {
        self.check_process(py)?;
        self.drain(py, false).map(|messages| messages.len())
    }

    /// Returns the counters by name, and with bands the number of messages in each.
    pub(super) fn counters_by_name<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
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
