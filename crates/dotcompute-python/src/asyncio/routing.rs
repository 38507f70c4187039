//! Outputs of a connected ring kernel. Instead of being queued, each is delivered to the inputs of other ring kernels by a router, which is
//! written in Python (`pydotcompute/ring_kernels/_routing.py`).
//!
//! A put to such an output creates a coroutine of the router in its first step. From then on the waiter is only a shell: it passes each step
//! on to that coroutine, its *delegate*.

use std::ptr;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;

use super::mailbox::Mailbox;
use super::waiter::{self, Status, object};
use super::waiter_steps::resume;

/// The result of a step of a coroutine.
pub(super) enum Stepped<'py> {
    Returned(Bound<'py, PyAny>),
    /// The object to wait for.
    Yielded(Bound<'py, PyAny>),
}

/// Runs one step of a waiter, or of its delegate.
#[inline]
pub(super) fn step<'py>(waiter: &Bound<'py, PyAny>) -> PyResult<Stepped<'py>> {
    if let Some(delegate) = waiter::delegate(waiter) {
        return step_delegate(&delegate);
    }
    if let Some(value) = resume(waiter)? {
        return Ok(Stepped::Returned(value));
    }
    match waiter::delegate(waiter) {
        Some(delegate) => step_delegate(&delegate),
        None => Ok(Stepped::Yielded(waiter.clone())),
    }
}

#[cold]
fn step_delegate<'py>(delegate: &Bound<'py, PyAny>) -> PyResult<Stepped<'py>> {
    let py = delegate.py();
    let mut result = ptr::null_mut();
    // SAFETY: the delegate is a live coroutine, and the thread is attached (`py`). The result is owned, or null with an error set.
    unsafe {
        match ffi::PyIter_Send(delegate.as_ptr(), ffi::Py_None(), &raw mut result) {
            ffi::PySendResult::PYGEN_RETURN => Ok(Stepped::Returned(Bound::from_owned_ptr(py, result))),
            ffi::PySendResult::PYGEN_NEXT => Ok(Stepped::Yielded(Bound::from_owned_ptr(py, result))),
            ffi::PySendResult::PYGEN_ERROR => Err(PyErr::fetch(py)),
        }
    }
}

/// Delivers a message without waiting. Returns whether every connected ring kernel had a free slot.
pub(super) fn deliver_now(router: &Bound<'_, PyAny>, message: &Bound<'_, PyAny>) -> PyResult<bool> {
    router.call_method1(intern!(router.py(), "deliver_now"), (message,))?.extract()
}

impl Mailbox {
    /// Returns the router, if the ring kernel is connected.
    pub(super) fn router<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.lock().router.as_ref().map(|router| router.bind(py).clone())
    }

    /// Makes a coroutine of the router the delegate of a waiter that puts a message.
    pub(super) fn begin_delivery<'py>(
        &self,
        me: &Bound<'py, Self>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = me.py();
        let (message, timeout, router) = {
            let mailbox_state = self.lock();
            // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `mailbox_state`.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            let Some(router) = mailbox_state.router.as_ref().map(|router| router.bind(py).clone()) else {
                // It was disconnected by another thread meanwhile.
                drop(mailbox_state);
                return self.resume(me, waiter);
            };
            state.status = Status::Done;
            (state.value.take(), state.timeout, router)
        };
        let Some(message) = message else {
            return Err(PyRuntimeError::new_err(
                "delivering a message: it was delivered before; send it again",
            ));
        };
        let delivery = router.call_method1(intern!(py, "deliver"), (message, timeout))?;
        // SAFETY: `waiter` is live, and this thread steps it. It had no delegate: its status was `New`.
        unsafe { *ptr::addr_of_mut!((*object(waiter)).delegate) = Some(delivery.unbind()) };
        Ok(None)
    }
}

#[pymethods]
impl Mailbox {
    /// Makes this the output of a connected ring kernel: ``router`` delivers each message that is put from now on. None ends that.
    ///
    /// Args:
    ///     router: Has the methods ``deliver(message, timeout)``, which returns a coroutine of True, and ``deliver_now(message)``, which
    ///         returns whether the message was delivered.
    fn _set_router(&self, router: Option<Py<PyAny>>) {
        let mut state = self.lock();
        let old = std::mem::replace(&mut state.router, router);
        drop(state);
        drop(old);
    }
}
