//! Detects in a forked child that an object belongs to the parent.
//!
//! A child has copies of its parent's objects and none of its threads. A message put into a copy never arrives.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

/// Number of forks between the start of the program and this process.
static FORKS: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Relaxed);
}

/// Counts forks from now on. Called once, when the module is imported.
pub(crate) fn register() {
    #[cfg(unix)]
    {
        use std::sync::Once;
        static REGISTERED: Once = Once::new();
        REGISTERED.call_once(|| {
            // SAFETY: `count_fork` only increments an atomic, which is async-signal-safe, so it may run in the child of a threaded process.
            unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
        });
    }
}

/// Number of forks between the start of the program and this process.
#[inline]
pub(crate) fn forks() -> u64 {
    FORKS.load(Relaxed)
}

/// The process that created an object.
pub(crate) struct Origin {
    forks: u64,
    pid: u32,
}

impl Origin {
    /// This process.
    pub(crate) fn current() -> Self {
        Self { forks: forks(), pid: std::process::id() }
    }

    /// Whether the object was inherited from the parent by a fork. Costs two loads.
    #[inline]
    pub(crate) fn is_inherited(&self) -> bool {
        self.forks != forks()
    }

    /// Checks that this process created the object. `subject` names it in the error.
    ///
    /// # Errors
    ///
    /// `ForkedProcessError` in a forked child.
    #[inline]
    pub(crate) fn check(&self, py: Python<'_>, subject: impl FnOnce() -> String) -> PyResult<()> {
        if self.is_inherited() { Err(self.error(py, &subject())) } else { Ok(()) }
    }

    #[cold]
    pub(crate) fn error(&self, py: Python<'_>, subject: &str) -> PyErr {
        static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let created = CLASS
            .import(py, "pydotcompute.exceptions", "ForkedProcessError")
            .and_then(|class| class.call1((subject, self.pid)));
        created.map_or_else(|error| error, PyErr::from_value)
    }
}
