//! Memory of the device, allocated synchronously.

use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::deferred_free::DeferredFreeList;
use crate::driver::DriverError;

/// Device memory that is freed through the deferred free list.
pub(super) struct DeviceAllocation {
    address: sys::CUdeviceptr,
    context: Arc<CudaContext>,
    deferred_free: Arc<DeferredFreeList>,
}

impl DeviceAllocation {
    /// Allocates `bytes` bytes of uninitialized device memory. The caller ensures that no ring kernel is resident: the driver may
    /// synchronize with the device.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        deferred_free: &Arc<DeferredFreeList>,
        bytes: usize,
    ) -> Result<Self, DriverError> {
        context.bind_to_thread().map_err(DriverError::while_doing("allocating device memory"))?;
        let free = result::mem_get_info().map(|(free, _)| free).unwrap_or_default();
        let doing = format!("allocating {bytes} bytes of device memory, of which {free} are free");
        // SAFETY: `bind_to_thread` has made the context current on this thread.
        let address =
            unsafe { result::malloc_sync(bytes.max(1)) }.map_err(DriverError::while_doing(doing))?;
        Ok(Self { address, context: Arc::clone(context), deferred_free: Arc::clone(deferred_free) })
    }

    /// Returns the device address.
    pub(super) fn address(&self) -> sys::CUdeviceptr {
        self.address
    }
}

impl Drop for DeviceAllocation {
    fn drop(&mut self) {
        let (address, context) = (self.address, Arc::clone(&self.context));
        self.deferred_free.defer(move || {
            if context.bind_to_thread().is_ok() {
                // SAFETY: `new` allocated `address`. Only this closure, queued once by `drop`, frees it, after the owner is dropped and
                // while no ring kernel is resident.
                let _ = unsafe { result::free_sync(address) };
            }
        });
    }
}
