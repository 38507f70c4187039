//! Waiting at a mailbox: what happens each time a coroutine that waits is stepped, cancelled, or given up.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::counters::now;
use super::errors;
use super::mailbox_state::{AfterTime, Effects, Failed, Step, nanoseconds};
use super::mailbox::Mailbox;
use super::task_resume;
use super::waiter::{self, Kind, Status};

fn waited_for_twice() -> PyErr {
    PyRuntimeError::new_err("two tasks wait for the same receive; call it once for each")
}

impl Mailbox {
    /// One step of a coroutine that waits here: what it waited for, or nothing yet.
    pub(super) fn resume<'py>(
        &self,
        me: &Bound<'py, Self>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = me.py();
        let mut effects = Effects::default();
        let step = self.step(py, waiter.as_unbound(), &mut effects);
        self.settle(py, effects)?;
        match step {
            Step::Value(value) => Ok(Some(value.into_bound(py))),
            Step::Park => self.park(me, waiter),
            Step::Wait => Ok(None),
            Step::Failed(failed) => self.outcome(py, failed),
        }
    }

    fn step(&self, py: Python<'_>, waiter: &Py<PyAny>, effects: &mut Effects) -> Step {
        let mut inner = self.lock();
        // SAFETY: it is a waiter of this mailbox, whose lock is held.
        let state = unsafe { waiter::state(waiter) };
        match state.status {
            Status::Fresh if state.kind == Kind::Get => inner.first_look(py, state, effects),
            Status::Fresh | Status::Expecting => Step::Park,
            Status::Parked if state.wakeup.is_some() => Step::Failed(Failed::Twice),
            Status::Parked => Step::Wait,
            Status::Delivered => {
                state.status = Status::Done;
                let value = if state.kind == Kind::Put { None } else { state.value.take() };
                Step::Value(
                    value
                        .unwrap_or_else(|| pyo3::types::PyBool::new(py, true).to_owned().into_any().unbind()),
                )
            }
            Status::Done => Step::Failed(Failed::Again),
            status => {
                state.status = Status::Done;
                effects.refuse(state.ask.take());
                inner.failed(py, status, state)
            }
        }
    }

    /// Lays a waiter down until there is something for it.
    fn park<'py>(
        &self,
        me: &Bound<'py, Self>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = me.py();
        let event_loop = task_resume::running_loop(py)?;
        let mut effects = Effects::default();
        let (step, deadline) = {
            let mut inner = self.lock();
            // SAFETY: it is a waiter of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            // What was not there a moment ago may have come from another thread.
            let step = match state.status {
                Status::Fresh if state.kind == Kind::Get => inner.first_look(py, state, &mut effects),
                Status::Fresh if state.kind == Kind::Put => inner.second_look(py, state, &mut effects),
                Status::Fresh | Status::Expecting => Step::Park,
                _ => Step::Wait,
            };
            if matches!(step, Step::Park) {
                state.event_loop = Some(event_loop.clone().unbind());
                // For who finds nothing and is to end the time is over with the loop's next turn. Not at once: a loop around `receive`
                // that takes no notice would let nobody else have a turn.
                let ends = inner.ending && state.kind == Kind::Get;
                let wait = if ends { Some(0.0) } else { state.timeout };
                state.deadline = wait.map_or(0, |seconds| now() + nanoseconds(seconds));
                inner.lay_down(waiter.as_unbound().clone_ref(py), state);
            }
            (step, state.deadline)
        };
        self.settle(py, effects)?;
        match step {
            Step::Park => {
                if deadline != 0 {
                    self.arm(me, &event_loop, deadline)?;
                }
                Ok(None)
            }
            Step::Value(value) => Ok(Some(value.into_bound(py))),
            Step::Failed(failed) => self.outcome(py, failed),
            Step::Wait => self.resume(me, waiter),
        }
    }

    fn outcome<'py>(&self, py: Python<'py>, failed: Failed) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (kernel, capacity, timeout_behavior) = {
            let inner = self.lock();
            (inner.kernel.clone(), inner.capacity, inner.timeout_behavior)
        };
        match failed {
            Failed::Again => {
                Err(PyRuntimeError::new_err("this was awaited before, and has given its outcome"))
            }
            Failed::Twice => Err(waited_for_twice()),
            Failed::Time(Kind::Put, _) => match timeout_behavior {
                AfterTime::Return => Ok(Some(pyo3::types::PyBool::new(py, false).to_owned().into_any())),
                AfterTime::RaiseTimeout => Err(errors::timeout(py, &kernel, 0.0, "send")),
                AfterTime::RaiseFull => Err(errors::full(py, &kernel, capacity)),
            },
            Failed::Time(_, seconds) => match timeout_behavior {
                AfterTime::Return => Ok(Some(py.None().into_bound(py))),
                _ => Err(errors::timeout(py, &kernel, seconds, "receive")),
            },
            Failed::Kernel(cause) => Err(errors::failed(py, &kernel, cause.bind(py))),
            Failed::Cancelled(reason) => {
                Err(errors::cancelled(py, reason.map(|reason| reason.into_bound(py))))
            }
            Failed::Ended(Kind::Get) => Err(errors::cancelled(py, None)),
            Failed::Ended(_) => {
                Err(errors::unanswered(py, &kernel, "the message was dropped, or the kernel ended before it"))
            }
        }
    }

    /// The task has left its wake-up call. Returns the loop through which to make it at once, if the waiting is over already.
    pub(super) fn subscribe(
        &self,
        py: Python<'_>,
        waiter: &Bound<'_, PyAny>,
        wakeup: Py<PyAny>,
        context: Py<PyAny>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let inner = self.lock();
        // SAFETY: it is a waiter of this mailbox, whose lock is held.
        let state = unsafe { waiter::state(waiter.as_unbound()) };
        if state.status == Status::Parked {
            if state.wakeup.is_some() {
                drop(inner);
                return Err(waited_for_twice());
            }
            state.wakeup = Some(wakeup);
            state.context = Some(context);
            return Ok(None);
        }
        let event_loop = state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py));
        drop(inner);
        event_loop.map_or_else(|| task_resume::running_loop(py).map(Bound::unbind), Ok).map(Some)
    }

    /// Cancels the waiting, if there is any.
    pub(super) fn cancel(&self, waiter: &Bound<'_, PyAny>, reason: Option<Py<PyAny>>) -> PyResult<bool> {
        let py = waiter.py();
        let (sleeper, _old) = {
            let mut inner = self.lock();
            // SAFETY: it is a waiter of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            if !matches!(state.status, Status::Parked | Status::Expecting) {
                return Ok(false);
            }
            inner.forget(waiter.as_unbound(), state.kind);
            let sleeper = state.finish(waiter.as_unbound(), Status::Cancelled, py);
            let old = std::mem::replace(&mut state.value, reason);
            (sleeper, old)
        };
        if let Some(sleeper) = sleeper {
            task_resume::give_later(py, sleeper)?;
        }
        Ok(true)
    }

    /// The coroutine gives up. A message that was delivered and not taken goes back to where it was.
    pub(super) fn abandon(&self, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = waiter.py();
        let mut effects = Effects::default();
        let _dropped = {
            let mut inner = self.lock();
            // SAFETY: it is a waiter of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            let status = std::mem::replace(&mut state.status, Status::Done);
            match status {
                Status::Parked | Status::Expecting => {
                    inner.forget(waiter.as_unbound(), state.kind);
                    effects.refuse(state.ask.take());
                    None
                }
                Status::Fresh | Status::Cancelled | Status::TimedOut => {
                    effects.refuse(state.ask.take());
                    None
                }
                Status::Delivered if state.kind == Kind::Get => {
                    inner.put_back(py, state, &mut effects);
                    None
                }
                // An answer that nobody will read.
                Status::Delivered if state.kind == Kind::Ask => {
                    inner.count_dropped(1);
                    state.value.take()
                }
                _ => None,
            }
        };
        self.settle(py, effects)
    }

    pub(super) fn status(&self, waiter: &Bound<'_, PyAny>) -> (Status, Option<Py<PyAny>>) {
        let _inner = self.lock();
        // SAFETY: it is a waiter of this mailbox, whose lock is held.
        let state = unsafe { waiter::state(waiter.as_unbound()) };
        let reason = (state.status == Status::Cancelled)
            .then(|| state.value.as_ref().map(|value| value.clone_ref(waiter.py())));
        (state.status, reason.flatten())
    }
}
