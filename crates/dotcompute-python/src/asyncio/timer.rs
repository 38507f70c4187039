//! A timer handle of an event loop.

use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};

/// A timer that is set on an event loop.
pub(super) struct Timer {
    /// On the clock of [`now_ns`](super::counters::now_ns).
    pub(super) deadline: u64,
    pub(super) event_loop: Py<PyAny>,
    /// The `asyncio.TimerHandle`.
    pub(super) handle: Py<PyAny>,
}

impl Timer {
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.handle)
    }
}
