//! The devices of this machine.

use std::sync::Arc;

use dotcompute_core::accelerator::Accelerator;
use dotcompute_core::backend::BackendKind;
use dotcompute_core::memory::DeviceMemory;
use pyo3::prelude::*;

use super::errors::{backend_error, driver_error};

/// A device of this machine. A GPU is opened on the first access to its memory, so holding this object costs nothing.
#[pyclass(frozen, module = "pydotcompute._core")]
pub struct Device(Arc<Accelerator>);

impl Device {
    /// Returns the memory of the device. Detaches from the interpreter: opening the device may wait until ring kernels have left it.
    pub(super) fn memory(&self, py: Python<'_>) -> PyResult<Arc<dyn DeviceMemory>> {
        py.detach(|| self.0.memory()).map_err(backend_error)
    }

    /// Returns whether the host accesses the memory of this device directly, so that no copies are needed.
    pub(super) fn is_host(&self) -> bool {
        self.0.device().backend == BackendKind::Cpu
    }
}

#[pymethods]
impl Device {
    /// Kind of device: ``"cpu"`` or ``"cuda"``.
    #[getter]
    fn backend(&self) -> String {
        self.0.device().backend.to_string()
    }

    /// Index among the devices of its kind, from 0.
    #[getter]
    fn index(&self) -> u32 {
        self.0.device().index
    }

    /// Name of the device.
    #[getter]
    fn name(&self) -> &str {
        &self.0.properties().name
    }

    /// Size of its memory in bytes, or None if unknown.
    #[getter]
    fn total_memory(&self) -> Option<u64> {
        self.0.properties().memory
    }

    /// Number of multiprocessors, or of CPU cores that this process may use.
    #[getter]
    fn compute_units(&self) -> u32 {
        self.0.properties().compute_units
    }

    /// Number of threads in a warp.
    #[getter]
    fn warp_size(&self) -> u32 {
        self.0.properties().warp_size
    }

    /// Maximum number of threads in a block.
    #[getter]
    fn max_threads_per_block(&self) -> u32 {
        self.0.properties().max_threads_per_block
    }

    /// Maximum block dimensions: x, y, z.
    #[getter]
    fn max_block_dims(&self) -> (u32, u32, u32) {
        self.0.properties().max_block_dims.into()
    }

    /// Maximum grid dimensions: x, y, z.
    #[getter]
    fn max_grid_dims(&self) -> (u32, u32, u32) {
        self.0.properties().max_grid_dims.into()
    }

    /// Compute capability of a GPU: major, minor. None on the CPU.
    #[getter]
    fn compute_capability(&self) -> Option<(u32, u32)> {
        self.0.properties().compute_capability
    }

    /// Queries the memory of a GPU.
    ///
    /// Returns:
    ///     Free bytes and total bytes.
    ///
    /// Raises:
    ///     BackendNotAvailableError: There is no CUDA driver.
    ///     CUDAError: The driver reported an error.
    fn memory_info(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let index = self.0.device().index;
        py.detach(|| dotcompute_cuda::cuda::memory_info(index)).map_err(backend_error)
    }

    fn __repr__(&self) -> String {
        format!("Device({}, {:?})", self.0.device(), self.0.properties().name)
    }
}

/// Returns the CPU of this machine.
#[pyfunction]
pub(super) fn cpu_device() -> Device {
    Device(Arc::new(Accelerator::cpu()))
}

/// Lists the GPUs that this process may use.
///
/// Returns:
///     The GPUs, by index.
///
/// Raises:
///     BackendNotAvailableError: There is no driver or no GPU; the text names what is missing.
#[pyfunction]
pub(super) fn cuda_devices(py: Python<'_>) -> PyResult<Vec<Device>> {
    let gpus = py.detach(dotcompute_cuda::cuda::accelerators).map_err(driver_error)?;
    Ok(gpus.into_iter().map(|gpu| Device(Arc::new(gpu))).collect())
}
