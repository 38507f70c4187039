//! Errors of devices and memory as Python exceptions.

use dotcompute_core::backend::BackendError;
use dotcompute_core::memory::MemoryError;
use dotcompute_cuda::driver::DriverError;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

pyo3::import_exception!(pydotcompute.exceptions, BackendNotAvailableError);
pyo3::import_exception!(pydotcompute.exceptions, BufferNotAllocatedError);
pyo3::import_exception!(pydotcompute.exceptions, CUDAError);

/// Converts a memory error: out of memory is `MemoryError`, as in NumPy and CuPy, and a device error is `CUDAError`.
pub(super) fn memory_error(error: MemoryError) -> PyErr {
    match error {
        MemoryError::Device { .. } => CUDAError::new_err(error.to_string()),
        other => PyMemoryError::new_err(other.to_string()),
    }
}

/// Converts a backend error: a missing prerequisite is `BackendNotAvailableError`, and any other error is `CUDAError`.
pub(super) fn backend_error(error: BackendError) -> PyErr {
    match error {
        BackendError::Unavailable { backend, missing, advice } => BackendNotAvailableError::new_err((
            backend.to_string().to_uppercase(),
            format!("{missing}; {advice}"),
        )),
        other => CUDAError::new_err(other.to_string()),
    }
}

/// Converts an error of the CUDA driver, as [`backend_error`] does.
pub(super) fn driver_error(error: DriverError) -> PyErr {
    match error {
        DriverError::Unavailable { .. } | DriverError::TooOld { .. } => {
            BackendNotAvailableError::new_err(("CUDA", error.to_string()))
        }
        other => CUDAError::new_err(other.to_string()),
    }
}
