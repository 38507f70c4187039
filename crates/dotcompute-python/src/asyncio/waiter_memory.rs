//! The memory of waiters. Each operation of a mailbox creates a waiter, most of which die within the same expression, so the memory of a few
//! dead ones is kept for the next ones.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyType, PyTypeMethods};

/// Returns the memory of a new waiter of this class, which the garbage collector does not track yet. All fields are uninitialized.
pub(super) fn allocate(class: &Bound<'_, PyType>) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: `class` is live, and the thread is attached (`class`). `spare::take` returns memory that `PyObject_GC_New` allocated for an
    // instance of this class, which is the only class of this module.
    let raw = unsafe {
        match spare::take() {
            Some(raw) => ffi::PyObject_Init(raw, class.as_type_ptr()),
            None => ffi::PyObject_GC_New(class.as_type_ptr()),
        }
    };
    if raw.is_null() { Err(PyErr::fetch(class.py())) } else { Ok(raw) }
}

/// Frees the memory of a waiter.
///
/// # Safety
///
/// The thread must be attached. [`allocate`] returned the memory, its fields are dropped, and the garbage collector does not track it.
pub(super) unsafe fn free(raw: *mut ffi::PyObject) {
    // SAFETY: by the contract of this function.
    unsafe {
        if !spare::keep(raw) {
            ffi::PyObject_GC_Del(raw.cast());
        }
    }
}

/// With a GIL, which protects the list.
#[cfg(not(Py_GIL_DISABLED))]
mod spare {
    use std::cell::UnsafeCell;

    use pyo3::ffi;

    /// Waiters that are alive at the same time beyond this number are allocated anew.
    const CAPACITY: usize = 16;

    struct Spare(UnsafeCell<(usize, [*mut ffi::PyObject; CAPACITY])>);

    // SAFETY: only `take` and `keep` access the value, whose callers hold the GIL, and neither runs Python code.
    unsafe impl Sync for Spare {}

    static SPARE: Spare = Spare(UnsafeCell::new((0, [std::ptr::null_mut(); CAPACITY])));

    /// # Safety
    ///
    /// The thread must be attached.
    pub(super) unsafe fn take() -> Option<*mut ffi::PyObject> {
        // SAFETY: the caller holds the GIL, so this is the only access.
        let (len, spare) = unsafe { &mut *SPARE.0.get() };
        *len = len.checked_sub(1)?;
        spare.get(*len).copied()
    }

    /// Returns whether the memory was kept.
    ///
    /// # Safety
    ///
    /// The thread must be attached.
    pub(super) unsafe fn keep(raw: *mut ffi::PyObject) -> bool {
        // SAFETY: the caller holds the GIL, so this is the only access.
        let (len, spare) = unsafe { &mut *SPARE.0.get() };
        match spare.get_mut(*len) {
            Some(slot) => {
                *slot = raw;
                *len += 1;
                true
            }
            None => false,
        }
    }
}

/// Without a GIL: no memory is kept.
#[cfg(Py_GIL_DISABLED)]
mod spare {
    use pyo3::ffi;

    pub(super) unsafe fn take() -> Option<*mut ffi::PyObject> {
        None
    }

    pub(super) unsafe fn keep(_raw: *mut ffi::PyObject) -> bool {
        false
    }
}
