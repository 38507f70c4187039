//! Memory of a ring kernel on a GPU: page-locked host memory that both sides see, and device memory.
//!
//! To give memory back to the driver waits for the device, and a resident kernel never ends: so what is dropped is buried in a
//! [`Graveyard`], which is cleared when no ring kernel is on the device.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, result, sys};
use dotcompute_ring::layout::CACHE_LINE;

use crate::driver::DriverError;
use crate::exchange::SharedMemory;

/// What is to be given back once the device is quiet.
#[derive(Default)]
pub(super) struct Graveyard(Mutex<Vec<Box<dyn FnOnce() + Send>>>);

impl Graveyard {
    /// Has `funeral` done later.
    pub(super) fn bury(&self, funeral: impl FnOnce() + Send + 'static) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(funeral));
    }

    /// Has a handle of the driver's destroyed later, in its context: a stream, an event, a pool.
    pub(super) fn bury_handle<H: 'static>(
        &self,
        context: &Arc<CudaContext>,
        handle: *mut H,
        destroy: impl FnOnce(*mut H) + Send + 'static,
    ) {
        struct Handle<H>(*mut H);
        // SAFETY: such a handle is the context's, not a thread's, and its owner is gone.
        unsafe impl<H> Send for Handle<H> {}
        let (handle, context) = (Handle(handle), Arc::clone(context));
        self.bury(move || {
            let Handle(handle) = { handle };
            if context.bind_to_thread().is_ok() {
                destroy(handle);
            }
        });
    }

    /// Does all that was put off. No ring kernel is on the device.
    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.into_iter().for_each(|funeral| funeral());
    }
}

/// Page-locked memory of the host that the device sees too.
pub(super) struct Pinned {
    base: NonNull<u8>,
    bytes: usize,
    device: u64,
    context: Arc<CudaContext>,
    graveyard: Arc<Graveyard>,
}

// SAFETY: the memory is this value's own; who writes to it from several threads answers for that.
unsafe impl Send for Pinned {}
// SAFETY: as above.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// So many zeros. The device is quiet.
    pub(super) fn zeroed(
        context: &Arc<CudaContext>,
        graveyard: &Arc<Graveyard>,
        bytes: usize,
    ) -> Result<Self, DriverError> {
        let doing = || format!("page-locking {bytes} bytes of host memory");
        context.bind_to_thread().map_err(DriverError::while_doing(doing()))?;
        let bytes = bytes.max(1).next_multiple_of(CACHE_LINE);
        let flags = sys::CU_MEMHOSTALLOC_DEVICEMAP | sys::CU_MEMHOSTALLOC_PORTABLE;
        // SAFETY: a context is current; the flags are two of those there are.
        let base = unsafe { result::malloc_host(bytes, flags) }.map_err(DriverError::while_doing(doing()))?;
        let missing = || DriverError::OutOfMemory { doing: doing() };
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(missing)?;
        let mut pinned =
            Self { base, bytes, device: 0, context: Arc::clone(context), graveyard: Arc::clone(graveyard) };
        // SAFETY: `bytes` of them were just allocated, and nobody else knows of them.
        unsafe { base.write_bytes(0, bytes) };
        // SAFETY: the address is of memory that was allocated with DEVICEMAP; `device` may be written to.
        unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut pinned.device, base.as_ptr().cast(), 0) }
            .result()
            .map_err(DriverError::while_doing(doing()))?;
        Ok(pinned)
    }

    /// Its bytes. Only for memory that the device neither reads nor writes at this moment.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes; whoever has them borrowed mutably has `self` so.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }

    /// Its bytes, to be written. Only for memory that the device neither reads nor writes at this moment.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self`.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }
}

// SAFETY: `zeroed` has allocated `bytes` at `base`, and the funeral alone gives them back, after `self` is dropped.
unsafe impl SharedMemory for Pinned {
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

impl Drop for Pinned {
    fn drop(&mut self) {
        let (address, context) = (self.base.as_ptr().expose_provenance(), Arc::clone(&self.context));
        self.graveyard.bury(move || {
            if context.bind_to_thread().is_ok() {
                let base: *mut c_void = std::ptr::with_exposed_provenance_mut(address);
                // SAFETY: allocated by `zeroed` and given back once; its owner is gone.
                let _ = unsafe { result::free_host(base) };
            }
        });
    }
}

/// Memory of the device.
pub(super) struct DeviceMemory {
    address: sys::CUdeviceptr,
    context: Arc<CudaContext>,
    graveyard: Arc<Graveyard>,
}

impl DeviceMemory {
    /// So many bytes of any content. The device is quiet.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        graveyard: &Arc<Graveyard>,
        bytes: usize,
    ) -> Result<Self, DriverError> {
        context.bind_to_thread().map_err(DriverError::while_doing("allocating device memory"))?;
        let free = result::mem_get_info().map(|(free, _)| free).unwrap_or_default();
        let doing = format!("allocating {bytes} bytes of device memory, of which {free} are free");
        // SAFETY: a context is current.
        let address =
            unsafe { result::malloc_sync(bytes.max(1)) }.map_err(DriverError::while_doing(doing))?;
        Ok(Self { address, context: Arc::clone(context), graveyard: Arc::clone(graveyard) })
    }

    /// Where it is.
    pub(super) fn address(&self) -> sys::CUdeviceptr {
        self.address
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let (address, context) = (self.address, Arc::clone(&self.context));
        self.graveyard.bury(move || {
            if context.bind_to_thread().is_ok() {
                // SAFETY: allocated by `new` and given back once; its owner is gone.
                let _ = unsafe { result::free_sync(address) };
            }
        });
    }
}
