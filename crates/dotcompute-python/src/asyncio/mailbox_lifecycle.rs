//! What the lifecycle of a ring kernel does to its mailboxes.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};

use super::counters::Counters;
use super::mailbox_state::{AfterTime, Backpressure, Effects, Inner};
use super::priority_queue::{Levels, Order};
use super::mailbox::Mailbox;
use super::waiter::{self, Status};

#[pymethods]
impl Mailbox {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        Mailbox::fresh()
    }

    /// Says what kind of queue it is. The constructors of the deriving classes call this.
    #[pyo3(signature = (kernel_id, capacity, order, backpressure, timeout_behavior))]
    fn _configure(
        &self,
        kernel_id: String,
        capacity: usize,
        order: &str,
        backpressure: &str,
        timeout_behavior: &str,
    ) -> PyResult<()> {
        let (order, backpressure) = (Order::parse(order)?, Backpressure::parse(backpressure)?);
        let timeout_behavior = AfterTime::parse(timeout_behavior)?;
        if capacity == 0 {
            return Err(PyValueError::new_err("a queue has room for one message at least"));
        }
        // Set up twice it keeps its order: a queue may be given another capacity, not another kind.
        let order = *self.order.get_or_init(|| order);
        let mut inner = self.lock();
        let fresh = Inner {
            kernel: kernel_id,
            capacity,
            backpressure,
            timeout_behavior,
            queue: Levels::new(order),
            ..Inner::fresh()
        };
        let old = std::mem::replace(&mut *inner, fresh);
        drop(inner);
        drop(old);
        Ok(())
    }

    /// Makes it the input of a ring kernel whose answers go to `output`.
    fn _set_output(&self, output: Py<Mailbox>) {
        let old = self.lock().output.replace(output);
        drop(old);
    }

    /// Counts what is handled, and how long it takes, from now on.
    fn _set_counters(&self, counters: Option<Py<Counters>>) {
        let mut inner = self.lock();
        let old = std::mem::replace(&mut inner.counters, counters);
        drop(inner);
        drop(old);
    }

    /// Keeps messages, and gives out none, until it is told otherwise.
    fn _set_paused(&self, py: Python<'_>, paused: bool) -> PyResult<()> {
        self.lock().paused = paused;
        loop {
            let mut effects = Effects::default();
            if !self.lock().hand_out(py, &mut effects) {
                return Ok(());
            }
            self.settle(py, effects)?;
        }
    }

    /// The ring kernel is to end: whoever finds no message is sent away.
    fn _end_getters(&self, py: Python<'_>) -> PyResult<()> {
        let mut effects = Effects::default();
        {
            let mut inner = self.lock();
            inner.ending = true;
            inner.send_getters_away(py, &mut effects);
        }
        self.settle(py, effects)
    }

    /// Whoever waits here, or comes to wait, gets `KernelError` with this cause, once there are no more messages.
    fn _fail(&self, py: Python<'_>, cause: Py<PyAny>) -> PyResult<()> {
        let mut effects = Effects::default();
        let old = {
            let mut inner = self.lock();
            let old = inner.failure.replace(cause);
            inner.break_all(py, &mut effects);
            old
        };
        drop(old);
        self.settle(py, effects)
    }

    /// Those whose messages the ring kernel had taken get `KernelError` with this cause: it failed, and goes on with the next.
    fn _fail_taken_asks(&self, py: Python<'_>, cause: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut effects = Effects::default();
        {
            let mut inner = self.lock();
            self.unanswered.store(0, Relaxed);
            for ask in std::mem::take(&mut inner.asks_taken) {
                // SAFETY: asks are waiters of this mailbox, whose lock is held.
                let state = unsafe { waiter::state(&ask) };
                if matches!(state.status, Status::Expecting | Status::Parked) {
                    state.value = Some(cause.clone().unbind());
                    effects.others.extend(state.finish(&ask, Status::Broken, py));
                }
                effects.seldom().gone.push(ask);
            }
        }
        self.settle(py, effects)
    }

    /// The message that the ring kernel was at, if it was at one, in a tuple: it will not be handled.
    fn _take_current(&self) -> Option<(Py<PyAny>,)> {
        let mut inner = self.lock();
        let current = inner.current.take()?;
        inner.in_hand = 0;
        inner.count_dropped(1);
        Some((current,))
    }

    /// Takes out all that was not handled: as a list, in order. Their askers are told.
    fn _drain(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.drained(py, true)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Whoever holds the lock runs no Python, so the collector cannot come upon it held but by chance of threads; then it sees less,
        // and keeps more.
        let Some(inner) = self.inner.try_lock() else { return Ok(()) };
        for entry in inner.queue.iter() {
            visit.call(&entry.message)?;
            if let Some(ask) = &entry.ask {
                visit.call(ask)?;
            }
        }
        let lists = [&inner.getters, &inner.putters, &inner.asks_sent, &inner.asks_taken];
        for waiter in lists.into_iter().flatten() {
            visit.call(waiter)?;
        }
        visit.call(&inner.current)?;
        visit.call(&inner.failure)?;
        visit.call(&inner.counters)?;
        visit.call(&inner.output)?;
        if let Some(timer) = &inner.timer {
            timer.traverse(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let old = std::mem::replace(&mut *self.lock(), Inner::fresh());
        drop(old);
    }
}
