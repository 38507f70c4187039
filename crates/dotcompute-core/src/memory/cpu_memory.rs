//! The memory of the `cpu` device: a second place on the host.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use super::error::range_of;
use super::{ALIGN, DeviceBlock, DeviceId, DeviceMemory, HostBlock, MemoryError};
use crate::backend::BackendKind;

/// The memory of the `cpu` device.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CpuMemory {}

impl CpuMemory {
    /// The one that there is.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {})
    }

    /// What buffers on it call their device.
    pub const DEVICE: DeviceId = DeviceId { backend: BackendKind::Cpu, index: 0 };
}

impl DeviceMemory for CpuMemory {
    fn device(&self) -> DeviceId {
        Self::DEVICE
    }

    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBlock>, MemoryError> {
        let refused = MemoryError::NoDeviceMemory { device: Self::DEVICE, requested: bytes, free: None };
        Ok(Box::new(Bytes::zeroed(bytes).ok_or(refused)?))
    }

    /// No: the processor copies from any memory equally well.
    fn supports_page_locked(&self) -> bool {
        false
    }

    fn page_locked(&self, bytes: usize) -> Result<Box<dyn HostBlock>, MemoryError> {
        Ok(Box::new(Bytes::zeroed(bytes).ok_or(MemoryError::NoHostMemory { requested: bytes })?))
    }

    fn trim(&self) -> Result<(), MemoryError> {
        Ok(())
    }
}

/// Bytes on the heap, aligned to [`ALIGN`].
pub(super) struct Bytes {
    base: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: the bytes are this value's own: shared borrows of it read them, and it takes a mutable one to write.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

impl Bytes {
    /// So many zeros; none if there is no such memory. Pages that nobody touches cost nothing where the system gives zeroed pages.
    pub(super) fn zeroed(len: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len.max(1), ALIGN).ok()?;
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { base, len, layout })
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` bytes were allocated at `base`, zeroed then; they live as long as `self`.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

impl Drop for Bytes {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and given back once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:p}", self.len, self.base)
    }
}

impl DeviceBlock for Bytes {
    fn address(&self) -> u64 {
        self.base.expose_provenance().get() as u64
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

impl HostBlock for Bytes {
    fn bytes(&self) -> &[u8] {
        self.as_slice()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.as_mut_slice()
    }
}
