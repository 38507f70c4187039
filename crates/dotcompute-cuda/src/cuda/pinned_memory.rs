//! Page-locked host memory that is mapped into the device's address space.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};
use dotcompute_ring::layout::CACHE_LINE;

use super::deferred_free::DeferredFreeList;
use crate::driver::DriverError;
use crate::host_device_channel::SharedMemory;

/// Page-locked host memory that host and device address directly. It is freed through the deferred free list.
pub(super) struct PinnedMemory {
    base: NonNull<u8>,
    bytes: usize,
    device: u64,
    context: Arc<CudaContext>,
    deferred_free: Arc<DeferredFreeList>,
}

// SAFETY: `base` points to memory owned by this value alone; it is not tied to a thread. Code that accesses the memory from several
// threads synchronizes those accesses itself (`bytes` and `bytes_mut` by borrowing, the channel by atomics).
unsafe impl Send for PinnedMemory {}
// SAFETY: as above.
unsafe impl Sync for PinnedMemory {}

impl PinnedMemory {
    /// Allocates `bytes` zeroed bytes, rounded up to whole cache lines. The caller ensures that no ring kernel is resident: page-locking
    /// synchronizes with the device.
    pub(super) fn zeroed(
        context: &Arc<CudaContext>,
        deferred_free: &Arc<DeferredFreeList>,
        bytes: usize,
    ) -> Result<Self, DriverError> {
        let doing = || format!("page-locking {bytes} bytes of host memory");
        context.bind_to_thread().map_err(DriverError::while_doing(doing()))?;
        let bytes = bytes.max(1).next_multiple_of(CACHE_LINE);
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: the context is current on this thread; both flags are valid for `cuMemHostAlloc`.
        let base = unsafe { result::malloc_host(bytes, flags) }.map_err(DriverError::while_doing(doing()))?;
        let missing = || DriverError::OutOfMemory { doing: doing() };
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(missing)?;
        let mut pinned = Self {
            base,
            bytes,
            device: 0,
            context: Arc::clone(context),
            deferred_free: Arc::clone(deferred_free),
        };
        // SAFETY: the allocation above has `bytes` bytes at `base`, and no other code has its address yet.
        unsafe { base.write_bytes(0, bytes) };
        // SAFETY: `base` was allocated with DEVICEMAP; `pinned.device` is writable for the call.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut pinned.device, base.as_ptr().cast(), 0) }
            .result()
            .map_err(DriverError::while_doing(doing()))?;
        Ok(pinned)
    }

    /// Returns the bytes. Use it only while the device neither reads nor writes the memory.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `base` points to `bytes` initialized bytes owned by `self`; `bytes_mut` borrows `self` mutably, so no mutable view
        // exists.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }

    /// Returns the bytes for writing. Use it only while the device neither reads nor writes the memory.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `base` points to `bytes` initialized bytes owned by `self`; `&mut self` excludes every other view.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }
}

// SAFETY: `zeroed` allocated `bytes` bytes at `base`. Only the closure that `drop` queues frees them, after `self` is dropped.
unsafe impl SharedMemory for PinnedMemory {
    fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn len(&self) -> usize {
        self.bytes
    }

    fn device_base(&self) -> u64 {
        self.device
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        let (address, context) = (self.base.as_ptr().expose_provenance(), Arc::clone(&self.context));
        self.deferred_free.defer(move || {
            if context.bind_to_thread().is_ok() {
                let base: *mut c_void = std::ptr::with_exposed_provenance_mut(address);
                // SAFETY: `zeroed` allocated `base`. Only this closure, queued once by `drop`, frees it, after the owner is dropped.
                let _ = unsafe { result::free_host(base) };
            }
        });
    }
}
