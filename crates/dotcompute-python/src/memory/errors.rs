//! Errors of devices and memory as Python's exceptions.

use dotcompute_core::backend::BackendError;
use dotcompute_core::memory::MemoryError;
use dotcompute_cuda::driver::DriverError;
use pyo3::exceptions::PyMemoryError;
use pyo3::prelude::*;

pyo3::import_exception!(pydotcompute.exceptions, BackendNotAvailableError);
pyo3::import_exception!(pydotcompute.exceptions, BufferNotAllocatedError);
pyo3::import_exception!(pydotcompute.exceptions, CUDAError);

/// Want of memory is a `MemoryError`, as for NumPy and CuPy; the rest is what the device said.
pub(super) fn memory_error(error: MemoryError) -> PyErr {
    match error {
        MemoryError::Device { .. } => CUDAError::new_err(error.to_string()),
        other => PyMemoryError::new_err(other.to_string()),
    }
}

/// What a backend lacks is a `BackendNotAvailableError`; the rest is what the device said.
pub(super) fn backend_error(error: BackendError) -> PyErr {
    match error {
        BackendError::Unavailable { backend, missing, advice } => BackendNotAvailableError::new_err((
            backend.to_string().to_uppercase(),
            format!("{missing}; {advice}"),
        )),
        other => CUDAError::new_err(other.to_string()),
    }
}

/// As [`backend_error`], for the driver.
pub(super) fn driver_error(error: DriverError) -> PyErr {
    match error {
        DriverError::Unavailable { .. } | DriverError::TooOld { .. } => {
            BackendNotAvailableError::new_err(("CUDA", error.to_string()))
        }
        other => CUDAError::new_err(other.to_string()),
    }
}
