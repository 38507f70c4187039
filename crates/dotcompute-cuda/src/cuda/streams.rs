//! The streams of a device, one hardware queue each.
//!
//! Work behind a resident kernel in the same hardware queue waits for that kernel's end. The driver gives the first streams of a process
//! a queue each and lets further ones share. Streams are therefore counted, created only while a queue is free, and used again rather than
//! destroyed. One queue is for copies of states and links, one for buffers, a few for one-shot kernels, and the others for ring kernels.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaContext, result, sys};

use super::launch_mode;
use crate::driver::{DriverError, HardwareQueues};

/// Longest time that one copy may take.
pub(super) const COPY_TIMEOUT: Duration = Duration::from_secs(4);

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Launches of one ring kernel.
    RingKernel,
    /// Copies of states and links, shared by all ring kernels.
    Copies,
    /// Allocations and copies of buffers, shared by all buffers.
    Buffers,
    /// A one-shot kernel.
    OneShot,
}

/// The streams of one purpose.
#[derive(Default)]
struct Group {
    created: u32,
    /// Streams without an owner. Their work may not be complete.
    idle: Vec<Handle>,
}

/// A stream's handle.
#[derive(Clone, Copy)]
struct Handle(sys::CUstream);

// SAFETY: the driver ties a stream to its context, not to a thread. Any thread may use it after it has made the context current.
unsafe impl Send for Handle {}

/// The streams of one device, by purpose.
pub(super) struct Streams {
    queues: HardwareQueues,
    /// By the number of the purpose.
    groups: Mutex<[Group; 4]>,
    released: Condvar,
}

impl Streams {
    pub(super) fn new(queues: HardwareQueues) -> Arc<Self> {
        Arc::new(Self { queues, groups: Mutex::default(), released: Condvar::new() })
    }

    fn groups(&self) -> MutexGuard<'_, [Group; 4]> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many streams of this purpose there may be.
    fn capacity(&self, purpose: Purpose) -> u32 {
        // Ring kernels that leave when they have no messages do not hold up what is behind them in a shared queue for long.
        if purpose == Purpose::RingKernel && launch_mode::is_while_busy() {
            return u32::MAX;
        }
        let one_shots = (self.queues.count / 16).max(1);
        match purpose {
            Purpose::RingKernel => self.queues.count.saturating_sub(2 + one_shots),
            Purpose::Copies | Purpose::Buffers => 1,
            Purpose::OneShot => one_shots,
        }
    }

    /// Returns a stream for this purpose. The caller has quiesced the device, because a new stream may have to be created.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoHardwareQueue`] if all queues for this purpose are in use, or the error of the driver.
    pub(super) fn take(
        self: &Arc<Self>,
        context: &Arc<CudaContext>,
        purpose: Purpose,
    ) -> Result<Stream, DriverError> {
        context.bind_to_thread().map_err(DriverError::while_doing("creating a stream"))?;
        let capacity = self.capacity(purpose);
        let mut groups = self.groups();
        let group = &mut groups[purpose as usize];
        let shared = matches!(purpose, Purpose::Copies | Purpose::Buffers);
        let ready = group.idle.iter().position(|&Handle(idle)| shared || matches!(is_done(idle), Ok(true)));
        let handle = match ready {
            Some(ready) if shared => group.idle[ready],
            Some(ready) => group.idle.swap_remove(ready),
            None if group.created < capacity => {
                let handle = create(purpose)?;
                group.created += 1;
                if shared {
                    group.idle.push(handle);
                }
                handle
            }
            None => return Err(DriverError::NoHardwareQueue { queues: self.queues, capacity }),
        };
        drop(groups);
        let home = (!shared).then(|| Arc::clone(self));
        Ok(Stream::new(handle.0, context, home, purpose))
    }

    /// Returns a stream for a one-shot kernel if one is free.
    pub(super) fn idle_one_shot(self: &Arc<Self>, context: &Arc<CudaContext>) -> Option<Stream> {
        let Handle(handle) = self.groups()[Purpose::OneShot as usize].idle.pop()?;
        Some(Stream::new(handle, context, Some(Arc::clone(self)), Purpose::OneShot))
    }

    /// Returns a stream for a one-shot kernel, once one is free. It is created already: see [`take`](Self::take).
    pub(super) fn wait_for_one_shot(self: &Arc<Self>, context: &Arc<CudaContext>) -> Stream {
        let mut groups = self.groups();
        loop {
            if let Some(Handle(handle)) = groups[Purpose::OneShot as usize].idle.pop() {
                return Stream::new(handle, context, Some(Arc::clone(self)), Purpose::OneShot);
            }
            groups = self.released.wait(groups).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Receives a stream whose owner is dropped.
    pub(super) fn release(&self, stream: sys::CUstream, purpose: Purpose) {
        self.groups()[purpose as usize].idle.push(Handle(stream));
        self.released.notify_one();
    }
}

/// Creates a stream that neither waits for the legacy default stream nor makes it wait. Ring kernels get the highest priority: a relaunch
/// is scheduled before other kernels that wait for a multiprocessor.
fn create(purpose: Purpose) -> Result<Handle, DriverError> {
    let doing = || DriverError::while_doing("creating a stream");
    if purpose != Purpose::RingKernel {
        return result::stream::create(result::stream::StreamKind::NonBlocking).map(Handle).map_err(doing());
    }
    let (mut least, mut greatest, mut handle) = (0, 0, std::ptr::null_mut());
    // SAFETY: the caller has made a context current; both numbers are writable.
    unsafe { sys::cuCtxGetStreamPriorityRange(&raw mut least, &raw mut greatest) }
        .result()
        .map_err(doing())?;
    let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
    // SAFETY: as above; `handle` is writable.
    unsafe { sys::cuStreamCreateWithPriority(&raw mut handle, flags, greatest) }.result().map_err(doing())?;
    Ok(Handle(handle))
}

/// A non-blocking stream. Its owner returns it to the [`Streams`] of the device by dropping it.
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
            home.release(self.handle, self.purpose);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::HardwareQueues;

    #[test]
    fn every_queue_has_one_purpose() {
        for (count, ring_kernels) in [(32, 28), (16, 13), (8, 5), (4, 1), (3, 0), (1, 0)] {
            let streams = Streams::new(HardwareQueues::of(count));
            let capacity = |purpose| streams.capacity(purpose);
            assert_eq!(capacity(Purpose::RingKernel), ring_kernels, "{count}");
            let all = [Purpose::RingKernel, Purpose::Copies, Purpose::Buffers, Purpose::OneShot];
            assert_eq!(all.map(capacity).iter().sum::<u32>(), count.max(3), "{count}");
        }
    }
}
