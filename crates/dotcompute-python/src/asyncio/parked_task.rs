//! A suspended task, as the party that resumes it needs it.

use pyo3::prelude::*;

/// A suspended task: what it registered with its waiter in `add_done_callback`.
pub(super) struct ParkedTask {
    pub(super) waiter: Py<PyAny>,
    /// The callback that runs the next step of the task.
    pub(super) wakeup: Py<PyAny>,
    /// The `contextvars` context in which the callback runs.
    pub(super) context: Py<PyAny>,
    pub(super) event_loop: Py<PyAny>,
}
