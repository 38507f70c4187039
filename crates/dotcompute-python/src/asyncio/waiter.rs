//! What a coroutine waits for at a mailbox: an awaitable that a task takes for a future.
//!
//! `await mailbox.get()` makes one, asks it for the message, and is done if there is one. If not, it yields itself to the task, and the
//! task does with it what it does with futures: it leaves its wake-up call (`add_done_callback`), cancels it (`cancel`), asks for the
//! outcome (`result`). It is also a coroutine (`send`, `throw`, `close`), so that `create_task` and `asyncio.run` take it.
//!
//! The type is made by hand, since the fast way of awaiting, the slot `am_send`, is not to be had otherwise: without it each message that
//! is received would be an exception, `StopIteration`, raised and caught.
//!
//! # Who may touch a waiter
//!
//! What changes in it is under the lock of its mailbox, which never changes. A waiter without a mailbox never changes at all.

use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::mailbox::Mailbox;
use super::task_resume::{self, Sleeper};
use super::waiter_type;

/// What a waiter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: the outcome was known at once.
    Ready,
    /// The next message of its mailbox.
    Get,
    /// Room for its message in its mailbox.
    Put,
    /// The answer to its message, at its mailbox, which is an output.
    Ask,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Not awaited yet.
    Fresh,
    /// An ask whose message is on its way; nobody waits yet.
    Expecting,
    /// The task has it and sleeps.
    Parked,
    /// The message is in it, or has found room.
    Delivered,
    /// The time is over.
    TimedOut,
    /// The ring kernel has failed.
    Broken,
    /// There will be no message: the ring kernel ends, or the message was dropped.
    Ended,
    /// The task was cancelled.
    Cancelled,
    /// The outcome was taken.
    Done,
}

/// What changes in a waiter.
pub(super) struct State {
    pub(super) kind: Kind,
    pub(super) status: Status,
    /// Where the message in it came from, so that it can be put back.
    pub(super) level: u8,
    pub(super) since: u64,
    /// Seconds, as given.
    pub(super) timeout: Option<f64>,
    /// On the clock of `counters::now`; 0 for none.
    pub(super) deadline: u64,
    /// The message, whichever way it goes; for `Ready` the outcome; once cancelled the reason that was given.
    pub(super) value: Option<Py<PyAny>>,
    /// For a message that is put: who waits for its answer.
    pub(super) ask: Option<Py<PyAny>>,
    /// For an ask: the message that was asked.
    pub(super) asked: Option<Py<PyAny>>,
    pub(super) wakeup: Option<Py<PyAny>>,
    pub(super) context: Option<Py<PyAny>>,
    pub(super) event_loop: Option<Py<PyAny>>,
}

impl State {
    pub(super) fn new(kind: Kind, value: Option<Py<PyAny>>, timeout: Option<f64>) -> Self {
        State {
            kind,
            status: Status::Fresh,
            level: 0,
            since: 0,
            timeout,
            deadline: 0,
            value,
            ask: None,
            asked: None,
            wakeup: None,
            context: None,
            event_loop: None,
        }
    }

    /// Ends the waiting, if there was any, and returns whom to wake: nobody where the task has not left its call yet, since it looks
    /// again when it does.
    pub(super) fn finish(&mut self, waiter: &Py<PyAny>, status: Status, py: Python<'_>) -> Option<Sleeper> {
        let parked = self.status == Status::Parked;
        self.status = status;
        if !parked {
            return None;
        }
        Some(Sleeper {
            waiter: waiter.clone_ref(py),
            wakeup: self.wakeup.take()?,
            context: self.context.take()?,
            event_loop: self.event_loop.as_ref()?.clone_ref(py),
        })
    }
}

/// The object as Python has it.
#[repr(C)]
pub(super) struct Object {
    pub(super) base: ffi::PyObject,
    /// `_asyncio_future_blocking`: true once it is yielded, false once a task has taken it, and none before and after. asyncio takes
    /// whatever has it, and not as `None`, for a future; before it is awaited this is to be a coroutine.
    pub(super) blocking: Option<Py<PyAny>>,
    failure: bool,
    pub(super) mailbox: Option<Py<Mailbox>>,
    pub(super) state: State,
}

fn new(
    py: Python<'_>,
    mailbox: Option<Py<Mailbox>>,
    state: State,
    failure: bool,
) -> PyResult<Bound<'_, PyAny>> {
    let class = waiter_type::class(py)?;
    // SAFETY: `class` has `Object`'s size. The allocator leaves all after the header zero, which is written over before anything else
    // can look: no call of Python's lies between.
    unsafe {
        let raw = ffi::PyType_GenericAlloc(class.as_type_ptr(), 0);
        let made = Bound::from_owned_ptr_or_err(py, raw)?;
        let object = raw.cast::<Object>();
        ptr::addr_of_mut!((*object).blocking).write(None);
        (*object).failure = failure;
        ptr::addr_of_mut!((*object).mailbox).write(mailbox);
        ptr::addr_of_mut!((*object).state).write(state);
        Ok(made)
    }
}

/// A waiter of a mailbox.
pub(super) fn at<'py>(py: Python<'py>, mailbox: Py<Mailbox>, state: State) -> PyResult<Bound<'py, PyAny>> {
    new(py, Some(mailbox), state, false)
}

/// An awaitable whose outcome is known.
pub(super) fn ready<'py>(py: Python<'py>, outcome: PyResult<Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
    match outcome {
        Ok(value) => new(py, None, State::new(Kind::Ready, Some(value), None), false),
        Err(error) => {
            let error = error.into_value(py).into_any();
            new(py, None, State::new(Kind::Ready, Some(error), None), true)
        }
    }
}

/// The awaitable of everything that was simply done: `True`.
pub(super) fn done(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static DONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let truth = || pyo3::types::PyBool::new(py, true).to_owned().into_any().unbind();
    Ok(DONE.get_or_try_init(py, || ready(py, Ok(truth())).map(Bound::unbind))?.bind(py).clone())
}

/// The changing half of a waiter.
///
/// # Safety
///
/// `waiter` is of this module's type, and its mailbox's lock is held, or nobody else has it yet. The reference must end before another
/// one is made.
pub(super) unsafe fn state<'a>(waiter: &Py<PyAny>) -> &'a mut State {
    // SAFETY: the caller has seen to type and exclusion; the object lives as long as the reference that was given.
    unsafe { &mut (*waiter.as_ptr().cast::<Object>()).state }
}

/// Says whether two are the same.
pub(super) fn same(a: &Py<PyAny>, b: &Py<PyAny>) -> bool {
    a.as_ptr() == b.as_ptr()
}

fn object(waiter: &Bound<'_, PyAny>) -> *mut Object {
    waiter.as_ptr().cast()
}

pub(super) fn mailbox<'a>(waiter: &'a Bound<'_, PyAny>) -> Option<&'a Py<Mailbox>> {
    // SAFETY: the field never changes once the object is made.
    unsafe { (*object(waiter)).mailbox.as_ref() }
}

/// One step of the awaiting coroutine: the outcome, or nothing yet.
pub(super) fn resume<'py>(waiter: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = waiter.py();
    let Some(mailbox) = mailbox(waiter) else {
        // SAFETY: without a mailbox nothing in it ever changes.
        let (failure, value) = unsafe {
            let this = &*object(waiter);
            (this.failure, this.state.value.as_ref())
        };
        let value = value.map(|value| value.bind(py).clone()).unwrap_or_else(|| py.None().into_bound(py));
        return if failure { Err(PyErr::from_value(value)) } else { Ok(Some(value)) };
    };
    let outcome = mailbox.get().resume(mailbox.bind(py), waiter)?;
    let blocking =
        outcome.is_none().then(|| pyo3::types::PyBool::new(py, true).to_owned().into_any().unbind());
    // SAFETY: the flag belongs to the thread that steps this coroutine, this one, and to the task that it steps for. What it held is a
    // truth value, so that dropping it runs nothing.
    unsafe { *ptr::addr_of_mut!((*object(waiter)).blocking) = blocking };
    Ok(outcome)
}

/// Nobody waits any more: the task was cancelled, something threw an error into the coroutine, or closed it, or the loop is closed.
/// What was delivered and not taken goes back.
pub(super) fn abandon(waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    match mailbox(waiter) {
        Some(mailbox) => mailbox.get().abandon(waiter),
        None => Ok(()),
    }
}

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
        None => Ok(()),
        Some(event_loop) => task_resume::give_later(
            py,
            Sleeper {
                waiter: waiter.clone().unbind(),
                wakeup: wakeup.unbind(),
                context: context.unbind(),
                event_loop,
            },
        ),
    }
}
