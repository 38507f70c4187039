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

mod buffer;
mod cpu_memory;
mod device_id;
mod device_memory;
mod device_slice;
mod dirty_ranges;
mod error;
mod free_list;
mod host_copy;
mod pod_cast;
mod pool;
mod size_class;

pub(crate) use pod_cast::{elements, elements_mut};

pub use buffer::{BufferState, Transfers, UnifiedBuffer};
pub use cpu_memory::CpuMemory;
pub use device_id::DeviceId;
pub use device_memory::{ALIGN, DeviceBlock, DeviceMemory, HostBlock};
pub use device_slice::{DeviceSlice, DeviceSliceMut};
pub use dirty_ranges::{DirtyRanges, MAX_DIRTY_RANGES};
pub use error::MemoryError;
pub use free_list::PoolStats;
pub use pool::{MemoryPool, PoolOptions};
