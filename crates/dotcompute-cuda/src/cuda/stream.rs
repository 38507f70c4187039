//! Streams that neither wait for the legacy default stream nor make it wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, sys};

use super::streams::{Purpose, Streams};
use crate::driver::DriverError;

/// A non-blocking stream. Its owner gives it back to the [`Streams`] of the device by dropping it.
pub(super) struct Stream {
    handle: sys::CUstream,
    context: Arc<CudaContext>,
    /// None for a stream that is shared by all of its users.
    home: Option<Arc<Streams>>,
    purpose: Purpose,
}

// SAFETY: the driver ties a stream to its context, not to a thread. Any thread may use it after it has made the context current.
unsafe impl Send for Stream {}
// SAFETY: as above; driver calls lock internally, so concurrent calls with one handle are allowed.
unsafe impl Sync for Stream {}

impl Stream {
    /// Wraps a stream of `home`, which no other code uses, or a shared stream.
    pub(super) fn new(
        handle: sys::CUstream,
        context: &Arc<CudaContext>,
        home: Option<Arc<Streams>>,
        purpose: Purpose,
    ) -> Self {
        Self { handle, context: Arc::clone(context), home, purpose }
    }

    pub(super) fn handle(&self) -> sys::CUstream {
        self.handle
    }

    /// Whether all enqueued work is complete. Never blocks.
    pub(super) fn is_done(&self) -> Result<bool, DriverError> {
        self.context.bind_to_thread().map_err(DriverError::while_doing(QUERYING))?;
        is_done(self.handle)
    }

    /// Waits until all enqueued work is complete, at most until `deadline`. Returns false on timeout. It polls, and makes no driver call
    /// that synchronizes with the device. The queries also make the driver submit work that it holds back: a launch is guaranteed to start
    /// only while the host makes such calls.
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
        if let Some(home) = &self.home {
            home.give_back(self.handle, self.purpose);
        }
    }
}

const QUERYING: &str = "querying a stream";

/// Whether all work in a stream is complete. The stream exists, and its context is current.
pub(super) fn is_done(stream: sys::CUstream) -> Result<bool, DriverError> {
    // SAFETY: the caller names an existing stream; `Streams` destroys none.
    match unsafe { sys::cuStreamQuery(stream) } {
        CUresult::CUDA_SUCCESS => Ok(true),
        CUresult::CUDA_ERROR_NOT_READY => Ok(false),
        other => other.result().map(|()| true).map_err(DriverError::while_doing(QUERYING)),
    }
}
