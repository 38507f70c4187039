//! Streams of our own, which wait for no other and for which no other waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, result, sys};

use super::memory::Graveyard;
use crate::driver::DriverError;

/// A stream that does not synchronise with the legacy default stream.
pub(super) struct Stream {
    handle: sys::CUstream,
    context: Arc<CudaContext>,
    graveyard: Arc<Graveyard>,
}

// SAFETY: a stream is the context's, not a thread's: the driver lets any thread use it that has made the context current.
unsafe impl Send for Stream {}
// SAFETY: as above; the driver takes its own locks.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(context: &Arc<CudaContext>, graveyard: &Arc<Graveyard>) -> Result<Self, DriverError> {
        let doing = || DriverError::while_doing("making a stream");
        context.bind_to_thread().map_err(doing())?;
        let handle = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(doing())?;
        Ok(Self { handle, context: Arc::clone(context), graveyard: Arc::clone(graveyard) })
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    /// Whether all that was put into it is done. Never waits.
    pub(super) fn is_done(&self) -> Result<bool, DriverError> {
        let doing = || DriverError::while_doing("looking whether a ring kernel is resident");
        self.context.bind_to_thread().map_err(doing())?;
        // SAFETY: the stream exists as long as `self`.
        match unsafe { sys::cuStreamQuery(self.handle) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            other => other.result().map(|()| true).map_err(doing()),
        }
    }

    /// Waits until all that was put into it is done, at most until `deadline`. Looks, and makes no call that waits for the device.
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
        self.graveyard.bury_handle(&self.context, self.handle, |handle| {
            // SAFETY: made by `new` and destroyed once; its owner is gone.
            let _ = unsafe { result::stream::destroy(handle) };
        });
    }
}
