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

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use super::errors;
use super::mailbox::Mailbox;
use super::turn::{self, Sleeper};

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
struct Object {
    base: ffi::PyObject,
    /// `_asyncio_future_blocking`: true once it is yielded, false once a task has taken it, and none before and after. asyncio takes
    /// whatever has it, and not as `None`, for a future; before it is awaited this is to be a coroutine.
    blocking: Option<Py<PyAny>>,
    failure: bool,
    mailbox: Option<Py<Mailbox>>,
    state: State,
}

/// The type, made once.
pub(super) fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    Ok(CLASS.get_or_try_init(py, || make_class(py).map(Bound::unbind))?.bind(py))
}

fn new(
    py: Python<'_>,
    mailbox: Option<Py<Mailbox>>,
    state: State,
    failure: bool,
) -> PyResult<Bound<'_, PyAny>> {
    let class = class(py)?;
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

fn mailbox<'a>(waiter: &'a Bound<'_, PyAny>) -> Option<&'a Py<Mailbox>> {
    // SAFETY: the field never changes once the object is made.
    unsafe { (*object(waiter)).mailbox.as_ref() }
}

/// One step of the awaiting coroutine: the outcome, or nothing yet.
fn resume<'py>(waiter: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
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

/// The task throws: it was cancelled, or something threw an error into the coroutine. What was delivered and not taken goes back.
fn throw(waiter: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    if let Some(mailbox) = mailbox(waiter)
        && let Err(second) = mailbox.get().abandon(mailbox.bind(waiter.py()), waiter)
    {
        return second;
    }
    error
}

fn subscribe(waiter: &Bound<'_, PyAny>, wakeup: Bound<'_, PyAny>, context: Bound<'_, PyAny>) -> PyResult<()> {
    let py = waiter.py();
    let at_once = match mailbox(waiter) {
        Some(mailbox) => {
            mailbox.get().subscribe(py, waiter, wakeup.clone().unbind(), context.clone().unbind())?
        }
        None => Some(turn::running_loop(py)?.unbind()),
    };
    match at_once {
        None => Ok(()),
        Some(event_loop) => turn::give_later(
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

// What Python calls. Each wraps a function above; errors become Python's.

/// Runs `body` with the waiter; gives `failed` with an error set when it fails.
fn call<T>(
    waiter: *mut ffi::PyObject,
    failed: T,
    body: impl for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
) -> T {
    // PyO3 keeps count of who is attached, and puts off the release of references where it knows of nobody.
    Python::attach(|py| {
        // SAFETY: Python calls a type's slots and methods with an instance of the type.
        let waiter = unsafe { Bound::from_borrowed_ptr(py, waiter) };
        match body(&waiter) {
            Ok(value) => value,
            Err(error) => {
                error.restore(py);
                failed
            }
        }
    })
}

fn new_reference(value: Bound<'_, PyAny>) -> *mut ffi::PyObject {
    value.into_ptr()
}

unsafe extern "C" fn am_send(
    waiter: *mut ffi::PyObject,
    _sent: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: the caller gives room for one pointer.
    unsafe { *result = ptr::null_mut() };
    let step = |this: &Bound<'_, PyAny>| {
        let (value, step) = match resume(this)? {
            Some(value) => (value, ffi::PySendResult::PYGEN_RETURN),
            None => (this.clone(), ffi::PySendResult::PYGEN_NEXT),
        };
        // SAFETY: as above; the caller takes the reference.
        unsafe { *result = new_reference(value) };
        Ok(step)
    };
    call(waiter, ffi::PySendResult::PYGEN_ERROR, step)
}

/// For whoever iterates instead of sending: the outcome is the value of a `StopIteration`.
unsafe extern "C" fn iternext(waiter: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| match resume(this)? {
        Some(value) => Err(PyStopIteration::new_err((value.unbind(),))),
        None => Ok(new_reference(this.clone())),
    })
}

unsafe extern "C" fn itself(waiter: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| Ok(new_reference(this.clone())))
}

unsafe extern "C" fn method_await(waiter: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| Ok(new_reference(this.clone())))
}

unsafe extern "C" fn method_send(waiter: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the same contract.
    unsafe { iternext(waiter) }
}

unsafe extern "C" fn method_throw(
    waiter: *mut ffi::PyObject,
    arguments: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| {
        // SAFETY: a method of METH_VARARGS is given a tuple.
        let arguments = unsafe { Bound::from_borrowed_ptr(this.py(), arguments) }.cast_into::<PyTuple>()?;
        // throw(value), or the older throw(type, value, traceback).
        let first = arguments.get_item(0)?;
        let value = match arguments.get_item(1) {
            Ok(value) if !value.is_none() => value,
            _ => first,
        };
        let error = match value.cast::<PyType>() {
            Ok(class) => PyErr::from_value(class.call0()?),
            Err(_) => PyErr::from_value(value),
        };
        Err(throw(this, error))
    })
}

unsafe extern "C" fn method_close(waiter: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| {
        if let Some(mailbox) = mailbox(this) {
            mailbox.get().abandon(mailbox.bind(this.py()), this)?;
        }
        Ok(this.py().None().into_ptr())
    })
}

/// The one positional argument of a call, and the value of its one keyword argument.
///
/// # Safety
///
/// They are what a method of METH_FASTCALL | METH_KEYWORDS is given.
unsafe fn arguments<'py>(
    py: Python<'py>,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>) {
    // SAFETY: there are `count` positional values, and then one for each name.
    unsafe {
        let first = (count > 0).then(|| Bound::from_borrowed_ptr(py, *values));
        let named = !names.is_null() && ffi::PyTuple_Size(names) > 0;
        (first, named.then(|| Bound::from_borrowed_ptr(py, *values.offset(count))))
    }
}

unsafe extern "C" fn method_add_done_callback(
    waiter: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| {
        let py = this.py();
        // SAFETY: the method has those flags.
        let (callback, given) = unsafe { arguments(py, values, count, names) };
        let callback = callback.ok_or_else(|| PyTypeError::new_err("add_done_callback takes a callback"))?;
        let context = match given {
            Some(context) if !context.is_none() => context,
            _ => py.import("contextvars")?.call_method0("copy_context")?,
        };
        subscribe(this, callback, context)?;
        Ok(py.None().into_ptr())
    })
}

unsafe extern "C" fn method_cancel(
    waiter: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| {
        // SAFETY: the method has those flags.
        let (first, named) = unsafe { arguments(this.py(), values, count, names) };
        let cancelled = match mailbox(this) {
            Some(mailbox) => mailbox.get().cancel(this, first.or(named).map(Bound::unbind))?,
            None => false,
        };
        Ok(pyo3::types::PyBool::new(this.py(), cancelled).to_owned().into_ptr())
    })
}

unsafe extern "C" fn method_result(waiter: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| {
        let py = this.py();
        let (status, reason) = status(this);
        match status {
            // The coroutine takes the outcome itself when it is resumed; only cancelling has to be thrown.
            Status::Cancelled => Err(errors::cancelled(py, reason.map(|reason| reason.into_bound(py)))),
            Status::Fresh | Status::Expecting | Status::Parked => {
                Err(PyRuntimeError::new_err("the message has not come yet"))
            }
            _ => Ok(py.None().into_ptr()),
        }
    })
}

fn status(waiter: &Bound<'_, PyAny>) -> (Status, Option<Py<PyAny>>) {
    match mailbox(waiter) {
        Some(mailbox) => mailbox.get().status(waiter),
        None => (Status::Done, None),
    }
}

unsafe extern "C" fn method_done(waiter: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| {
        let done = !matches!(status(this).0, Status::Fresh | Status::Expecting | Status::Parked);
        Ok(pyo3::types::PyBool::new(this.py(), done).to_owned().into_ptr())
    })
}

unsafe extern "C" fn method_cancelled(
    waiter: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| {
        let cancelled = status(this).0 == Status::Cancelled;
        Ok(pyo3::types::PyBool::new(this.py(), cancelled).to_owned().into_ptr())
    })
}

unsafe extern "C" fn traverse(
    waiter: *mut ffi::PyObject,
    visit: ffi::visitproc,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: the collector calls this while nothing else runs; each pointer is live or null.
    unsafe {
        let this = &*waiter.cast::<Object>();
        let state = &this.state;
        let held = [
            this.mailbox.as_ref().map(Py::as_ptr),
            state.value.as_ref().map(Py::as_ptr),
            state.ask.as_ref().map(Py::as_ptr),
            state.asked.as_ref().map(Py::as_ptr),
            state.wakeup.as_ref().map(Py::as_ptr),
            state.context.as_ref().map(Py::as_ptr),
            state.event_loop.as_ref().map(Py::as_ptr),
            Some(ffi::Py_TYPE(waiter).cast()),
        ];
        for pointer in held.into_iter().flatten() {
            let outcome = visit(pointer, argument);
            if outcome != 0 {
                return outcome;
            }
        }
    }
    0
}

unsafe extern "C" fn clear(waiter: *mut ffi::PyObject) -> c_int {
    // SAFETY: the collector found the object unreachable: nobody else has it.
    unsafe {
        let state = &mut (*waiter.cast::<Object>()).state;
        let empty = State::new(state.kind, None, None);
        release(std::mem::replace(state, State { status: Status::Done, ..empty }));
    }
    0
}

/// Gives up what a waiter holds, without asking PyO3 whether the interpreter is attached: it is, or it is just ending.
///
/// # Safety
///
/// The caller is called by the interpreter.
unsafe fn release(state: State) {
    let State { value, ask, asked, wakeup, context, event_loop, .. } = state;
    for held in [value, ask, asked, wakeup, context, event_loop] {
        // SAFETY: an owned reference, or null; the caller has seen to the rest.
        unsafe { ffi::Py_XDECREF(held.map_or(ptr::null_mut(), Py::into_ptr)) };
    }
}

unsafe extern "C" fn dealloc(waiter: *mut ffi::PyObject) {
    // SAFETY: the last reference is gone. The fields are given up, then the memory is given back the way its type got it,
    // and the type, which an instance of a heap type holds, is released.
    unsafe {
        let class = ffi::Py_TYPE(waiter);
        ffi::PyObject_GC_UnTrack(waiter.cast());
        let object = waiter.cast::<Object>();
        ffi::Py_XDECREF(ptr::addr_of_mut!((*object).blocking).read().map_or(ptr::null_mut(), Py::into_ptr));
        ffi::Py_XDECREF(ptr::addr_of_mut!((*object).mailbox).read().map_or(ptr::null_mut(), Py::into_ptr));
        release(ptr::addr_of_mut!((*object).state).read());
        ffi::PyObject_GC_Del(waiter.cast());
        ffi::Py_DECREF(class.cast());
    }
}

fn method(name: &'static std::ffi::CStr, function: ffi::PyCFunction) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: function },
        ml_flags: ffi::METH_NOARGS,
        ml_doc: ptr::null(),
    }
}

fn method_with_keywords(
    name: &'static std::ffi::CStr,
    function: ffi::PyCFunctionFastWithKeywords,
) -> ffi::PyMethodDef {
    ffi::PyMethodDef {
        ml_name: name.as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: function },
        ml_flags: ffi::METH_FASTCALL | ffi::METH_KEYWORDS,
        ml_doc: ptr::null(),
    }
}

fn methods() -> Vec<ffi::PyMethodDef> {
    let varargs = |mut definition: ffi::PyMethodDef| {
        definition.ml_flags = ffi::METH_VARARGS;
        definition
    };
    let one = |mut definition: ffi::PyMethodDef| {
        definition.ml_flags = ffi::METH_O;
        definition
    };
    vec![
        method(c"__await__", method_await),
        one(method(c"send", method_send)),
        varargs(method(c"throw", method_throw)),
        method(c"close", method_close),
        method_with_keywords(c"add_done_callback", method_add_done_callback),
        method_with_keywords(c"cancel", method_cancel),
        method(c"result", method_result),
        method(c"done", method_done),
        method(c"cancelled", method_cancelled),
        ffi::PyMethodDef::zeroed(),
    ]
}

/// A member that is an object, or null for `None` (`_Py_T_OBJECT`).
const OBJECT_OR_NONE: c_int = 6;

fn make_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let members = vec![
        // Read by asyncio where there is no `get_loop()`, which would be a call for each message that is waited for.
        ffi::PyMemberDef {
            name: c"_loop".as_ptr(),
            type_code: OBJECT_OR_NONE,
            offset: std::mem::offset_of!(Object, state.event_loop) as ffi::Py_ssize_t,
            flags: ffi::Py_READONLY,
            doc: ptr::null(),
        },
        ffi::PyMemberDef {
            name: c"_asyncio_future_blocking".as_ptr(),
            type_code: OBJECT_OR_NONE,
            offset: std::mem::offset_of!(Object, blocking) as ffi::Py_ssize_t,
            flags: 0,
            doc: ptr::null(),
        },
        ffi::PyMemberDef::default(),
    ];
    let slot = |slot: c_int, pointer: *mut c_void| ffi::PyType_Slot { slot, pfunc: pointer };
    // The type keeps pointers to its methods and members: they live as long as the program.
    let methods = Box::leak(methods().into_boxed_slice()).as_mut_ptr();
    let members = Box::leak(members.into_boxed_slice()).as_mut_ptr();
    let mut slots = [
        slot(ffi::Py_am_send, am_send as *mut c_void),
        slot(ffi::Py_am_await, itself as *mut c_void),
        slot(ffi::Py_tp_iter, itself as *mut c_void),
        slot(ffi::Py_tp_iternext, iternext as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_clear, clear as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_methods, methods.cast()),
        slot(ffi::Py_tp_members, members.cast()),
        slot(0, ptr::null_mut()),
    ];
    let size =
        c_int::try_from(size_of::<Object>()).map_err(|_| PyTypeError::new_err("a waiter is too large"))?;
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let mut spec = ffi::PyType_Spec {
        name: c"pydotcompute._core.Waiter".as_ptr(),
        basicsize: size,
        itemsize: 0,
        flags: flags as _,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the specification is complete, ends its slots with a null one, and its functions have the types that their slots ask for.
    let made = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec))? };
    Ok(made.cast_into::<PyType>()?)
}
