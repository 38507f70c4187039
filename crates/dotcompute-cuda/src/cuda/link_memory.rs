//! The memory of a link between two ring kernels on a GPU.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cudarc::driver::{CudaContext, result};
use dotcompute_core::backend::BackendError;

use super::device_allocation::DeviceAllocation;
use super::error::device_error;
use super::pinned_memory::PinnedMemory;
use super::process_device::ProcessDevice;
use super::streams::{COPY_TIMEOUT, Purpose, Stream};
use crate::driver::DriverError;
use crate::resident_grid::LinkMemory;

/// The memory of a link on a GPU, and what is needed to read it.
pub(super) struct CudaLink {
    context: Arc<CudaContext>,
    memory: DeviceAllocation,
    bytes: usize,
    staging: Mutex<PinnedMemory>,
    stream: Stream,
}

impl CudaLink {
    /// Allocates zeroed memory for a link. The caller has quiesced the device.
    pub(super) fn new(
        context: &Arc<CudaContext>,
        process_device: &ProcessDevice,
        bytes: usize,
    ) -> Result<Self, DriverError> {
        let deferred_free = &process_device.deferred_free;
        let memory = DeviceAllocation::new(context, deferred_free, bytes)?;
        let staging = Mutex::new(PinnedMemory::zeroed(context, deferred_free, bytes)?);
        let stream = process_device.streams.take(context, Purpose::Copies)?;
        let link = Self { context: Arc::clone(context), memory, bytes, staging, stream };
        // SAFETY: the allocation has `bytes` bytes, and no other code has its address yet.
        unsafe { result::memset_d8_async(link.memory.address(), 0, bytes, link.stream.handle()) }
            .map_err(DriverError::while_doing(format!("clearing {bytes} bytes for a link")))?;
        link.wait()?;
        Ok(link)
    }

    fn wait(&self) -> Result<(), DriverError> {
        if self.stream.wait(Instant::now() + COPY_TIMEOUT)? {
            return Ok(());
        }
        Err(DriverError::TimedOut {
            doing: format!("copying {} bytes of a link", self.bytes),
            waited: COPY_TIMEOUT,
        })
    }

    fn copy(&self) -> Result<Vec<u8>, DriverError> {
        let doing = || DriverError::while_doing(format!("reading {} bytes of a link", self.bytes));
        self.context.bind_to_thread().map_err(doing())?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let to = &mut staging.bytes_mut()[..self.bytes];
        // SAFETY: both sides have `bytes` bytes and live as long as `self`. The lock is held until the copy is complete, and the staging
        // memory is read only after that.
        unsafe { result::memcpy_dtoh_async(to, self.memory.address(), self.stream.handle()) }
            .map_err(doing())?;
        self.wait()?;
        Ok(staging.bytes()[..self.bytes].to_vec())
    }
}

impl LinkMemory for CudaLink {
    fn address(&self) -> u64 {
        self.memory.address()
    }

    fn read(&self) -> Result<Vec<u8>, BackendError> {
        self.copy().map_err(|error| device_error("reading the messages of a link", &error))
    }
}
