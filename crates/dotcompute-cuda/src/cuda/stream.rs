//! Streams that neither wait for the legacy default stream nor make it wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, result, sys};

use super::deferred_free::DeferredFreeList;
use crate::driver::DriverError;

/// A non-blocking stream. It is destroyed through the deferred free list.
pub(super) struct Stream {
    handle: sys::CUstream,
    context: Arc<CudaContext>,
    deferred_free: Arc<DeferredFreeList>,
}

// SAFETY: the driver ties a stream to its context, not to a thread. Any thread may use it after it has made the context current.
unsafe impl Send for Stream {}
// SAFETY: as above; driver calls lock internally, so concurrent calls with one handle are allowed.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(
        context: &Arc<CudaContext>,
        deferred_free: &Arc<DeferredFreeList>,
    ) -> Result<Self, DriverError> {
        let doing = || DriverError::while_doing("creating a stream");
        context.bind_to_thread().map_err(doing())?;
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(doing())?;
        Ok(Self { handle, context: Arc::clone(context), deferred_free: Arc::clone(deferred_free) })
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    /// Whether all enqueued work is complete. Never blocks.
    pub(super) fn is_done(&self) -> Result<bool, DriverError> {
        let doing = || DriverError::while_doing("querying the stream of a ring kernel");
        self.context.bind_to_thread().map_err(doing())?;
        // SAFETY: `self` owns the stream, which is destroyed only after `self` is dropped.
        match unsafe { sys::cuStreamQuery(self.handle) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => other.result().map(|()| true).map_err(doing()),
        }
    }

    /// Waits until all enqueued work is complete, at most until `deadline`. Returns false on timeout. It polls, and makes no driver call
    /// that synchronizes with the device.
    pub(super) fn wait(&self, deadline: Instant) -> Result<bool, DriverError> {
        let mut pause = Duration::from_micros(2);
        while !self.is_done()? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_micros(200));
        }
        Ok(true)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.deferred_free.defer_destroy(&self.context, self.handle, |handle| {
            // SAFETY: `new` created the stream. Only this closure, queued once by `drop`, destroys it, after the owner is dropped.
            let _ = unsafe { result::stream::destroy(handle) };
        });
    }
}
