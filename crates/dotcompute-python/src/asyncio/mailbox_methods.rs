//! What users call at a mailbox.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::errors;
use super::mailbox_state::{Backpressure, Effects, Entry};
use super::mailbox::{Mailbox, level};
use super::waiter::{self, Kind, State};

impl Mailbox {
    /// Puts a message in, waiting for room if there is none: an awaitable of `True`.
    pub(super) fn put_for<'py>(
        me: &Bound<'py, Self>,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
        ask: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = me.py();
        let order = me.get().order();
        let level = match level(order, &message) {
            Ok(level) => level,
            Err(error) => return waiter::ready(py, Err(error)),
        };
        let mut effects = Effects::default();
        let entry = Entry { message: message.unbind(), level, since: 0, ask };
        let refused = me.get().offer(py, entry, &mut effects);
        me.get().settle(py, effects)?;
        match refused {
            Ok(()) => waiter::done(py),
            Err(entry) => Self::wait_for_room(me, entry, timeout),
        }
    }

    /// There is no room: an awaitable that waits for some, or one that fails.
    fn wait_for_room<'py>(
        me: &Bound<'py, Self>,
        entry: Entry,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = me.py();
        let (rejects, kernel, capacity) = {
            let inner = me.get().lock();
            (inner.backpressure == Backpressure::Reject, inner.kernel.clone(), inner.capacity)
        };
        if rejects || timeout.is_some_and(|timeout| timeout <= 0.0) {
            let mut effects = Effects::default();
            effects.refuse(entry.ask);
            me.get().settle(py, effects)?;
            return waiter::ready(py, Err(errors::full(py, &kernel, capacity)));
        }
        let mut state = State::new(Kind::Put, Some(entry.message), timeout);
        state.level = entry.level;
        state.ask = entry.ask;
        waiter::at(py, me.clone().unbind(), state)
    }

    /// Takes the next message, waiting for one if there is none: an awaitable of it.
    pub(super) fn get_for<'py>(me: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        waiter::at(me.py(), me.clone().unbind(), State::new(Kind::Get, None, timeout))
    }

    /// Takes the next message if there is one.
    fn take_now(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let mut effects = Effects::default();
        let message = self.lock().take_unless_paused(py, &mut effects);
        self.settle(py, effects)?;
        Ok(message)
    }

    fn put_now(&self, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        let py = message.py();
        let order = self.order();
        let entry =
            Entry { message: message.clone().unbind(), level: level(order, message)?, since: 0, ask: None };
        let mut effects = Effects::default();
        let accepted = self.offer(py, entry, &mut effects).is_ok();
        // Between two `await`s of a coroutine no other runs, and this is no `await`.
        effects.others.extend(effects.receiver.take());
        self.settle(py, effects)?;
        Ok(accepted)
    }
}

#[pymethods]
impl Mailbox {
    /// How many messages it holds at the most.
    #[getter]
    fn maxsize(&self) -> usize {
        self.lock().capacity
    }

    /// How many messages it holds.
    #[getter]
    fn qsize(&self) -> usize {
        self.lock().queue.len()
    }

    /// Whether it holds none.
    #[getter]
    fn empty(&self) -> bool {
        self.lock().queue.len() == 0
    }

    /// Whether there is no room.
    #[getter]
    fn full(&self) -> bool {
        let inner = self.lock();
        inner.queue.len() >= inner.capacity
    }

    fn __len__(&self) -> usize {
        self.lock().queue.len()
    }

    fn __bool__(&self) -> bool {
        true
    }

    #[pyo3(signature = (message, *, timeout=None))]
    fn put<'py>(
        slf: &Bound<'py, Self>,
        message: Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::put_for(slf, message, timeout, None)
    }

    #[pyo3(signature = (*, timeout=None))]
    fn get<'py>(slf: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Self::get_for(slf, timeout)
    }

    fn put_nowait(&self, message: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.put_now(message)
    }

    /// `put` where a message is called an item.
    #[pyo3(signature = (item, *, timeout=None))]
    fn _put_item<'py>(
        slf: &Bound<'py, Self>,
        item: Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::put(slf, item, timeout)
    }

    /// `put_nowait` where a message is called an item.
    fn _put_item_nowait(&self, item: &Bound<'_, PyAny>) -> PyResult<bool> {
        self.put_nowait(item)
    }

    fn get_nowait(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.take_now(py)
    }

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

    fn get_batch(&self, py: Python<'_>, max_count: usize) -> PyResult<Vec<Py<PyAny>>> {
        let mut messages = Vec::new();
        while messages.len() < max_count
            && let Some(message) = self.take_now(py)?
        {
            messages.push(message);
        }
        Ok(messages)
    }

    /// Throws away what it holds. Returns how many messages that were.
    fn clear(&self, py: Python<'_>) -> PyResult<usize> {
        self.drained(py, false).map(|messages| messages.len())
    }

    /// What has gone in and out, and, of a queue with bands, how many messages each band holds.
    fn get_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let inner = self.lock();
        let bands = (self.order() == super::priority_queue::Order::Bands)
            .then(|| [0, 1, 2, 3].map(|level| inner.queue.len_of(level)));
        let (len, capacity, peak) = (inner.queue.len(), inner.capacity, inner.peak);
        let (enqueued, dequeued, dropped) = (inner.enqueued, inner.dequeued, inner.dropped);
        drop(inner);
        let stats = PyDict::new(py);
        stats.set_item(intern!(py, "current_size"), len)?;
        stats.set_item(intern!(py, "max_size"), capacity)?;
        stats.set_item(intern!(py, "peak_size"), peak)?;
        stats.set_item(intern!(py, "total_enqueued"), enqueued)?;
        stats.set_item(intern!(py, "total_dequeued"), dequeued)?;
        stats.set_item(intern!(py, "total_dropped"), dropped)?;
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
