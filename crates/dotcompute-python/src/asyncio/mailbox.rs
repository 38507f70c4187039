//! A bounded queue at which coroutines wait.
//!
//! Everything that changes is under one lock, which is held for some tens of nanoseconds and never while Python runs: whatever calls
//! Python (waking tasks, dropping messages, comparing ids) is kept in [`Effects`] and done after.

use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::{ffi, intern};

use super::mailbox_state::{Effects, Entry, Inner, Seldom};
use super::priority_queue::Order;
use super::lock::{Guard, Lock};
use super::task_resume;

/// A bounded queue at which coroutines wait. The queues of Python derive from it.
#[pyclass(frozen, subclass, weakref, module = "pydotcompute._core")]
pub(crate) struct Mailbox {
    pub(super) inner: Lock<Inner>,
    /// The order of its messages, which is set once.
    pub(super) order: OnceLock<Order>,
    /// How many asks have been taken and not answered: a look without the lock, for outputs that answer nothing.
    pub(super) unanswered: AtomicUsize,
}

impl Mailbox {
    /// A mailbox that is not set up yet.
    pub(super) fn fresh() -> Self {
        Mailbox { inner: Lock::new(Inner::fresh()), order: OnceLock::new(), unanswered: AtomicUsize::new(0) }
    }

    pub(super) fn lock(&self) -> Guard<'_, Inner> {
        self.inner.lock()
    }

    /// The order in which messages are taken.
    pub(super) fn order(&self) -> Order {
        self.order.get().copied().unwrap_or(Order::Bands)
    }

    /// Does what has to wait for the lock's release. The receiver goes last: it may run for as long as it likes.
    pub(super) fn settle(&self, py: Python<'_>, effects: Effects) -> PyResult<()> {
        let Effects { receiver, others, taken, old, seldom } = effects;
        drop(old);
        for sleeper in others {
            task_resume::give_later(py, sleeper)?;
        }
        if let Some(seldom) = seldom {
            let Seldom { untaken, goes_on, refused, dropped, gone } = *seldom;
            drop(gone);
            if let Some((ask, Some(output))) = untaken {
                output.get().ask_was_put_back(ask);
            }
            if let Some(output) = goes_on {
                output.get().pass_over_given_up();
            }
            for ask in [refused, dropped.and_then(|entry| entry.ask)].into_iter().flatten() {
                self.disappoint(py, &ask)?;
            }
        }
        if let Some((ask, Some(output))) = taken {
            output.get().ask_was_taken(ask);
        }
        match receiver {
            Some(sleeper) => task_resume::give(py, sleeper),
            None => Ok(()),
        }
    }

    /// Accepts a message, or gives it back if there is no room.
    pub(super) fn offer(&self, py: Python<'_>, entry: Entry, effects: &mut Effects) -> Result<(), Entry> {
        self.lock().accept(py, entry, effects)
    }

    /// Takes out all messages. Their askers are told. Whoever waits for room has it, unless they are lost: then nothing more is to come in.
    pub(super) fn drained(&self, py: Python<'_>, lost: bool) -> PyResult<Vec<Py<PyAny>>> {
        let mut effects = Effects::default();
        let entries = {
            let mut inner = self.lock();
            let entries = inner.queue.take_all();
            if lost {
                inner.dequeued += entries.len() as u64;
                inner.count_dropped(entries.len() as u64);
                inner.in_hand = 0;
            } else {
                inner.make_room(py, &mut effects);
            }
            entries
        };
        self.settle(py, effects)?;
        let mut messages = Vec::with_capacity(entries.len());
        for Entry { message, ask, .. } in entries {
            if let Some(ask) = ask {
                self.disappoint(py, &ask)?;
            }
            messages.push(message);
        }
        Ok(messages)
    }
}

/// The level of a message at a mailbox of this order. What has no priority is normal.
///
/// # Errors
///
/// What reading the attribute raises, and `ValueError` for a priority that is not in 0 to 255.
pub(super) fn level(order: Order, message: &Bound<'_, PyAny>) -> PyResult<u8> {
    const NORMAL: u8 = 128;
    if order == Order::Fifo || is_builtin(message) {
        return Ok(order.level(NORMAL));
    }
    match message.getattr_opt(intern!(message.py(), "priority"))? {
        None => Ok(order.level(NORMAL)),
        Some(priority) => match priority.extract::<u8>() {
            Ok(priority) => Ok(order.level(priority)),
            Err(_) => Err(PyValueError::new_err(format!("Priority must be 0-255, got {}", priority.repr()?))),
        },
    }
}

/// Whether it is of a type that was not made in Python, such as numbers and texts: none of these has a priority.
fn is_builtin(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object has a live type.
    let flags = unsafe { ffi::PyType_GetFlags(ffi::Py_TYPE(object.as_ptr())) };
    flags & ffi::Py_TPFLAGS_HEAPTYPE == 0
}
