//! The data of a waiter: an awaitable for a mailbox operation, which an asyncio task treats as a future.
//!
//! `await mailbox.get()` creates a waiter and polls the mailbox. If there is a message, the `await` completes at once. Otherwise the waiter
//! yields itself to the task, which uses it as a future: it registers a wake-up callback (`add_done_callback`), may cancel it (`cancel`)
//! and reads the outcome (`result`). A waiter is also a coroutine (`send`, `throw`, `close`), so that `create_task` and `asyncio.run`
//! accept it.
//!
//! # Exclusive access
//!
//! The lock of the waiter's mailbox protects all mutable data. The `mailbox` field never changes. A waiter without a mailbox is immutable.

use pyo3::ffi;
use pyo3::prelude::*;

use super::mailbox::Mailbox;
use super::parked_task::ParkedTask;

/// What a waiter waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing: it was created with its outcome.
    Ready,
    /// The next message of its mailbox.
    Get,
    /// A free slot for its message in its mailbox.
    Put,
    /// As `Put`, in an output. First the message is matched to an ask.
    Send,
    /// The reply to its message. Its mailbox is the output of the ring kernel.
    Ask,
}

/// The progress of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Not awaited yet: nothing has happened.
    New,
    /// An ask whose message is on its way, and which is not parked yet.
    AwaitingReply,
    /// Yielded to a task, which is suspended.
    Parked,
    /// The waiter holds the message, or its own message was accepted.
    Delivered,
    /// The deadline has passed.
    TimedOut,
    /// The ring kernel has failed.
    KernelFailed,
    /// There will be no message: the ring kernel terminates, or the message was dropped.
    Ended,
    /// The wait ended with an exception, which the waiter holds.
    Raises,
    /// The task was cancelled.
    Cancelled,
    /// The task has taken the outcome.
    Done,
}

/// The mutable data of a waiter.
pub(super) struct WaiterState {
    pub(super) kind: Kind,
    pub(super) status: Status,
    /// Level and acceptance time of the delivered message, to return it to the queue. For an ask: of its own message.
    pub(super) level: u8,
    /// For `Send`: whether the level is that of the message.
    pub(super) has_level: bool,
    pub(super) accepted_at: u64,
    /// For how many asks this one counts in the histogram. 0 if it is not timed.
    pub(super) weight: u32,
    /// The timeout in seconds, as the caller gave it.
    pub(super) timeout: Option<f64>,
    /// On the clock of [`now_ns`](super::counters::now_ns). 0 without a deadline.
    pub(super) deadline: u64,
    /// The message to put, or the message received. For `Ready` the outcome, and after cancellation its reason.
    pub(super) value: Option<Py<PyAny>>,
    /// For a message to put: the waiter for its reply.
    pub(super) ask: Option<Py<PyAny>>,
    /// For an ask: the message that is sent. For a reply: the message that it replies to.
    pub(super) asked_message: Option<Py<PyAny>>,
    /// The input of the ring kernel, where `mailbox` is its output.
    pub(super) input: Option<Py<Mailbox>>,
    /// For an ask whose message waits for a free slot of the input: the waiter of that message.
    pub(super) pending_put: Option<Py<PyAny>>,
    /// For `Get`: whether the wait is a step of `async for`, which ends the iteration when the ring kernel terminates.
    pub(super) iterates: bool,
    /// The method that created the waiter, as its users call it.
    pub(super) method: &'static str,
    /// For an ask whose message was received: the value of `received` of the input then.
    pub(super) position: u64,
    /// The output of the ring kernel whose task waits, while the wait is registered with it. See [`wait_cycle`](super::wait_cycle).
    pub(super) caller: Option<Py<Mailbox>>,
    pub(super) wakeup: Option<Py<PyAny>>,
    pub(super) context: Option<Py<PyAny>>,
    pub(super) event_loop: Option<Py<PyAny>>,
}

impl WaiterState {
    #[inline(always)]
    pub(super) fn new(kind: Kind, value: Option<Py<PyAny>>, timeout: Option<f64>) -> Self {
        WaiterState {
            kind,
            status: Status::New,
            level: 0,
            has_level: false,
            accepted_at: 0,
            weight: 0,
            timeout,
            deadline: 0,
            value,
            ask: None,
            asked_message: None,
            input: None,
            pending_put: None,
            iterates: false,
            method: "",
            position: 0,
            caller: None,
            wakeup: None,
            context: None,
            event_loop: None,
        }
    }

    /// Ends the wait and returns the task to resume.
    ///
    /// Returns `None` if the task has not registered its callback yet: `add_done_callback` checks the status again.
    pub(super) fn finish(
        &mut self,
        waiter: &Py<PyAny>,
        status: Status,
        py: Python<'_>,
    ) -> Option<ParkedTask> {
        let parked = self.status == Status::Parked;
        self.status = status;
        if !parked {
            return None;
        }
        Some(ParkedTask {
            waiter: waiter.clone_ref(py),
            wakeup: self.wakeup.take()?,
            context: self.context.take()?,
            event_loop: self.event_loop.as_ref()?.clone_ref(py),
        })
    }
}

/// A waiter as CPython lays it out.
#[repr(C)]
pub(super) struct WaiterObject {
    pub(super) base: ffi::PyObject,
    /// The attribute `_asyncio_future_blocking`: true once yielded, false once a task has accepted it, absent before and after.
    ///
    /// asyncio treats any object with this attribute not `None` as a future. Before the `await`, a waiter must count as a coroutine.
    pub(super) blocking: Option<Py<PyAny>>,
    /// The coroutine that continues this one after its first step: it delivers a message to connected ring kernels. Only the thread that steps
    /// this coroutine accesses it.
    pub(super) delegate: Option<Py<PyAny>>,
    /// For `Kind::Ready`: whether the value is an exception to raise.
    pub(super) failure: bool,
    pub(super) mailbox: Option<Py<Mailbox>>,
    pub(super) state: WaiterState,
}

/// Returns the mutable data of a waiter.
///
/// # Safety
///
/// `waiter` must be a [`WaiterObject`]. The caller must hold the lock of its mailbox, or be the only owner of a new waiter. The reference
/// must end before another one to the same waiter is created.
pub(super) unsafe fn state<'a>(waiter: &Py<PyAny>) -> &'a mut WaiterState {
    // SAFETY: the caller guarantees the type and exclusive access. The object lives as long as the reference that the caller holds.
    unsafe { &mut (*waiter.as_ptr().cast::<WaiterObject>()).state }
}

/// Returns whether two references are to the same waiter.
pub(super) fn same(a: &Py<PyAny>, b: &Py<PyAny>) -> bool {
    a.as_ptr() == b.as_ptr()
}

pub(super) fn object(waiter: &Bound<'_, PyAny>) -> *mut WaiterObject {
    waiter.as_ptr().cast()
}

pub(super) fn mailbox<'a>(waiter: &'a Bound<'_, PyAny>) -> Option<&'a Py<Mailbox>> {
    // SAFETY: callers pass waiters only, and the field is written before the waiter is shared and never after.
    unsafe { (*object(waiter)).mailbox.as_ref() }
}

/// Returns the coroutine that continues this one.
#[inline]
pub(super) fn delegate<'py>(waiter: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: callers pass waiters only. The thread that steps the waiter sets the field, once, and no other thread accesses it.
    unsafe { (*object(waiter)).delegate.as_ref() }.map(|delegate| delegate.bind(waiter.py()).clone())
}
