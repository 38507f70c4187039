//! A bare flag that goes to the device and comes back: the least that a resident kernel can do, and the floor under every ask.

use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cudarc::driver::result;
use dotcompute_core::backend::BackendError;
use dotcompute_ring::layout::CACHE_LINE;

use super::super::CudaBackend;
use super::super::pinned_memory::PinnedMemory;
use super::{KernelSource, LoadedBaseline, bind_context, with_kernel};
use crate::driver::DriverError;
use crate::host_device_channel::SharedMemory;

/// The number that ends it.
pub const STOP: u32 = u32::MAX;

/// How long its kernel has to end.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

/// A resident kernel of one thread that answers each number that it sees with the same number. Its flags are two 32-bit words in
/// page-locked memory of the host, each on a line of its own.
pub struct FlagPingPong {
    words: PinnedMemory,
    loaded: LoadedBaseline,
}

impl FlagPingPong {
    /// Makes it resident: a kernel that takes the addresses of the two words, ends at [`STOP`], and also ends by itself if nothing
    /// comes for long.
    ///
    /// # Errors
    ///
    /// As for the launch of a ring kernel.
    pub fn new(backend: &CudaBackend, text: KernelSource) -> Result<Self, BackendError> {
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
        let mut there = self.words.device_base();
        let mut back = there + CACHE_LINE as u64;
        let mut arguments: [*mut c_void; 2] = [(&raw mut there).cast(), (&raw mut back).cast()];
        let (function, stream) = (self.loaded.function.0, self.loaded.stream.handle());
        // SAFETY: the kernel takes two addresses, which the driver copies before it returns. They are of memory that `self` keeps; it
        // is given back only when the device is quiet.
        let launched =
            unsafe { result::launch_kernel(function, (1, 1, 1), (1, 1, 1), 0, stream, &mut arguments) };
        launched.map_err(DriverError::while_doing("launching a flag's kernel"))
    }

    fn word(&self, line: usize) -> &AtomicU32 {
        // SAFETY: there are two lines, and `line` is 0 or 1; a word is aligned as its line is, and lives as long as `self`. Both sides
        // read and write it as one atomic word.
        unsafe { &*self.words.base().as_ptr().add(line * CACHE_LINE).cast::<AtomicU32>() }
    }

    /// Sends a number, which is another than the last.
    #[inline]
    pub fn send(&self, number: u32) {
        self.word(0).store(number, Ordering::Release);
    }

    /// The number that came back last; 0 at first.
    #[inline]
    pub fn seen(&self) -> u32 {
        self.word(1).load(Ordering::Acquire)
    }
}

impl Drop for FlagPingPong {
    fn drop(&mut self) {
        self.send(STOP);
        // One that does not end in time does so by itself, later: what gives its memory back waits for that.
        let _ = self.loaded.stream.wait(Instant::now() + EXIT_TIMEOUT);
    }
}
