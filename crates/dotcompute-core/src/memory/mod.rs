//! Arrays that live on the host and on a device, and the memory that they are allocated from.
//!
//! A [`UnifiedBuffer`] is one array with a host copy and a device copy. Bytes move when the other side reads them, and only the ranges
//! that have changed. A [`DeviceMemory`] allocates the device copy: it is the memory of a device, or a [`MemoryPool`] over it.
//!
//! ```
//! use dotcompute_core::memory::{CpuMemory, BufferState, UnifiedBuffer};
//!
//! let mut prices = UnifiedBuffer::<f32>::from_slice(CpuMemory::new(), &[1.0, 2.0, 3.0])?;
//! assert_eq!(prices.state(), BufferState::HostOnly);
//!
//! let on_device = prices.device()?; // allocates the device copy and fills it
//! assert_eq!(on_device.len(), 3);
//! assert_eq!(prices.state(), BufferState::Synchronized);
//!
//! prices.host_range_mut(1..2)?[0] = 20.0; // the device copy of this element is stale now
//! assert_eq!(prices.state(), BufferState::HostDirty);
//! prices.device()?;
//! assert_eq!(prices.transfers().to_device_bytes, 12 + 4);
//! # Ok::<(), dotcompute_core::memory::MemoryError>(())
//! ```
//!
//! The `cpu` device also has memory of its own: separate allocations on the host. A program therefore behaves as it does on a GPU, and a
//! missing synchronization shows up on a machine without one.

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
