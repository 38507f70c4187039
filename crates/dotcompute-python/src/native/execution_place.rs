//! Where a native ring kernel runs.

use std::sync::Arc;

use pyo3::prelude::*;

use super::handler::Program;

/// Where a native ring kernel runs, and so where its state and its exceptions are.
pub(super) enum ExecutionPlace {
    /// In this process.
    Host(Arc<Program>),
    /// On a device.
    Device {
        /// Python function that maps the return code of a handler to the exception and its source location.
        exception_of: Py<PyAny>,
    },
}
