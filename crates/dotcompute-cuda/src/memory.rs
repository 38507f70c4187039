//! Ordinary memory of this process, for a device that is emulated in it.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use dotcompute_ring::layout::CACHE_LINE;

use crate::exchange::SharedMemory;

/// Zeroed bytes, aligned to a line.
pub(crate) struct HostMemory {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is this value's own; who writes to it from several threads answers for that.
unsafe impl Send for HostMemory {}
// SAFETY: as above.
unsafe impl Sync for HostMemory {}

impl HostMemory {
    /// So many zeros; at least one line of them.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        Self::try_zeroed(bytes).unwrap_or_else(|| handle_alloc_error(Layout::new::<u8>()))
    }

    /// As [`zeroed`](Self::zeroed); none if there is no such memory.
    pub(crate) fn try_zeroed(bytes: usize) -> Option<Self> {
        let size = bytes.max(1).checked_next_multiple_of(CACHE_LINE)?;
        let layout = Layout::from_size_align(size, CACHE_LINE).ok()?;
        // SAFETY: the layout's size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { base, layout })
    }

    /// Overwrites the beginning. Nobody else may be using it.
    pub(crate) fn write(&self, bytes: &[u8]) {
        assert!(bytes.len() <= self.layout.size(), "memory is written within its bounds");
        // SAFETY: within the bounds, by the line above.
        unsafe { self.base.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// Makes all from this byte on zeros. Nobody else may be using it.
    pub(crate) fn clear(&self, from: usize) {
        assert!(from <= self.layout.size(), "memory is written within its bounds");
        // SAFETY: within the bounds, by the line above.
        unsafe { self.base.add(from).write_bytes(0, self.layout.size() - from) };
    }

    /// So many bytes from the beginning. Nobody else may be writing them.
    pub(crate) fn read(&self, bytes: usize) -> Vec<u8> {
        assert!(bytes <= self.layout.size(), "memory is read within its bounds");
        // SAFETY: within the bounds, by the line above, and initialised: zeros, or what was written since.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), bytes) }.to_vec()
    }

    /// Its address.
    pub(crate) fn address(&self) -> u64 {
        self.base.expose_provenance().get() as u64
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and given back once.
        unsafe { dealloc(self.base.as_ptr(), self.layout) };
    }
}

// SAFETY: `zeroed` has allocated the layout's size at `base`, and only `drop` gives it back.
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
