//! Methods of a mailbox that the lifecycle of its ring kernel calls.

use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};

use super::counters::Counters;
use super::mailbox::{Backpressure, Effects, Mailbox, MailboxState, TimeoutBehavior, UNLIMITED};
use super::priority_queue::{Order, PriorityQueue};

#[pymethods]
impl Mailbox {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        Mailbox::unconfigured()
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.queued(py)
    }

    fn __bool__(&self) -> bool {
        true
    }

    /// Whether a forked child inherited the queue.
    #[getter]
    fn _is_inherited(&self) -> bool {
        self.is_inherited()
    }

    /// Configures the queue. The constructors of the derived classes call it.
    ///
    /// Args:
    ///     kernel_id: Name of the ring kernel, for errors.
    ///     capacity: Maximum number of messages; 0 or less for no limit.
    ///     order: ``"fifo"``, ``"bands"`` or ``"strict"``. A second call does not change it.
    ///     backpressure: ``"block"``, ``"reject"`` or ``"drop_oldest"``.
    ///     timeout_behavior: ``"full"``, ``"timeout"`` or ``"return"``.
    ///
    /// Raises:
    ///     ValueError: A name is unknown.
    #[pyo3(signature = (kernel_id, capacity, order, backpressure, timeout_behavior))]
    fn _configure(
        &self,
        kernel_id: String,
        capacity: isize,
        order: &str,
        backpressure: &str,
        timeout_behavior: &str,
    ) -> PyResult<()> {
        let (order, backpressure) = (Order::parse(order)?, Backpressure::parse(backpressure)?);
        let timeout_behavior = TimeoutBehavior::parse(timeout_behavior)?;
        let capacity = usize::try_from(capacity).ok().filter(|&capacity| capacity > 0).unwrap_or(UNLIMITED);
        let order = *self.order.get_or_init(|| order);
        let mut state = self.lock();
        let configured = MailboxState {
            kernel: kernel_id,
            capacity,
            backpressure,
            timeout_behavior,
            queue: PriorityQueue::new(order),
            ..MailboxState::unconfigured()
        };
        let old = std::mem::replace(&mut *state, configured);
        drop(state);
        drop(old);
        Ok(())
    }

    /// Makes this the input of a ring kernel whose replies go to ``output``.
    fn _set_output(&self, output: Py<Mailbox>) {
        let old = self.lock().output.replace(output);
        drop(old);
    }

    /// Calls this function with each message that the full mailbox drops from now on.
    fn _set_dropped(&self, function: Py<PyAny>) {
        let old = self.lock().dropped_messages.replace(function);
        drop(old);
    }

    /// Sets the event loop of the ring kernel, so that a wait from another loop can be refused if this one does not run.
    fn _set_event_loop(&self, event_loop: Py<PyAny>) {
        let old = self.lock().event_loop.replace(event_loop);
        drop(old);
    }

    /// Counts handled messages and their latencies from now on.
    fn _set_counters(&self, counters: Option<Py<Counters>>) {
        let mut state = self.lock();
        let old = std::mem::replace(&mut state.counters, counters);
        drop(state);
        drop(old);
    }

    /// Records the durations of asks from now on. For the output of a ring kernel.
    fn _set_ask_counters(&self, counters: Option<Py<Counters>>) {
        let mut state = self.lock();
        let old = std::mem::replace(&mut state.ask_counters, counters);
        drop(state);
        drop(old);
    }

    /// Pauses or resumes delivery. A paused mailbox accepts messages and delivers none.
    fn _set_paused(&self, py: Python<'_>, paused: bool) -> PyResult<()> {
        self.check_process(py)?;
        self.lock().paused = paused;
        loop {
            let mut effects = Effects::default();
            if !self.lock().deliver_next(py, &mut effects) {
                return Ok(());
            }
            self.apply_effects(py, effects)?;
        }
    }

    /// Ends waits for a message once the mailbox is empty, because the ring kernel terminates.
    fn _end_getters(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process(py)?;
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            state.ending = true;
            state.end_getters(py, &mut effects);
        }
        self.apply_effects(py, effects)
    }

    /// Raises ``KernelError`` with this cause in every current waiter, and in later ones once the mailbox is empty.
    fn _fail(&self, py: Python<'_>, cause: Py<PyAny>) -> PyResult<()> {
        self.check_process(py)?;
        let mut effects = Effects::default();
        let old = {
            let mut state = self.lock();
            let old = state.failure.replace(cause);
            state.fail_all_waiters(py, &mut effects);
            old
        };
        drop(old);
        self.apply_effects(py, effects)
    }

    /// Identifies the run of the ring kernel's function that begins now.
    fn _begin_run(&self, run: Py<PyAny>) {
        let mut state = self.lock();
        state.has_refused = false;
        let old = state.run.replace(run);
        drop(state);
        drop(old);
    }

    /// Raises ``KernelError`` with this cause in the open asks. The ring kernel restarts.
    fn _fail_open_asks(&self, py: Python<'_>, cause: &Bound<'_, PyAny>) -> PyResult<()> {
        self.end_open_asks(py, cause)
    }

    /// Takes the current message, which will not be completed, and counts it as dropped.
    ///
    /// Returns:
    ///     The message in a tuple, or None if there is no current message.
    fn _take_current(&self) -> Option<(Py<PyAny>,)> {
        let mut state = self.lock();
        let current = state.current.take()?;
        state.current_since = 0;
        state.count_dropped(1);
        Some((current,))
    }

    /// Takes all queued messages, counts them as dropped and fails their asks.
    ///
    /// Returns:
    ///     The messages, in order.
    fn _drain(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.check_process(py)?;
        self.drain(py, true)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // No Python code runs under the lock, so it is free here except when another thread without a GIL holds it. The collector then
        // sees fewer references and keeps more objects alive, which is safe.
        let Some(state) = self.state.try_lock() else { return Ok(()) };
        for entry in state.queue.iter() {
            visit.call(&entry.message)?;
            if let Some(ask) = &entry.ask {
                visit.call(ask)?;
            }
        }
        let lists = [&state.getters, &state.putters, &state.asks_sent, &state.asks_open];
        for waiter in lists.into_iter().flatten() {
            visit.call(waiter)?;
        }
        visit.call(&state.current)?;
        visit.call(&state.failure)?;
        visit.call(&state.counters)?;
        visit.call(&state.ask_counters)?;
        visit.call(&state.output)?;
        visit.call(&state.run)?;
        visit.call(&state.dropped_messages)?;
        visit.call(&state.event_loop)?;
        visit.call(&state.router)?;
        if let Some(owner) = &state.owner {
            visit.call(&owner.input)?;
            visit.call(&owner.waits_on)?;
        }
        if let Some(timer) = &state.timer {
            timer.traverse(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let old = std::mem::replace(&mut *self.lock(), MailboxState::unconfigured());
        drop(old);
    }
}
