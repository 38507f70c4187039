//! Notifies an event loop that an operation on a native ring kernel may be ready.
//!
//! The thread of a ring kernel must not take the GIL to wake an event loop. It appends the number of the operation to a list and writes to
//! a socket on which the loop listens. The loop takes the list and polls those operations on its own thread.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use pyo3::prelude::*;

/// Numbers of the operations to poll, and the socket that wakes the event loop.
struct ReadyQueue {
    numbers: Mutex<Vec<u64>>,
    wake_tx: UnixStream,
}

impl ReadyQueue {
    fn numbers(&self) -> MutexGuard<'_, Vec<u64>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, number: u64) {
        let mut numbers = self.numbers();
        numbers.push(number);
        // SYNC POINT: loop notifier
        // Push the number, then write: pairs with read, then take in `NativeNotifier::take_ready`. One byte wakes the loop for all numbers
        // on the list, so only the first push writes. An error needs no handling: a full socket is readable already, and a closed one has
        // no loop to wake.
        if numbers.len() == 1 {
            let _ = (&self.wake_tx).write(&[1]);
        }
    }
}

/// Wakes an event loop when operations on native ring kernels may be ready.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct NativeNotifier {
    ready: Arc<ReadyQueue>,
    wake_rx: UnixStream,
}

impl NativeNotifier {
    /// Creates a waker that reports `number` to the event loop.
    pub(super) fn waker(&self, number: u64) -> Waker {
        Waker::from(Arc::new(LoopWaker { ready: Arc::clone(&self.ready), number }))
    }
}

#[pymethods]
impl NativeNotifier {
    #[new]
    fn new() -> PyResult<Self> {
        let (wake_rx, wake_tx) = UnixStream::pair()?;
        wake_rx.set_nonblocking(true)?;
        wake_tx.set_nonblocking(true)?;
        Ok(Self { ready: Arc::new(ReadyQueue { numbers: Mutex::default(), wake_tx }), wake_rx })
    }

    /// Returns the file descriptor for the event loop to watch; it is readable when there are operations to poll.
    fn fileno(&self) -> i32 {
        self.wake_rx.as_raw_fd()
    }

    /// Takes the numbers of the operations to poll, and resets the file descriptor.
    ///
    /// Returns:
    ///     The numbers, in order of notification.
    fn take_ready(&self) -> Vec<u64> {
        let mut bytes = [0; 64];
        // SYNC POINT: loop notifier
        // Read, then take the list: pairs with push, then write in `ReadyQueue::push`. A number pushed after the take finds an empty list
        // and writes again.
        while matches!((&self.wake_rx).read(&mut bytes), Ok(count) if count == bytes.len()) {}
        std::mem::take(&mut *self.ready.numbers())
    }
}

/// Waker of one operation.
struct LoopWaker {
    ready: Arc<ReadyQueue>,
    number: u64,
}

impl Wake for LoopWaker {
    fn wake(self: Arc<Self>) {
        self.ready.push(self.number);
    }
}
