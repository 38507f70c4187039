//! The devices of this machine.

use std::sync::Arc;

use dotcompute_core::accelerator::Accelerator;
use dotcompute_core::backend::BackendKind;
use dotcompute_core::memory::DeviceMemory;
use pyo3::prelude::*;

use super::errors::{backend_error, driver_error};

/// A device, and the way to its memory. To have one costs nothing: a GPU is opened when its memory is first asked for.
#[pyclass(frozen, module = "pydotcompute._core")]
pub struct Device(Arc<Accelerator>);

impl Device {
    /// Its memory. Opening it may wait for ring kernels to make way, so that no other thread of Python waits for that.
    pub(super) fn memory(&self, py: Python<'_>) -> PyResult<Arc<dyn DeviceMemory>> {
        py.detach(|| self.0.memory()).map_err(backend_error)
    }

    /// Whether the host reads and writes its memory, so that there is nothing to copy.
    pub(super) fn is_host(&self) -> bool {
        self.0.device().backend == BackendKind::Cpu
    }
}

#[pymethods]
impl Device {
    /// The kind of device: `"cpu"` or `"cuda"`.
    #[getter]
    fn backend(&self) -> String {
        self.0.device().backend.to_string()
    }

    /// Its number among those of its kind, from 0.
    #[getter]
    fn index(&self) -> u32 {
        self.0.device().index
    }

    #[getter]
    fn name(&self) -> &str {
        &self.0.properties().name
    }

    /// Bytes of its memory, if it tells.
    #[getter]
    fn total_memory(&self) -> Option<u64> {
        self.0.properties().memory
    }

    /// How many multiprocessors, or cores that this process may use.
    #[getter]
    fn compute_units(&self) -> u32 {
        self.0.properties().compute_units
    }

    #[getter]
    fn warp_size(&self) -> u32 {
        self.0.properties().warp_size
    }

    #[getter]
    fn max_threads_per_block(&self) -> u32 {
        self.0.properties().max_threads_per_block
    }

    #[getter]
    fn max_block_dims(&self) -> (u32, u32, u32) {
        self.0.properties().max_block_dims.into()
    }

    #[getter]
    fn max_grid_dims(&self) -> (u32, u32, u32) {
        self.0.properties().max_grid_dims.into()
    }

    #[getter]
    fn compute_capability(&self) -> Option<(u32, u32)> {
        self.0.properties().compute_capability
    }

    /// Bytes of its memory: those that are free, and all. Only of a GPU.
    fn memory_info(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let index = self.0.device().index;
        py.detach(|| dotcompute_cuda::cuda::memory_info(index)).map_err(backend_error)
    }

    fn __repr__(&self) -> String {
        format!("Device({}, {:?})", self.0.device(), self.0.properties().name)
    }
}

/// The processor of this machine.
#[pyfunction]
pub(super) fn cpu_device() -> Device {
    Device(Arc::new(Accelerator::cpu()))
}

/// All GPUs that this process may use. Without a driver or a GPU this raises `BackendNotAvailableError`, with what is missing.
#[pyfunction]
pub(super) fn cuda_devices(py: Python<'_>) -> PyResult<Vec<Device>> {
    let gpus = py.detach(dotcompute_cuda::cuda::accelerators).map_err(driver_error)?;
    Ok(gpus.into_iter().map(|gpu| Device(Arc::new(gpu))).collect())
}
