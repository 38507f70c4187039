//! The devices of this machine and their properties.
//!
//! ```
//! use dotcompute_core::accelerator::Accelerator;
//! use dotcompute_core::memory::UnifiedBuffer;
//!
//! let cpu = Accelerator::cpu(); // always available
//! println!("{}: {}, {} compute units", cpu.device(), cpu.properties().name, cpu.properties().compute_units);
//! let mut buffer = UnifiedBuffer::<u32>::new(cpu.memory()?, 1000)?;
//! assert_eq!(buffer.device()?.len(), 1000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::BackendError;
use crate::memory::{CpuMemory, DeviceId, DeviceMemory, MemoryPool, PoolOptions};

/// Properties of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Id of the device.
    pub device: DeviceId,
    /// Name of the device, such as `NVIDIA H200`.
    pub name: String,
    /// Size of its memory in bytes, if known.
    pub memory: Option<u64>,
    /// Number of compute units: multiprocessors of a GPU, or cores that this process may use.
    pub compute_units: u32,
    /// Threads of a warp; 1 on the CPU.
    pub warp_size: u32,
    /// Maximum number of threads of a block.
    pub max_threads_per_block: u32,
    /// Maximum number of threads of a block in each dimension.
    pub max_block_dims: [u32; 3],
    /// Maximum number of blocks of a grid in each dimension.
    pub max_grid_dims: [u32; 3],
    /// Maximum shared memory of a block in bytes.
    pub max_shared_memory: u32,
    /// CUDA compute capability, such as 9.0; `None` for other devices.
    pub compute_capability: Option<(u32, u32)>,
}

type Open = dyn Fn() -> Result<Arc<dyn DeviceMemory>, BackendError> + Send + Sync;

/// A device and its memory. Creating one is cheap: a GPU is opened by the first call of [`memory`](Self::memory).
pub struct Accelerator {
    properties: Properties,
    open: Box<Open>,
    memory: Mutex<Option<Arc<dyn DeviceMemory>>>,
}

impl Accelerator {
    /// Returns the CPU of this machine, as a device with memory of its own.
    #[must_use]
    pub fn cpu() -> Self {
        Self::new(cpu_properties(), || Ok(CpuMemory::new()))
    }

    /// Creates a device of a backend; `open` opens its memory.
    pub fn new(
        properties: Properties,
        open: impl Fn() -> Result<Arc<dyn DeviceMemory>, BackendError> + Send + Sync + 'static,
    ) -> Self {
        Self { properties, open: Box::new(open), memory: Mutex::default() }
    }

    /// Returns the id of the device.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.properties.device
    }

    /// Returns the properties of the device.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Returns the memory of the device; each call returns the same.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the device cannot be opened. The next call tries again.
    pub fn memory(&self) -> Result<Arc<dyn DeviceMemory>, BackendError> {
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = match memory.take() {
            Some(opened) => opened,
            None => (self.open)()?,
        };
        Ok(Arc::clone(memory.insert(opened)))
    }

    /// Creates a pool over the memory of the device.
    ///
    /// # Errors
    ///
    /// As for [`memory`](Self::memory).
    pub fn pool(&self, options: PoolOptions) -> Result<Arc<MemoryPool>, BackendError> {
        Ok(MemoryPool::new(self.memory()?, options))
    }
}

impl fmt::Debug for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accelerator").field("properties", &self.properties).finish_non_exhaustive()
    }
}

/// Returns the properties of the CPU. Its kernels are called once per launch, so the geometry is unlimited.
pub(crate) fn cpu_properties() -> Properties {
    let compute_units = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Properties {
        device: CpuMemory::DEVICE,
        name: cpu_name().unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        memory: host_memory(),
        compute_units: u32::try_from(compute_units).unwrap_or(u32::MAX),
        warp_size: 1,
        max_threads_per_block: u32::MAX,
        max_block_dims: [u32::MAX; 3],
        max_grid_dims: [u32::MAX; 3],
        max_shared_memory: u32::MAX,
        compute_capability: None,
    }
}

/// Returns the CPU's name, if Linux reports it (not on all architectures).
fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'))?.1.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(unix)]
fn host_memory() -> Option<u64> {
    // SAFETY: `sysconf` accepts any name and accesses no memory of the caller.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).ok()?.checked_mul(u64::try_from(page).ok()?)
}

#[cfg(not(unix))]
fn host_memory() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::backend::BackendKind;

    #[test]
    fn the_cpu_is_always_available() {
        let cpu = Accelerator::cpu();
        assert_eq!(cpu.device().to_string(), "cpu 0");
        assert!(cpu.properties().compute_units > 0 && !cpu.properties().name.is_empty());
        assert!(!cfg!(unix) || cpu.properties().memory.is_some_and(|bytes| bytes > 1 << 20));
        assert!(Arc::ptr_eq(&cpu.memory().unwrap(), &cpu.memory().unwrap()));
    }

    #[test]
    fn a_failed_open_is_tried_again() {
        let tries = AtomicU32::new(0);
        let accelerator =
            Accelerator::new(cpu_properties(), move || match tries.fetch_add(1, Ordering::Relaxed) {
                0 => Err(BackendError::Unavailable {
                    backend: BackendKind::Cuda,
                    missing: "a driver".into(),
                    advice: "install one".into(),
                }),
                _ => Ok(CpuMemory::new()),
            });
        let error = accelerator.pool(PoolOptions::new()).unwrap_err();
        assert!(error.to_string().contains("a driver"), "{error}");
        accelerator.memory().unwrap();
    }
}
