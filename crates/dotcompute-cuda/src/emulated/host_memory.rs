//! Zeroed host memory that serves as the memory of the emulated device.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use dotcompute_ring::layout::CACHE_LINE;

use crate::host_device_channel::SharedMemory;

/// Host memory that starts zeroed and is aligned to a cache line.
pub(crate) struct HostMemory {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: `base` points to memory owned by this value alone; it is not tied to a thread. Code that accesses the memory from several
// threads synchronizes those accesses itself: the channel by atomics, the methods below by the condition in their documentation.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// Allocates `bytes` zeroed bytes, rounded up to whole cache lines, at least one. Aborts if the allocation fails.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        Self::try_zeroed(bytes).unwrap_or_else(|| handle_alloc_error(Layout::new::<u8>()))
    }

    /// As [`zeroed`](Self::zeroed), but returns `None` if the allocation fails.
    pub(crate) fn try_zeroed(bytes: usize) -> Option<Self> {
        let size = bytes.max(1).checked_next_multiple_of(CACHE_LINE)?;
        let layout = Layout::from_size_align(size, CACHE_LINE).ok()?;
        // SAFETY: the size of the layout is at least `CACHE_LINE`, so it is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { base, layout })
    }

    /// Overwrites the first bytes. The caller ensures that no other thread accesses them.
    pub(crate) fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.layout.size(), "memory is written within its bounds");
        // SAFETY: within the bounds, by the assertion above; `bytes` cannot overlap memory that only this value owns.
        unsafe { self.base.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// Zeroes all bytes from offset `from`. The caller ensures that no other thread accesses them.
    pub(crate) fn clear(&self, from: usize) {
        assert!(from <= self.layout.size(), "memory is written within its bounds");
        // SAFETY: within the bounds, by the assertion above.
        unsafe { self.base.add(from).write_bytes(0, self.layout.size() - from) };
    }

    /// Copies the first `bytes` bytes. The caller ensures that no other thread writes them.
    pub(crate) fn read(&self, bytes: usize) -> Vec<u8> {
        assert!(bytes <= self.layout.size(), "memory is read within its bounds");
        // SAFETY: within the bounds, by the assertion above. All bytes are initialized: they start zeroed.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), bytes) }.to_vec()
    }

    /// Returns the address.
    pub(crate) fn address(&self) -> u64 {
        self.base.expose_provenance().get() as u64
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: `try_zeroed` allocated `base` with `layout`, and `drop` runs once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

// SAFETY: `try_zeroed` allocated the size of `layout` at `base`, and only `drop` frees it.
unsafe impl SharedMemory for HostMemory {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.layout.size()
    }

    fn device_base(&self) -> u64 {
        self.address()
    }
}
