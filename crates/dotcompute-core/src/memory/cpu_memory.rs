//! The memory of the `cpu` device: separate allocations on the host.

use std::alloc::Layout;
use std::fmt;
use std::sync::Arc;

use dotcompute_ring::zeroed::ZeroedMemory;

use super::error::range_of;
use super::{ALIGN, DeviceBlock, DeviceId, DeviceMemory, HostBlock, MemoryError};
use crate::backend::BackendKind;

/// The memory of the `cpu` device.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CpuMemory {}

impl CpuMemory {
    /// Returns the memory of the `cpu` device.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {})
    }

    /// The id of the `cpu` device.
    pub const DEVICE: DeviceId = DeviceId { backend: BackendKind::Cpu, index: 0 };
}

impl DeviceMemory for CpuMemory {
    fn device(&self) -> DeviceId {
        Self::DEVICE
    }

    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBlock>, MemoryError> {
        let error = MemoryError::NoDeviceMemory { device: Self::DEVICE, requested: bytes, free: None };
        Ok(Box::new(AlignedBytes::zeroed(bytes).ok_or(error)?))
    }

    /// Returns `false`: the CPU copies from any memory equally fast.
    fn supports_page_locked(&self) -> bool {
        false
    }

    fn page_locked(&self, bytes: usize) -> Result<Box<dyn HostBlock>, MemoryError> {
        Ok(Box::new(AlignedBytes::zeroed(bytes).ok_or(MemoryError::NoHostMemory { requested: bytes })?))
    }

    fn trim(&self) -> Result<(), MemoryError> {
        Ok(())
    }
}

/// Bytes on the host, aligned to [`ALIGN`]. A page uses no memory until it is touched.
pub(super) struct AlignedBytes {
    memory: ZeroedMemory,
    len: usize,
}

impl AlignedBytes {
    /// Allocates `len` zeroed bytes; `None` if the host has not enough memory.
    pub(super) fn zeroed(len: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len, ALIGN).ok()?;
        Some(Self { memory: ZeroedMemory::new(layout)?, len })
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: `memory` is a block of `len` initialized bytes that lives as long as `self`. Only a mutable borrow of `self` writes it.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().as_ptr(), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: `memory` is a block of `len` initialized bytes that lives as long as `self`; the mutable borrow of `self` makes this
        // access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr().as_ptr(), self.len) }
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:p}", self.len, self.memory.as_ptr())
    }
}

impl DeviceBlock for AlignedBytes {
    fn address(&self) -> u64 {
        self.memory.as_ptr().expose_provenance().get() as u64
    }

    fn len(&self) -> usize {
        self.len
    }

    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        let range = range_of(at, from.len(), self.len)?;
        self.as_mut_slice()[range].copy_from_slice(from);
        Ok(())
    }

    fn read(&self, at: usize, to: &mut [u8]) -> Result<(), MemoryError> {
        to.copy_from_slice(&self.as_slice()[range_of(at, to.len(), self.len)?]);
        Ok(())
    }

    fn zero(&mut self) -> Result<(), MemoryError> {
        self.as_mut_slice().fill(0);
        Ok(())
    }

    fn host_view(&self) -> Option<&[u8]> {
        Some(self.as_slice())
    }

    fn host_view_mut(&mut self) -> Option<&mut [u8]> {
        Some(self.as_mut_slice())
    }
}

impl HostBlock for AlignedBytes {
    fn bytes(&self) -> &[u8] {
        self.as_slice()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}
