//! The Python type of a [waiter](super::waiter), built by hand from slots, and its constructors.
//!
//! A PyO3 class cannot have the slot `am_send`. Without that slot, each received message would be a `StopIteration` raised and caught.
//! The slots and methods wrap the functions of [`waiter_steps`](super::waiter_steps) and turn their errors into Python exceptions.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use super::errors;
use super::mailbox::Mailbox;
use super::never_awaited;
use super::routing::{self, Stepped};
use super::waiter::{self, Kind, Status, WaiterObject, WaiterState, mailbox};
use super::waiter_memory;
use super::waiter_steps::{abandon, subscribe};

/// Returns the type, which is created on the first call.
pub(super) fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    Ok(CLASS.get_or_try_init(py, || create_class(py).map(Bound::unbind))?.bind(py))
}

// Inlined so that the state is written to the object itself, not copied there.
#[inline(always)]
fn new(
    py: Python<'_>,
    mailbox: Option<Py<Mailbox>>,
    state: WaiterState,
    failure: bool,
) -> PyResult<Bound<'_, PyAny>> {
    let class = class(py)?;
    let raw = waiter_memory::allocate(class)?;
    // SAFETY: `create_class` gives `class` the size of `WaiterObject`. The writes initialize every field, before the garbage collector
    // sees the object.
    unsafe {
        let object = raw.cast::<WaiterObject>();
        ptr::addr_of_mut!((*object).blocking).write(None);
        ptr::addr_of_mut!((*object).delegate).write(None);
        (*object).failure = failure;
        ptr::addr_of_mut!((*object).mailbox).write(mailbox);
        ptr::addr_of_mut!((*object).state).write(state);
        ffi::PyObject_GC_Track(raw.cast());
        Ok(Bound::from_owned_ptr(py, raw))
    }
}

/// Creates a waiter of a mailbox.
#[inline(always)]
pub(super) fn new_waiter<'py>(
    py: Python<'py>,
    mailbox: Py<Mailbox>,
    state: WaiterState,
) -> PyResult<Bound<'py, PyAny>> {
    new(py, Some(mailbox), state, false)
}

/// Creates an awaitable that raises.
pub(super) fn failed<'py>(
    py: Python<'py>,
    method: &'static str,
    error: PyErr,
) -> PyResult<Bound<'py, PyAny>> {
    let mut state = WaiterState::new(Kind::Ready, Some(error.into_value(py).into_any()), None);
    state.method = method;
    new(py, None, state, true)
}

/// Returns an awaitable of `True`, shared by all operations that completed at once. It need not be awaited.
pub(super) fn done(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static DONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let create = || {
        let value = pyo3::types::PyBool::new(py, true).to_owned().into_any().unbind();
        let state = WaiterState { status: Status::Done, ..WaiterState::new(Kind::Ready, Some(value), None) };
        new(py, None, state, false).map(Bound::unbind)
    };
    Ok(DONE.get_or_try_init(py, create)?.bind(py).clone())
}

/// Runs `body` with the waiter. If `body` fails, sets the Python error and returns `failed`.
fn call<T>(
    waiter: *mut ffi::PyObject,
    failed: T,
    body: impl for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
) -> T {
    // The thread is attached already. PyO3 tracks attachment itself and defers dropped references on threads that it does not track.
    Python::attach(|py| {
        // SAFETY: CPython calls the slots and methods of a type with a live instance of it.
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

unsafe extern "C" fn am_send(
    waiter: *mut ffi::PyObject,
    _sent: *mut ffi::PyObject,
    result: *mut *mut ffi::PyObject,
) -> ffi::PySendResult {
    // SAFETY: by the contract of `am_send`, `result` points to one writable pointer.
    unsafe { *result = ptr::null_mut() };
    let step = |this: &Bound<'_, PyAny>| {
        let (value, step) = match routing::step(this)? {
            Stepped::Returned(value) => (value, ffi::PySendResult::PYGEN_RETURN),
            Stepped::Yielded(value) => (value, ffi::PySendResult::PYGEN_NEXT),
        };
        // SAFETY: `result` is writable (above); the caller takes over the reference.
        unsafe { *result = value.into_ptr() };
        Ok(step)
    };
    call(waiter, ffi::PySendResult::PYGEN_ERROR, step)
}

/// The iterator protocol: the outcome is the value of a `StopIteration`.
unsafe extern "C" fn iternext(waiter: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| match routing::step(this)? {
        Stepped::Returned(value) => Err(PyStopIteration::new_err((value.unbind(),))),
        Stepped::Yielded(value) => Ok(value.into_ptr()),
    })
}

/// Runs once per `await`, so it bypasses PyO3, which would attach the thread again.
unsafe extern "C" fn return_self(waiter: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: CPython calls the slots of a type with a live instance of it, on an attached thread.
    unsafe { ffi::Py_NewRef(waiter) }
}

unsafe extern "C" fn method_await(waiter: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe { ffi::Py_NewRef(waiter) }
}

unsafe extern "C" fn method_send(waiter: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: both functions get a live waiter, by the same contract.
    unsafe { iternext(waiter) }
}

unsafe extern "C" fn method_throw(
    waiter: *mut ffi::PyObject,
    arguments: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| {
        // SAFETY: CPython passes a live tuple to a METH_VARARGS method.
        let arguments = unsafe { Bound::from_borrowed_ptr(this.py(), arguments) }.cast_into::<PyTuple>()?;
        if let Some(delegate) = waiter::delegate(this) {
            return Ok(delegate.call_method1("throw", arguments)?.into_ptr());
        }
        // Either throw(value) or the older form throw(type, value, traceback).
        let first = arguments.get_item(0)?;
        let value = match arguments.get_item(1) {
            Ok(value) if !value.is_none() => value,
            _ => first,
        };
        let error = match value.cast::<PyType>() {
            Ok(class) => PyErr::from_value(class.call0()?),
            Err(_) => PyErr::from_value(value),
        };
        abandon(this)?;
        Err(error)
    })
}

unsafe extern "C" fn method_close(waiter: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| {
        if let Some(delegate) = waiter::delegate(this) {
            return Ok(delegate.call_method0("close")?.into_ptr());
        }
        abandon(this)?;
        Ok(this.py().None().into_ptr())
    })
}

/// Returns the first positional argument of a call and the value of its first keyword argument.
///
/// # Safety
///
/// The arguments must be those that CPython passes to a METH_FASTCALL | METH_KEYWORDS method.
unsafe fn arguments<'py>(
    py: Python<'py>,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> (Option<Bound<'py, PyAny>>, Option<Bound<'py, PyAny>>) {
    // SAFETY: by that calling convention, `values` holds `count` positional values and then one value per name.
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
        // SAFETY: `methods` registers this function with METH_FASTCALL | METH_KEYWORDS.
        let (callback, context) = unsafe { arguments(py, values, count, names) };
        let callback =
            callback.ok_or_else(|| PyTypeError::new_err("add_done_callback: the callback is missing"))?;
        let context = match context {
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
        // SAFETY: `methods` registers this function with METH_FASTCALL | METH_KEYWORDS.
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
            // The coroutine takes the outcome when it is resumed. Only cancellation is raised here.
            Status::Cancelled => Err(errors::cancelled(py, reason.map(|reason| reason.into_bound(py)))),
            Status::New | Status::AwaitingReply | Status::Parked => Err(PyRuntimeError::new_err(
                "reading the result of a mailbox operation: it is not done; await it",
            )),
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
        let done = !matches!(status(this).0, Status::New | Status::AwaitingReply | Status::Parked);
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
    // SAFETY: `waiter` is a live instance, and the garbage collector runs while no other thread changes it. Each field is a live
    // reference or `None`.
    unsafe {
        let this = &*waiter.cast::<WaiterObject>();
        let state = &this.state;
        let references = [
            this.mailbox.as_ref().map(Py::as_ptr),
            this.delegate.as_ref().map(Py::as_ptr),
            state.value.as_ref().map(Py::as_ptr),
            state.ask.as_ref().map(Py::as_ptr),
            state.asked_message.as_ref().map(Py::as_ptr),
            state.input.as_ref().map(Py::as_ptr),
            state.pending_put.as_ref().map(Py::as_ptr),
            state.caller.as_ref().map(Py::as_ptr),
            state.wakeup.as_ref().map(Py::as_ptr),
            state.context.as_ref().map(Py::as_ptr),
            state.event_loop.as_ref().map(Py::as_ptr),
            Some(ffi::Py_TYPE(waiter).cast()),
        ];
        for pointer in references.into_iter().flatten() {
            let outcome = visit(pointer, argument);
            if outcome != 0 {
                return outcome;
            }
        }
    }
    0
}

unsafe extern "C" fn clear(waiter: *mut ffi::PyObject) -> c_int {
    // SAFETY: the garbage collector found the object unreachable, so no other reference accesses it.
    unsafe {
        never_awaited::report(&*waiter.cast::<WaiterObject>());
        let state = &mut (*waiter.cast::<WaiterObject>()).state;
        let empty = WaiterState::new(state.kind, None, None);
        let delegate = (*waiter.cast::<WaiterObject>()).delegate.take();
        ffi::Py_XDECREF(delegate.map_or(ptr::null_mut(), Py::into_ptr));
        release(std::mem::replace(state, WaiterState { status: Status::Done, ..empty }));
    }
    0
}

/// Drops the references of a waiter without PyO3's attachment check, which fails while the interpreter shuts down.
///
/// # Safety
///
/// The interpreter must be the caller of the calling function, so that the thread is attached.
unsafe fn release(state: WaiterState) {
    let WaiterState {
        value,
        ask,
        asked_message,
        input,
        pending_put,
        caller,
        wakeup,
        context,
        event_loop,
        ..
    } = state;
    for mailbox in [caller, input] {
        // SAFETY: an owned reference or null; the thread is attached (contract of this function).
        unsafe { ffi::Py_XDECREF(mailbox.map_or(ptr::null_mut(), Py::into_ptr)) };
    }
    for reference in [value, ask, asked_message, pending_put, wakeup, context, event_loop] {
        // SAFETY: an owned reference or null; the thread is attached (contract of this function).
        unsafe { ffi::Py_XDECREF(reference.map_or(ptr::null_mut(), Py::into_ptr)) };
    }
}

unsafe extern "C" fn dealloc(waiter: *mut ffi::PyObject) {
    // SAFETY: CPython calls this once, when the reference count is 0, so each field is read out once. The memory came from `waiter_memory`
    // and returns to it. An instance of a heap type owns a reference to its type, dropped last.
    unsafe {
        let class = ffi::Py_TYPE(waiter);
        ffi::PyObject_GC_UnTrack(waiter.cast());
        let object = waiter.cast::<WaiterObject>();
        never_awaited::report(&*object);
        ffi::Py_XDECREF(ptr::addr_of_mut!((*object).blocking).read().map_or(ptr::null_mut(), Py::into_ptr));
        ffi::Py_XDECREF(ptr::addr_of_mut!((*object).delegate).read().map_or(ptr::null_mut(), Py::into_ptr));
        ffi::Py_XDECREF(ptr::addr_of_mut!((*object).mailbox).read().map_or(ptr::null_mut(), Py::into_ptr));
        release(ptr::addr_of_mut!((*object).state).read());
        waiter_memory::free(waiter);
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

/// Member type: an object, where null reads as `None` (`_Py_T_OBJECT`).
const OBJECT_OR_NONE: c_int = 6;

fn create_class(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
    let members = vec![
        // asyncio reads `_loop` if there is no `get_loop()`. An attribute saves a method call per message.
        ffi::PyMemberDef {
            name: c"_loop".as_ptr(),
            type_code: OBJECT_OR_NONE,
            offset: std::mem::offset_of!(WaiterObject, state.event_loop) as ffi::Py_ssize_t,
            flags: ffi::Py_READONLY,
            doc: ptr::null(),
        },
        ffi::PyMemberDef {
            name: c"_asyncio_future_blocking".as_ptr(),
            type_code: OBJECT_OR_NONE,
            offset: std::mem::offset_of!(WaiterObject, blocking) as ffi::Py_ssize_t,
            flags: 0,
            doc: ptr::null(),
        },
        ffi::PyMemberDef::default(),
    ];
    let slot = |slot: c_int, pointer: *mut c_void| ffi::PyType_Slot { slot, pfunc: pointer };
    // The type keeps pointers to its methods and members, so they live as long as the process.
    let methods = Box::leak(methods().into_boxed_slice()).as_mut_ptr();
    let members = Box::leak(members.into_boxed_slice()).as_mut_ptr();
    let mut slots = [
        slot(ffi::Py_am_send, am_send as *mut c_void),
        slot(ffi::Py_am_await, return_self as *mut c_void),
        slot(ffi::Py_tp_iter, return_self as *mut c_void),
        slot(ffi::Py_tp_iternext, iternext as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse as *mut c_void),
        slot(ffi::Py_tp_clear, clear as *mut c_void),
        slot(ffi::Py_tp_dealloc, dealloc as *mut c_void),
        slot(ffi::Py_tp_methods, methods.cast()),
        slot(ffi::Py_tp_members, members.cast()),
        slot(0, ptr::null_mut()),
    ];
    let size = c_int::try_from(size_of::<WaiterObject>())
        .map_err(|_| PyTypeError::new_err("creating the type Waiter: its size exceeds a C int"))?;
    let flags = ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION;
    let mut spec = ffi::PyType_Spec {
        name: c"pydotcompute._core.Waiter".as_ptr(),
        basicsize: size,
        itemsize: 0,
        flags: flags as _,
        slots: slots.as_mut_ptr(),
    };
    // SAFETY: the specification is complete, its slot list ends with a null slot, and each function has the signature of its slot.
    let class = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpec(&raw mut spec))? };
    Ok(class.cast_into::<PyType>()?)
}
