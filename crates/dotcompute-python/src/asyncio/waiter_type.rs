//! The type of [`Waiter`](super::waiter)s, made by hand: PyO3's classes cannot have the slot `am_send`.
//!
//! What Python calls wraps a function of that module; errors become Python's.

use std::ffi::{c_int, c_void};
use std::ptr;

use pyo3::exceptions::{PyRuntimeError, PyStopIteration, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyTuple, PyType};

use super::errors;
use super::waiter::{Object, State, Status, abandon, mailbox, resume, subscribe};

/// The type, made once.
pub(super) fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    Ok(CLASS.get_or_try_init(py, || make_class(py).map(Bound::unbind))?.bind(py))
}

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
        abandon(this)?;
        Err(error)
    })
}

unsafe extern "C" fn method_close(waiter: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    call(waiter, ptr::null_mut(), |this| {
        abandon(this)?;
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
