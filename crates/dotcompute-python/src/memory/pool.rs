//! The memory pool of a device.

use std::sync::Arc;

use dotcompute_core::memory::{DeviceMemory, MemoryPool, PoolOptions, PoolStats};
use pyo3::prelude::*;

use super::device::Device;
use super::errors::memory_error;

/// Bytes in use, bytes in use or cached, and cached blocks.
type PoolStatsTuple = (usize, usize, usize);

fn stats_tuple(stats: PoolStats) -> PoolStatsTuple {
    (stats.in_use, stats.in_use + stats.cached, stats.blocks_cached)
}

/// A pool of device memory of one device, and of page-locked host memory for it.
#[pyclass(frozen, module = "pydotcompute._core")]
pub struct DevicePool(Arc<MemoryPool>);

impl DevicePool {
    pub(super) fn memory(&self) -> Arc<dyn DeviceMemory> {
        self.0.clone()
    }
}

#[pymethods]
impl DevicePool {
    #[new]
    fn new(py: Python<'_>, device: &Device) -> PyResult<Self> {
        Ok(Self(MemoryPool::new(device.memory(py)?, PoolOptions::new())))
    }

    /// Returns the counters of device memory.
    ///
    /// Returns:
    ///     Bytes in use, bytes in use or cached, and the number of cached blocks.
    fn stats(&self) -> PoolStatsTuple {
        stats_tuple(self.0.stats())
    }

    /// Returns the counters of page-locked host memory.
    ///
    /// Returns:
    ///     The same values as ``stats``.
    fn page_locked_stats(&self) -> PoolStatsTuple {
        stats_tuple(self.0.page_locked_stats())
    }

    /// Sets the limit of device memory, in use and cached. Cached blocks above the limit are freed.
    ///
    /// Args:
    ///     limit: Maximum number of bytes. None removes the limit.
    #[pyo3(signature = (limit))]
    fn set_limit(&self, py: Python<'_>, limit: Option<usize>) {
        let options = PoolOptions::new();
        let options = limit.map_or(options, |bytes| options.limit(bytes));
        py.detach(|| self.0.set_options(options));
    }

    /// Frees all cached blocks of device memory.
    ///
    /// Returns:
    ///     Number of bytes freed.
    fn trim_device(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.trim_to(0))
    }

    /// Frees all cached blocks of both kinds, and trims the memory pool of the device itself.
    ///
    /// Raises:
    ///     CUDAError: The driver reported an error.
    fn trim(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.trim()).map_err(memory_error)
    }
}
