//! Arrays that live on the host and on a device, and where their memory comes from.
//!
//! A [`UnifiedBuffer`] is one array with two halves, one on the host and one on a device. Its bytes move when the other side looks,
//! and only those that have changed. A [`DeviceMemory`] is where the device's half comes from: a device's own, or a [`MemoryPool`] of it.
//!
//! ```
//! use dotcompute_core::memory::{CpuMemory, BufferState, UnifiedBuffer};
//!
//! let mut prices = UnifiedBuffer::<f32>::from_slice(CpuMemory::new(), &[1.0, 2.0, 3.0])?;
//! assert_eq!(prices.state(), BufferState::HostOnly);
//!
//! let on_device = prices.device()?; // the device looks: everything is copied there
//! assert_eq!(on_device.len(), 3);
//! assert_eq!(prices.state(), BufferState::Synchronized);
//!
//! prices.host_range_mut(1..2)?[0] = 20.0; // one element is newer on the host now
//! assert_eq!(prices.state(), BufferState::HostDirty);
//! prices.device()?;
//! assert_eq!(prices.transfers().to_device_bytes, 12 + 4);
//! # Ok::<(), dotcompute_core::memory::MemoryError>(())
//! ```
//!
//! The `cpu` device has memory of its own too, a second place on the host: so a program behaves there as it does on a GPU, and
//! whoever forgets that there are two sides finds it out without one.

use std::fmt;

mod buffer;
mod cast;
mod cpu;
mod error;
mod host;
mod pool;
mod ranges;
mod shelf;
mod view;

use crate::backend::BackendKind;

pub(crate) use cast::{elements, elements_mut};

pub use buffer::{BufferState, Transfers, UnifiedBuffer};
pub use cpu::CpuMemory;
pub use error::MemoryError;
pub use pool::{MemoryPool, PoolOptions};
pub use ranges::{DirtyRanges, MAX_DIRTY_RANGES};
pub use shelf::PoolStats;
pub use view::{DeviceSlice, DeviceSliceMut};

/// What every block of memory is aligned to, in bytes. No element of a buffer may ask for more.
pub const ALIGN: usize = 256;

/// Which device of this machine.
///
/// ```
/// use dotcompute_core::backend::BackendKind;
/// use dotcompute_core::memory::DeviceId;
///
/// assert_eq!(DeviceId { backend: BackendKind::Cuda, index: 1 }.to_string(), "cuda 1");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// The kind of device.
    pub backend: BackendKind,
    /// Its number among those of its kind, from 0.
    pub index: u32,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.backend, self.index)
    }
}

/// Where the memory of a device comes from.
///
/// # Contract
///
/// - Blocks are aligned to [`ALIGN`]. Their content is any bytes: those of the block's last owner, or zeros.
/// - Nothing here waits for a ring kernel that is resident on the device, other than by having it make way.
pub trait DeviceMemory: fmt::Debug + Send + Sync {
    /// The device.
    fn device(&self) -> DeviceId;

    /// Takes a block of the device's memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoDeviceMemory`], [`MemoryError::Limit`], or what the device says.
    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBlock>, MemoryError>;

    /// Whether [`page_locked`](Self::page_locked) gives memory that is page-locked.
    fn supports_page_locked(&self) -> bool;

    /// Takes host memory that stays where it is, so that the device can copy it by itself. Where that gains nothing, as on the `cpu`
    /// device, it is ordinary memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoHostMemory`], [`MemoryError::Limit`], or what the device says.
    fn page_locked(&self, bytes: usize) -> Result<Box<dyn HostBlock>, MemoryError>;

    /// Gives back what is kept for later and used by nobody.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Device`] when the device could not be brought to take it.
    fn trim(&self) -> Result<(), MemoryError>;
}

/// A block of a device's memory. Dropping it gives it back.
pub trait DeviceBlock: fmt::Debug + Send + Sync {
    /// Where it is, as the device sees it.
    fn address(&self) -> u64;

    /// How many bytes it has: as many as were asked for.
    fn len(&self) -> usize;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies these bytes to it, from byte `at` on. They are there when this returns.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`], or [`MemoryError::Device`].
    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), MemoryError>;

    /// Copies its bytes from `at` on.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    fn read(&self, at: usize, to: &mut [u8]) -> Result<(), MemoryError>;

    /// Makes all of it zeros.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Device`].
    fn zero(&mut self) -> Result<(), MemoryError>;

    /// Its bytes, where the host can look at them.
    fn host_view(&self) -> Option<&[u8]>;

    /// Its bytes to write to, where the host can.
    fn host_view_mut(&mut self) -> Option<&mut [u8]>;
}

/// A block of the host's memory, from a device. Dropping it gives it back.
pub trait HostBlock: fmt::Debug + Send + Sync {
    /// Its bytes: as many as were asked for.
    fn bytes(&self) -> &[u8];

    /// Its bytes, to write to.
    fn bytes_mut(&mut self) -> &mut [u8];
}
