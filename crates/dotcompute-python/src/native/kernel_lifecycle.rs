//! The lifecycle of a native ring kernel: activation, pause, end, and its state.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use dotcompute_core::error::LifecycleError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::blocking::{self, Deadline, block_on};
use super::error;
use super::execution_place::ExecutionPlace;
use super::kernel::NativeKernel;

#[pymethods]
impl NativeKernel {
    /// Copies the state at a message boundary.
    ///
    /// Args:
    ///     timeout: Maximum wait for a device, in seconds.
    ///
    /// Returns:
    ///     The bytes of the state.
    fn state_bytes<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Bound<'py, PyBytes>> {
        self.check_process(py)?;
        let bytes = match &self.place {
            ExecutionPlace::Host(program) => py.detach(|| program.snapshot()),
            ExecutionPlace::Device { .. } => {
                let timeout = blocking::seconds(py, "timeout", timeout)?;
                py.detach(|| self.handle.checkpoint_bytes(timeout))
                    .map_err(|error| error::lifecycle_error(py, &error))?
            }
        };
        Ok(PyBytes::new(py, &bytes))
    }

    /// Overwrites the state at a message boundary.
    ///
    /// Args:
    ///     bytes: The new state.
    ///     timeout: Maximum wait for a device, in seconds.
    ///
    /// Raises:
    ///     KernelError: The size of the state differs.
    fn restore_bytes(&self, py: Python<'_>, bytes: &[u8], timeout: f64) -> PyResult<()> {
        self.check_process(py)?;
        match &self.place {
            ExecutionPlace::Host(program) => match py.detach(|| program.restore(bytes)) {
                true => Ok(()),
                false => Err(error::kernel_error(
                    py,
                    "restoring the state: the number of bytes differs from the size of the state",
                )),
            },
            ExecutionPlace::Device { .. } => {
                let timeout = blocking::seconds(py, "timeout", timeout)?;
                py.detach(|| self.handle.restore_bytes(bytes, timeout))
                    .map_err(|error| error::lifecycle_error(py, &error))
            }
        }
    }

    /// Starts handling messages.
    fn activate(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process(py)?;
        self.handle.activate().map_err(|error| error::lifecycle_error(py, &error))
    }

    /// Pauses the ring kernel at the next message boundary and waits until it has paused.
    ///
    /// Args:
    ///     timeout: Maximum wait, in seconds.
    fn deactivate(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        self.check_process(py)?;
        let deactivate = self.handle.deactivate_async(blocking::seconds(py, "timeout", timeout)?);
        self.wait_for_transition(py, deactivate)
    }

    /// Resumes the ring kernel after `deactivate`.
    fn reactivate(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process(py)?;
        self.handle.reactivate().map_err(|error| error::lifecycle_error(py, &error))
    }

    /// Terminates the ring kernel after it has handled its queued messages, and waits for that.
    ///
    /// Args:
    ///     timeout: Maximum wait, in seconds.
    fn terminate(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        self.check_process(py)?;
        let terminate = self.handle.terminate_async(blocking::seconds(py, "timeout", timeout)?);
        self.wait_for_transition(py, terminate)
    }

    /// Terminates the ring kernel at the next message boundary. Queued messages become dead letters.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.check_process(py)?;
        py.detach(|| self.handle.abort()).map_err(|error| error::lifecycle_error(py, &error))
    }

    /// Waits until the ring kernel has ended.
    ///
    /// Args:
    ///     timeout: Maximum wait, in seconds. None waits without limit.
    ///
    /// Returns:
    ///     Whether the ring kernel has ended.
    fn wait_ended(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        self.check_process(py)?;
        let deadline = Deadline::new(py, timeout)?;
        while let Some(interval) = deadline.next_interval() {
            if py.detach(|| self.handle.wait_ended(interval)).has_ended() {
                return Ok(true);
            }
            py.check_signals()?;
        }
        Ok(self.handle.state().has_ended())
    }
}

impl NativeKernel {
    /// Waits for a lifecycle transition.
    fn wait_for_transition(
        &self,
        py: Python<'_>,
        transition: impl Future<Output = Result<(), LifecycleError>> + Send,
    ) -> PyResult<()> {
        let no_deadline = Deadline::new(py, None)?;
        match block_on(py, no_deadline, transition)? {
            Some(Err(error)) => Err(error::lifecycle_error(py, &error)),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

impl Drop for NativeKernel {
    /// Terminates the ring kernel after it has handled its queued messages.
    fn drop(&mut self) {
        if self.origin.is_inherited() {
            // It belongs to the parent, whose threads may have held its locks at the fork. References that are never released keep the
            // copy from being dropped.
            std::mem::forget((Arc::clone(&self.handle), Arc::clone(&self.inline)));
            std::mem::take(self.by_priority.get_mut().unwrap_or_else(PoisonError::into_inner))
                .into_values()
                .for_each(std::mem::forget);
            return;
        }
        let mut terminate = pin!(self.handle.terminate_async(Duration::MAX));
        // The first poll requests the termination. The drop does not wait for it.
        let _ = terminate.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    }
}
