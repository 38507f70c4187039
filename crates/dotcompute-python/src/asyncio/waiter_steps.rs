//! The steps of a coroutine that waits for a mailbox: resume, park, subscribe, cancel and abandon.

use std::ptr;

use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration};
use pyo3::prelude::*;

use super::counters::now_ns;
use super::errors;
use super::mailbox::{Effects, Mailbox, TimeoutBehavior};
use super::mailbox_state::{Step, WaitError};
use super::parked_task::ParkedTask;
use super::waiter::{self, Kind, Status, mailbox, object};
use super::{task_resume, wait_cycle};

fn awaited_by_two_tasks() -> PyErr {
    PyRuntimeError::new_err(
        "awaiting a mailbox operation: another task awaits it; call the method once per task",
    )
}

/// Converts seconds to nanoseconds. NaN counts as 0, and the result is at most about a century.
fn nanoseconds(seconds: f64) -> u64 {
    const MAX_NS: f64 = 3.2e18;
    if seconds.is_nan() { 0 } else { (seconds * 1e9).clamp(0.0, MAX_NS) as u64 }
}

/// Runs one step of the awaiting coroutine. Returns the outcome, or `None` if the coroutine suspends or has a delegate now.
pub(super) fn resume<'py>(waiter: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = waiter.py();
    let Some(mailbox) = mailbox(waiter) else {
        // SAFETY: `waiter` is live. Of a waiter without a mailbox, only the status changes, here.
        let (failure, value) = unsafe {
            let this = &mut *object(waiter);
            this.state.status = Status::Done;
            (this.failure, this.state.value.as_ref())
        };
        let value = value.map(|value| value.bind(py).clone()).unwrap_or_else(|| py.None().into_bound(py));
        return if failure { Err(PyErr::from_value(value)) } else { Ok(Some(value)) };
    };
    let outcome = mailbox.get().resume(mailbox.bind(py), waiter)?;
    let suspends = outcome.is_none() && waiter::delegate(waiter).is_none();
    let blocking = suspends.then(|| pyo3::types::PyBool::new(py, true).to_owned().into_any().unbind());
    // SAFETY: only the thread that steps this coroutine, and the task that it steps for, access the flag. The old value is a bool, so
    // dropping it runs no Python code.
    unsafe { *ptr::addr_of_mut!((*object(waiter)).blocking) = blocking };
    Ok(outcome)
}

/// Ends a wait without taking the outcome.
///
/// Called when the coroutine is closed, when an exception is thrown into it (also by cancellation), and when the event loop is closed. A message that was delivered and not taken returns to the mailbox.
pub(super) fn abandon(waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    match mailbox(waiter) {
        Some(mailbox) => mailbox.get().abandon(waiter),
        None => Ok(()),
    }
}

/// Registers the wake-up callback of a task (`add_done_callback`). If the wait has ended already, schedules the callback at once.
pub(super) fn subscribe(
    waiter: &Bound<'_, PyAny>,
    wakeup: Bound<'_, PyAny>,
    context: Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = waiter.py();
    let at_once = match mailbox(waiter) {
        Some(mailbox) => {
            mailbox.get().subscribe(py, waiter, wakeup.clone().unbind(), context.clone().unbind())?
        }
        None => Some(task_resume::running_loop(py)?.unbind()),
    };
    match at_once {
        None => wait_cycle::begin(waiter, &wakeup),
        Some(event_loop) => task_resume::resume_via_loop(
            py,
            ParkedTask {
                waiter: waiter.clone().unbind(),
                wakeup: wakeup.unbind(),
                context: context.unbind(),
                event_loop,
            },
        ),
    }
}

impl Mailbox {
    /// Runs one step of a coroutine that waits for this mailbox. Returns `None` if the coroutine suspends.
    pub(super) fn resume<'py>(
        &self,
        me: &Bound<'py, Self>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = me.py();
        let mut effects = Effects::default();
        let step = self.step(py, waiter.as_unbound(), &mut effects);
        self.apply_effects(py, effects)?;
        match step {
            Step::Value(value) => Ok(Some(value.into_bound(py))),
            Step::Begin => self.begin(me, waiter),
            Step::Park => self.park(me, waiter),
            Step::AlreadyParked => Ok(None),
            Step::Failed(error) => self.fail_wait(py, waiter, error),
        }
    }

    fn step(&self, py: Python<'_>, waiter: &Py<PyAny>, effects: &mut Effects) -> Step {
        let mut mailbox_state = self.lock();
        // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `mailbox_state`.
        let state = unsafe { waiter::state(waiter) };
        match state.status {
            Status::New => match state.kind {
                Kind::Get => mailbox_state.poll_first(py, state, effects),
                Kind::Put => mailbox_state.poll_put(py, state, effects),
                Kind::Send if state.has_level && !self.expects_replies() => {
                    state.kind = Kind::Put;
                    mailbox_state.poll_put(py, state, effects)
                }
                Kind::Send | Kind::Ask => Step::Begin,
                Kind::Ready => Step::Park,
            },
            Status::AwaitingReply => Step::Park,
            Status::Parked if state.wakeup.is_some() => Step::Failed(WaitError::AwaitedByTwoTasks),
            Status::Parked => Step::AlreadyParked,
            Status::Delivered => {
                state.status = Status::Done;
                effects.end_wait(state.caller.take());
                if state.kind == Kind::Get {
                    mailbox_state.count_received(py, state.ask.take(), effects);
                }
                let value = if state.kind == Kind::Put { None } else { state.value.take() };
                Step::Value(
                    value
                        .unwrap_or_else(|| pyo3::types::PyBool::new(py, true).to_owned().into_any().unbind()),
                )
            }
            Status::Done => Step::Failed(WaitError::AlreadyAwaited),
            status => {
                state.status = Status::Done;
                effects.end_wait(state.caller.take());
                mailbox_state.wait_error(py, status, state)
            }
        }
    }

    /// Parks a waiter until its wait ends, after polling once more.
    fn park<'py>(
        &self,
        me: &Bound<'py, Self>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = me.py();
        let event_loop = task_resume::running_loop(py)?;
        if let Some(error) = self.refuse_foreign_loop(waiter, &event_loop)? {
            return Err(error);
        }
        let mut effects = Effects::default();
        let (step, deadline) = {
            let mut mailbox_state = self.lock();
            // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `mailbox_state`.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            // Another thread may have sent a message since the first poll.
            let step = match state.status {
                Status::New if state.kind == Kind::Get => mailbox_state.poll_first(py, state, &mut effects),
                Status::New if state.kind == Kind::Put => mailbox_state.poll_put(py, state, &mut effects),
                Status::New | Status::AwaitingReply => Step::Park,
                _ => Step::AlreadyParked,
            };
            if matches!(step, Step::Park) {
                state.event_loop = Some(event_loop.clone().unbind());
                // While the ring kernel terminates, a wait for a message ends in the next iteration of the event loop. Not at once: a
                // ring kernel that ignores the termination and calls `receive` in a loop would starve all other tasks.
                let ends = mailbox_state.ending && state.kind == Kind::Get;
                let wait = if ends { Some(0.0) } else { state.timeout };
                state.deadline = wait.map_or(0, |seconds| now_ns() + nanoseconds(seconds));
                mailbox_state.enqueue_waiter(waiter.as_unbound().clone_ref(py), state);
            }
            (step, state.deadline)
        };
        self.apply_effects(py, effects)?;
        match step {
            Step::Park => {
                if deadline != 0 {
                    self.arm_timer(me, &event_loop, deadline)?;
                }
                Ok(None)
            }
            Step::Value(value) => Ok(Some(value.into_bound(py))),
            Step::Failed(error) => self.fail_wait(py, waiter, error),
            Step::AlreadyParked | Step::Begin => self.resume(me, waiter),
        }
    }

    /// Ends a wait that nothing would end: the event loop of the ring kernel is another one, and does not run. Returns the error.
    fn refuse_foreign_loop(
        &self,
        waiter: &Bound<'_, PyAny>,
        event_loop: &Bound<'_, PyAny>,
    ) -> PyResult<Option<PyErr>> {
        let py = event_loop.py();
        let (own, kernel, is_ask) = {
            let mailbox_state = self.lock();
            let own = match &mailbox_state.event_loop {
                Some(own) if !own.is(event_loop) => own.clone_ref(py).into_bound(py),
                _ => return Ok(None),
            };
            // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `mailbox_state`.
            let is_ask = unsafe { waiter::state(waiter.as_unbound()) }.kind == Kind::Ask;
            (own, mailbox_state.kernel.clone(), is_ask)
        };
        if !task_resume::is_stopped_elsewhere(&own)? {
            return Ok(None);
        }
        self.abandon(waiter)?;
        if is_ask {
            wait_cycle::withdraw(py, waiter.as_unbound(), self)?;
        }
        Ok(Some(errors::event_loop(py, &kernel, "ACTIVE", "wait for", &own)))
    }

    /// Ends a wait without a value.
    fn fail_wait<'py>(
        &self,
        py: Python<'py>,
        waiter: &Bound<'py, PyAny>,
        error: WaitError,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match (self.withdraw_pending(py, waiter.as_unbound()), error) {
            // The message of an ask found no free slot.
            (Some(input), WaitError::TimedOut(_, seconds)) => {
                input.get().wait_result(py, WaitError::TimedOut(Kind::Put, seconds))
            }
            (_, error) => self.wait_result(py, error),
        }
    }

    /// The exception of a wait without a value, or the value that the timeout behavior prescribes.
    pub(super) fn wait_result<'py>(
        &self,
        py: Python<'py>,
        error: WaitError,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (kernel, capacity, timeout_behavior) = {
            let mailbox_state = self.lock();
            (mailbox_state.kernel.clone(), mailbox_state.capacity, mailbox_state.timeout_behavior)
        };
        match error {
            WaitError::AlreadyAwaited => Err(PyRuntimeError::new_err(
                "awaiting a mailbox operation: it was awaited before and has returned its outcome; call the method again",
            )),
            WaitError::AwaitedByTwoTasks => Err(awaited_by_two_tasks()),
            WaitError::Full => Err(errors::full(py, &kernel, capacity)),
            WaitError::TimedOut(Kind::Put, _) => match timeout_behavior {
                TimeoutBehavior::Return => {
                    Ok(Some(pyo3::types::PyBool::new(py, false).to_owned().into_any()))
                }
                TimeoutBehavior::RaiseTimeout => Err(errors::timeout(py, &kernel, 0.0, "send")),
                TimeoutBehavior::RaiseFull => Err(errors::full(py, &kernel, capacity)),
            },
            WaitError::TimedOut(_, seconds) => match timeout_behavior {
                TimeoutBehavior::Return => Ok(Some(py.None().into_bound(py))),
                _ => Err(errors::timeout(py, &kernel, seconds, "receive")),
            },
            WaitError::KernelFailed(cause, kind) => {
                Err(errors::failed(py, &kernel, cause.bind(py), kind == Kind::Ask))
            }
            WaitError::Cancelled(reason) => {
                Err(errors::cancelled(py, reason.map(|reason| reason.into_bound(py))))
            }
            WaitError::Raised(error) => Err(PyErr::from_value(error.into_bound(py))),
            WaitError::Stopped { iterates: true, .. } => Err(PyStopAsyncIteration::new_err(())),
            WaitError::Stopped { timeout, .. } => Err(errors::stopped(py, &kernel, timeout)),
            WaitError::NoReply => Err(errors::no_reply(py, &kernel, "its queue dropped the message")),
        }
    }

    /// Registers the wake-up callback of a task. If the wait has ended already, returns the loop through which to run the callback.
    pub(super) fn subscribe(
        &self,
        py: Python<'_>,
        waiter: &Bound<'_, PyAny>,
        wakeup: Py<PyAny>,
        context: Py<PyAny>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let mailbox_state = self.lock();
        // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `mailbox_state`.
        let state = unsafe { waiter::state(waiter.as_unbound()) };
        if state.status == Status::Parked {
            if state.wakeup.is_some() {
                drop(mailbox_state);
                return Err(awaited_by_two_tasks());
            }
            state.wakeup = Some(wakeup);
            state.context = Some(context);
            return Ok(None);
        }
        let event_loop = state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py));
        drop(mailbox_state);
        event_loop.map_or_else(|| task_resume::running_loop(py).map(Bound::unbind), Ok).map(Some)
    }

    /// Cancels the wait. Returns `false` if it has ended already.
    pub(super) fn cancel(&self, waiter: &Bound<'_, PyAny>, reason: Option<Py<PyAny>>) -> PyResult<bool> {
        let py = waiter.py();
        let (task, _old) = {
            let mut mailbox_state = self.lock();
            // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `mailbox_state`.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            if !matches!(state.status, Status::Parked | Status::AwaitingReply) {
                return Ok(false);
            }
            mailbox_state.remove_waiter(waiter.as_unbound(), state.kind);
            let task = state.finish(waiter.as_unbound(), Status::Cancelled, py);
            let old = std::mem::replace(&mut state.value, reason);
            (task, old)
        };
        if let Some(task) = task {
            task_resume::resume_via_loop(py, task)?;
        }
        Ok(true)
    }

    /// Ends a wait without taking the outcome. A message that was delivered and not taken returns to the mailbox.
    pub(super) fn abandon(&self, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = waiter.py();
        let mut effects = Effects::default();
        let _dropped = {
            let mut mailbox_state = self.lock();
            // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `mailbox_state`.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            let status = std::mem::replace(&mut state.status, Status::Done);
            effects.end_wait(state.caller.take());
            if state.kind == Kind::Put {
                // `cancelled` tells whether the message was accepted.
                state.status = if status == Status::Delivered { status } else { Status::Cancelled };
            }
            match status {
                Status::Parked | Status::AwaitingReply => {
                    mailbox_state.remove_waiter(waiter.as_unbound(), state.kind);
                    None
                }
                Status::Delivered if state.kind == Kind::Get => {
                    mailbox_state.return_message(py, state, &mut effects);
                    None
                }
                // The caller will not read this reply.
                Status::Delivered if state.kind == Kind::Ask => {
                    mailbox_state.count_dropped(1);
                    state.value.take()
                }
                _ => None,
            }
        };
        self.withdraw_pending(py, waiter.as_unbound());
        self.apply_effects(py, effects)
    }

    /// Returns the status of a waiter and, if it was cancelled, the reason given.
    pub(super) fn status(&self, waiter: &Bound<'_, PyAny>) -> (Status, Option<Py<PyAny>>) {
        let _mailbox_state = self.lock();
        // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `mailbox_state`.
        let state = unsafe { waiter::state(waiter.as_unbound()) };
        let reason = (state.status == Status::Cancelled)
            .then(|| state.value.as_ref().map(|value| value.clone_ref(waiter.py())));
        (state.status, reason.flatten())
    }
}
