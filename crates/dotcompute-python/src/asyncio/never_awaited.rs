//! The warning for an operation that was never awaited, so that nothing happened.

use std::ffi::CString;
use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;

use super::mailbox::Mailbox;
use super::waiter::{Kind, Status, WaiterObject};

/// Warns, as Python does for coroutines, if a waiter is destroyed before its first step, and counts it.
///
/// # Safety
///
/// The interpreter must be the caller of the calling function, so that the thread is attached. The waiter must be live, and unreachable
/// for other code.
#[allow(
    deprecated,
    reason = "the replacements of `PyErr_Fetch` and `PyErr_Restore` are not in the stable ABI of 3.11"
)]
pub(super) unsafe fn report(waiter: &WaiterObject) {
    let state = &waiter.state;
    if state.status != Status::New || state.method.is_empty() {
        return;
    }
    let effect = match state.kind {
        Kind::Ready => "and its error was not raised",
        Kind::Get => "and nothing was received",
        Kind::Put | Kind::Send | Kind::Ask => "and nothing was sent",
    };
    let kernel =
        waiter.mailbox.as_ref().map_or_else(String::new, |mailbox| count(mailbox, state.input.as_ref()));
    let subject = if kernel.is_empty() { String::new() } else { format!(" of kernel '{kernel}'") };
    let text = format!("'{}'{subject} was never awaited, {effect}", state.method);
    let Ok(text) = CString::new(text) else { return };
    // SAFETY: the thread is attached (contract of this function). An exception that is set now is set again afterwards; the three
    // pointers are owned or null.
    unsafe {
        let (mut class, mut value, mut traceback) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        ffi::PyErr_Fetch(&raw mut class, &raw mut value, &raw mut traceback);
        if ffi::PyErr_WarnEx(ffi::PyExc_RuntimeWarning, text.as_ptr(), 1) < 0 {
            ffi::PyErr_WriteUnraisable(ptr::null_mut());
        }
        ffi::PyErr_Restore(class, value, traceback);
    }
}

/// Counts the operation, and returns the name of the ring kernel. `input` is that of the ring kernel, if the waiter knows it.
fn count(mailbox: &Py<Mailbox>, input: Option<&Py<Mailbox>>) -> String {
    // A lock that is held means that this waiter is destroyed within an operation, which destroys only waiters that were awaited.
    let Some(mut state) = mailbox.get().state.try_lock() else { return String::new() };
    state.never_awaited += 1;
    let kernel = state.kernel.clone();
    match input.or(state.owner.as_ref().map(|owner| &owner.input)) {
        Some(input) if !ptr::eq(input.get(), mailbox.get()) => {
            if let Some(input) = input.get().state.try_lock() {
                input.count_never_awaited();
            }
        }
        _ => state.count_never_awaited(),
    }
    kernel
}
