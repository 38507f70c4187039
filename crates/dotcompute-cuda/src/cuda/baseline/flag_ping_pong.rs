//! Flag ping-pong between host and device: the minimum work of a resident kernel, and the lower bound of every ask.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::result;
use dotcompute_core::backend::BackendError;
use dotcompute_ring::layout::CACHE_LINE;

use super::super::CudaBackend;
use super::super::error::device_error;
use super::super::launch_mode::{self, LaunchMode};
use super::super::pinned_memory::PinnedMemory;
use super::{KernelSource, LoadedBaseline, bind_context, with_kernel};
use crate::driver::DriverError;
use crate::host_device_channel::SharedMemory;

/// The number that ends the kernel.
pub const STOP: u32 = u32::MAX;

/// Time allowed for the kernel to end.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// A resident kernel of one thread that sends every number back. Its flags are two 32-bit words in page-locked host memory, each on its own
/// cache line.
pub struct FlagPingPong {
    words: PinnedMemory,
    loaded: LoadedBaseline,
}

impl FlagPingPong {
    /// Launches the kernel, which takes the addresses of the two words. It ends at [`STOP`], and also after a long time without a new
    /// number.
    ///
    /// # Errors
    ///
    /// As for the launch of a ring kernel, and if launches are known to block until their kernel ends.
    pub fn new(backend: &CudaBackend, text: KernelSource) -> Result<Self, BackendError> {
        if let Some(LaunchMode::WhileBusy(reason)) = launch_mode::known() {
            return Err(device_error(
                "launching the flag kernel",
                &format!("launches block: {reason}; remove that"),
            ));
        }
        with_kernel(backend, text, |loaded| {
            let words = PinnedMemory::zeroed(
                bind_context(backend)?,
                &backend.process_device.deferred_free,
                2 * CACHE_LINE,
            )?;
            let flag = Self { words, loaded };
            flag.launch()?;
            Ok(flag)
        })
    }

    fn launch(&self) -> Result<(), DriverError> {
        let mut request_flag = self.words.device_base();
        let mut reply_flag = request_flag + CACHE_LINE as u64;
        let mut arguments: [*mut c_void; 2] = [(&raw mut request_flag).cast(), (&raw mut reply_flag).cast()];
        let (function, stream) = (self.loaded.function.0, self.loaded.stream.handle());
        // SAFETY: the kernel takes two addresses, which the driver copies before it returns. They point into `self.words`, which is freed
        // only after the kernel has left the device.
        let launched =
            unsafe { result::launch_kernel(function, (1, 1, 1), (1, 1, 1), 0, stream, &mut arguments) };
        launched.map_err(DriverError::while_doing("launching the flag kernel"))
    }

    fn word(&self, line: usize) -> &AtomicU32 {
        // SAFETY: `words` has two lines and `line` is 0 or 1. Each word is aligned to its line and lives as long as `self`. Host and device
        // access it only as one atomic word.
        unsafe { &*self.words.base().as_ptr().add(line * CACHE_LINE).cast::<AtomicU32>() }
    }

    /// Sends a number, which must differ from the previous one.
    #[inline]
    pub fn send(&self, number: u32) {
        self.word(0).store(number, Ordering::Release);
    }

    /// Returns the last number that came back; initially 0.
    #[inline]
    pub fn seen(&self) -> u32 {
        self.word(1).load(Ordering::Acquire)
    }
}

impl Drop for FlagPingPong {
    fn drop(&mut self) {
        self.send(STOP);
        // A kernel that misses the timeout ends later by itself; the deferred free of its memory waits for that.
        let _ = self.loaded.stream.wait(Instant::now() + EXIT_TIMEOUT);
    }
}
