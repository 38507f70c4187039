//! Memory that is kept for later instead of being given back.

use std::sync::Arc;

use dotcompute_core::memory::{DeviceMemory, MemoryPool, PoolOptions, PoolStats};
use pyo3::prelude::*;

use super::device::Device;
use super::errors::memory_error;

/// Bytes in use, bytes in use or kept, blocks kept.
type Figures = (usize, usize, usize);

fn figures(stats: PoolStats) -> Figures {
    (stats.in_use, stats.in_use + stats.cached, stats.blocks_cached)
}

/// A pool of one device's memory, and of page-locked memory of the host for it.
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

    /// Of device memory: bytes in use, bytes in use or kept, blocks kept.
    fn stats(&self) -> Figures {
        figures(self.0.stats())
    }

    /// Of page-locked memory of the host: as `stats`.
    fn page_locked_stats(&self) -> Figures {
        figures(self.0.page_locked_stats())
    }

    /// Sets the most bytes of device memory that it has at once, in use and kept; none: no limit. What is kept beyond is given back.
    #[pyo3(signature = (limit))]
    fn set_limit(&self, py: Python<'_>, limit: Option<usize>) {
        let options = PoolOptions::new();
        let options = limit.map_or(options, |bytes| options.limit(bytes));
        py.detach(|| self.0.set_options(options));
    }

    /// Gives back all that is kept of device memory; returns how many bytes that were.
    fn trim_device(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.trim_to(0))
    }

    /// Gives back all that is kept, of either kind, and has the device do the same.
    fn trim(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.0.trim()).map_err(memory_error)
    }
}
