//! Operations on native ring kernels for event loops: `begin_tell`, `begin_ask`, `begin_receive`.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use dotcompute_core::error::{AskError, ReceiveError, TellError};
use dotcompute_core::message::record::RecordBytes;
use pyo3::prelude::*;

use super::blocking::Deadline;
use super::error;
use super::kernel::NativeKernel;
use super::loop_notifier::NativeNotifier;

/// The result of an operation.
enum Outcome {
    Tell(Result<(), TellError<RecordBytes>>),
    Ask(Result<RecordBytes, AskError<RecordBytes>>),
    Receive(Result<RecordBytes, ReceiveError>),
}

type Operation = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// An operation on a native ring kernel, for an event loop to poll. Dropping it cancels the operation.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct NativeOperation {
    kernel: Py<NativeKernel>,
    /// `None` once it is done.
    operation: Mutex<Option<Operation>>,
}

impl NativeOperation {
    fn new(kernel: Py<NativeKernel>, operation: impl Future<Output = Outcome> + Send + 'static) -> Self {
        Self { kernel, operation: Mutex::new(Some(Box::pin(operation))) }
    }
}

#[pymethods]
impl NativeOperation {
    /// Polls the operation.
    ///
    /// Args:
    ///     notifier: Reports ``number`` when the operation should be polled again.
    ///     number: Number of this poll.
    ///
    /// Returns:
    ///     ``(True, result)`` if the operation is done, else ``(False, None)``.
    fn poll<'py>(
        &self,
        py: Python<'py>,
        notifier: &NativeNotifier,
        number: u64,
    ) -> PyResult<(bool, Option<Bound<'py, PyAny>>)> {
        self.kernel.get().check_process(py)?;
        let waker = notifier.waker(number);
        // The poll may run a handler inline, so detach from the interpreter.
        let polled = py.detach(|| {
            let mut operation = self.operation.lock().unwrap_or_else(PoisonError::into_inner);
            let polled =
                operation.as_mut().map(|future| future.as_mut().poll(&mut Context::from_waker(&waker)));
            if matches!(polled, Some(Poll::Ready(_))) {
                *operation = None;
            }
            polled
        });
        match polled {
            Some(Poll::Ready(outcome)) => Ok((true, self.kernel.get().convert_outcome(py, outcome)?)),
            Some(Poll::Pending) => Ok((false, None)),
            None => Ok((true, None)),
        }
    }
}

#[pymethods]
impl NativeKernel {
    /// Starts a ``tell`` for an event loop.
    ///
    /// Args:
    ///     message: The message.
    ///
    /// Returns:
    ///     The operation. Its result is None.
    fn begin_tell(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>) -> PyResult<NativeOperation> {
        let record = slf.get().pack_input(message)?;
        let handle = slf.get().handle_for(message, false)?;
        let tell = async move { Outcome::Tell(handle.tell_async(record).await) };
        Ok(NativeOperation::new(slf.clone().unbind(), tell))
    }

    /// Starts an ``ask`` for an event loop.
    ///
    /// Args:
    ///     message: The message.
    ///     has_timeout: Whether the caller has a timeout. If so, the handler does not run inline on the thread of the loop.
    ///
    /// Returns:
    ///     The operation. Its result is the reply.
    fn begin_ask(
        slf: &Bound<'_, Self>,
        message: &Bound<'_, PyAny>,
        has_timeout: bool,
    ) -> PyResult<NativeOperation> {
        let record = slf.get().pack_input(message)?;
        let handle = slf.get().handle_for(message, !has_timeout)?;
        let ask = async move { Outcome::Ask(handle.ask_async(record).await) };
        Ok(NativeOperation::new(slf.clone().unbind(), ask))
    }

    /// Starts a ``receive`` for an event loop.
    ///
    /// Returns:
    ///     The operation. Its result is the output.
    fn begin_receive(slf: &Bound<'_, Self>) -> PyResult<NativeOperation> {
        slf.get().check_process(slf.py())?;
        let handle = slf.get().handle();
        let receive = async move { Outcome::Receive(handle.receive_async().await) };
        Ok(NativeOperation::new(slf.clone().unbind(), receive))
    }
}

impl NativeKernel {
    /// Converts the result of an operation to its Python result.
    fn convert_outcome<'py>(&self, py: Python<'py>, outcome: Outcome) -> PyResult<Option<Bound<'py, PyAny>>> {
        match outcome {
            Outcome::Tell(result) => {
                result.map_err(|error| error::rejected(py, &error, "tell"))?;
                Ok(None)
            }
            Outcome::Ask(result) => {
                let reply = result.map_err(|error| self.ask_error(py, &error))?;
                self.unpack_output(py, &reply).map(Some)
            }
            Outcome::Receive(result) => {
                let no_deadline = Deadline::new(py, None)?;
                let output =
                    result.map_err(|error| error::not_received(py, &error, no_deadline.seconds()))?;
                self.unpack_output(py, &output).map(Some)
            }
        }
    }
}
