//! The devices of this machine, and what they can do.
//!
//! ```
//! use dotcompute_core::accelerator::Accelerator;
//! use dotcompute_core::memory::UnifiedBuffer;
//!
//! let cpu = Accelerator::cpu(); // there always is one
//! println!("{}: {}, {} at once", cpu.device(), cpu.properties().name, cpu.properties().compute_units);
//! let mut buffer = UnifiedBuffer::<u32>::new(cpu.memory()?, 1000)?;
//! assert_eq!(buffer.device()?.len(), 1000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::BackendError;
use crate::memory::{CpuMemory, DeviceId, DeviceMemory, MemoryPool, PoolOptions};

/// What a device is and can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Which it is.
    pub device: DeviceId,
    /// Its name, such as `NVIDIA H200`.
    pub name: String,
    /// Bytes of its memory, if it tells.
    pub memory: Option<u64>,
    /// How many units work independently of each other: multiprocessors, or cores that this process may use.
    pub compute_units: u32,
    /// How many threads of a unit go in step: a warp.
    pub warp_size: u32,
    /// The most threads of a block.
    pub max_threads_per_block: u32,
    /// The most threads of a block in each dimension.
    pub max_block_dims: [u32; 3],
    /// The most blocks of a grid in each dimension.
    pub max_grid_dims: [u32; 3],
    /// The most bytes of memory that the threads of a block can share.
    pub max_shared_memory: u32,
    /// What code it executes, such as 9.0, if there is a number for that.
    pub compute_capability: Option<(u32, u32)>,
}

type Open = dyn Fn() -> Result<Arc<dyn DeviceMemory>, BackendError> + Send + Sync;

/// A device, with the way to its memory. To have one costs nothing: a GPU is opened when its memory is first asked for.
pub struct Accelerator {
    properties: Properties,
    open: Box<Open>,
    memory: Mutex<Option<Arc<dyn DeviceMemory>>>,
}

impl Accelerator {
    /// The processor of this machine, as a device with memory of its own.
    #[must_use]
    pub fn cpu() -> Self {
        Self::new(cpu_properties(), || Ok(CpuMemory::new()))
    }

    /// A device of some backend, whose memory `open` opens.
    pub fn new(
        properties: Properties,
        open: impl Fn() -> Result<Arc<dyn DeviceMemory>, BackendError> + Send + Sync + 'static,
    ) -> Self {
        Self { properties, open: Box::new(open), memory: Mutex::default() }
    }

    /// Which device it is.
    #[must_use]
    pub fn device(&self) -> DeviceId {
        self.properties.device
    }

    /// What it is and can do.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Its memory; the same one each time.
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

    /// A new pool of its memory.
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

/// What is known of the processor. A kernel there is called once for a launch, so that any grid will do.
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

/// The processor's name, where Linux tells it (not on all architectures).
fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'))?.1.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(unix)]
fn host_memory() -> Option<u64> {
    // SAFETY: `sysconf` takes any name, and reads nothing of ours.
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
    fn the_cpu_is_always_there() {
        let cpu = Accelerator::cpu();
        assert_eq!(cpu.device().to_string(), "cpu 0");
        assert!(cpu.properties().compute_units > 0 && !cpu.properties().name.is_empty());
        assert!(!cfg!(unix) || cpu.properties().memory.is_some_and(|bytes| bytes > 1 << 20));
        assert!(Arc::ptr_eq(&cpu.memory().unwrap(), &cpu.memory().unwrap()));
    }

    #[test]
    fn a_device_that_cannot_be_opened_is_tried_again() {
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
