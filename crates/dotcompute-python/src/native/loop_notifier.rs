//! Native ring kernels and event loops: operations that a loop looks at, and the bell that tells it when.
//!
//! A ring kernel's thread must not take the interpreter's lock to wake a loop: it writes to a socket that the loop listens to, and puts the
//! operation's number on a list. The loop takes the list, and looks at these operations on its own thread.

use std::future::Future;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use dotcompute_core::error::{AskError, ReceiveError, TellError};
use dotcompute_core::message::record::RecordBytes;
use pyo3::prelude::*;

use super::kernel::NativeKernel;

/// What has called, and the way to say so.
struct Calls {
    numbers: Mutex<Vec<u64>>,
    rings: UnixStream,
}

impl Calls {
    fn numbers(&self) -> MutexGuard<'_, Vec<u64>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, number: u64) {
        let mut numbers = self.numbers();
        numbers.push(number);
        // One ring is enough for all that are on the list. It does not wait: a socket that is full will wake the loop as it is, and one
        // whose loop is gone has nobody to wake.
        if numbers.len() == 1 {
            let _ = (&self.rings).write(&[1]);
        }
    }
}

/// The bell of an event loop.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct NativeNotifier {
    calls: Arc<Calls>,
    heard: UnixStream,
}

#[pymethods]
impl NativeNotifier {
    #[new]
    fn new() -> PyResult<Self> {
        let (heard, rings) = UnixStream::pair()?;
        heard.set_nonblocking(true)?;
        rings.set_nonblocking(true)?;
        Ok(Self { calls: Arc::new(Calls { numbers: Mutex::default(), rings }), heard })
    }

    /// What the loop listens to.
    fn fileno(&self) -> i32 {
        self.heard.as_raw_fd()
    }

    /// The numbers of the operations to be looked at.
    fn take_ready(&self) -> Vec<u64> {
        let mut rings = [0; 64];
        // Emptied before the list is taken: whoever calls after that rings again.
        while matches!((&self.heard).read(&mut rings), Ok(count) if count == rings.len()) {}
        std::mem::take(&mut *self.calls.numbers())
    }
}

/// Wakes the loop for one operation.
struct Ringer {
    calls: Arc<Calls>,
    number: u64,
}

impl Wake for Ringer {
    fn wake(self: Arc<Self>) {
        self.calls.call(self.number);
    }
}

/// What came of an operation.
pub(super) enum Outcome {
    Told(Result<(), TellError<RecordBytes>>),
    Asked(Result<RecordBytes, AskError<RecordBytes>>),
    Received(Result<RecordBytes, ReceiveError>),
}

type Operation = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A call on a native ring kernel that an event loop waits for. Dropped, it is given up.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct NativeOperation {
    kernel: Py<NativeKernel>,
    /// None once it is over.
    operation: Mutex<Option<Operation>>,
}

impl NativeOperation {
    pub(super) fn new(
        kernel: Py<NativeKernel>,
        operation: impl Future<Output = Outcome> + Send + 'static,
    ) -> Self {
        Self { kernel, operation: Mutex::new(Some(Box::pin(operation))) }
    }
}

#[pymethods]
impl NativeOperation {
    /// Looks at it: `(True, result)` once it is over; else `(False, None)`, and the bell is rung with this number when to look again.
    fn poll<'py>(
        &self,
        py: Python<'py>,
        notifier: &NativeNotifier,
        number: u64,
    ) -> PyResult<(bool, Option<Bound<'py, PyAny>>)> {
        let waker = Waker::from(Arc::new(Ringer { calls: Arc::clone(&notifier.calls), number }));
        // A handler may run in this look: the interpreter is free meanwhile.
        let looked = py.detach(|| {
            let mut operation = self.operation.lock().unwrap_or_else(PoisonError::into_inner);
            let polled =
                operation.as_mut().map(|future| future.as_mut().poll(&mut Context::from_waker(&waker)));
            if matches!(polled, Some(Poll::Ready(_))) {
                *operation = None;
            }
            polled
        });
        match looked {
            Some(Poll::Ready(outcome)) => Ok((true, self.kernel.get().outcome(py, outcome)?)),
            Some(Poll::Pending) => Ok((false, None)),
            None => Ok((true, None)),
        }
    }
}
