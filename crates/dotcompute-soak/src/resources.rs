//! What the process holds: bytes allocated and not freed, and threads.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::error::SoakError;

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator. Counts the bytes in use.
pub struct CountingAllocator;

// SAFETY: every call is passed on to the system's allocator with the same arguments, and its result is returned unchanged.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: by the contract of this method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: by the contract of this method.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: by the contract of this method.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size, Ordering::Relaxed);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: by the contract of this method.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Growth of the memory in use that is not a leak: tables that keep their capacity.
const SLACK_BYTES: usize = 256 << 10;

/// How long threads may take to exit.
const SETTLING: Duration = Duration::from_secs(20);

/// What the process holds at one time.
#[derive(Debug, Clone, Copy)]
pub struct Resources {
    bytes: usize,
    threads: usize,
}

impl Resources {
    pub fn now() -> Self {
        Self { bytes: LIVE.load(Ordering::Relaxed), threads: threads() }
    }

    /// Waits until no thread ends any more, and returns what the process then holds.
    pub fn settled() -> Self {
        let mut before = Self::now();
        loop {
            std::thread::sleep(Duration::from_millis(300));
            let now = Self::now();
            if now.threads >= before.threads && now.bytes >= before.bytes {
                return now;
            }
            before = now;
        }
    }

    /// Checks that the process holds no more than at this time, waiting for threads to exit.
    ///
    /// # Errors
    ///
    /// If memory or threads have grown.
    pub fn check(&self) -> Result<(), SoakError> {
        let deadline = Instant::now() + SETTLING;
        loop {
            let now = Self::now();
            if now.bytes <= self.bytes + SLACK_BYTES && now.threads <= self.threads {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(if now.threads > self.threads {
                    SoakError::Threads { before: self.threads, after: now.threads }
                } else {
                    SoakError::Memory { before: self.bytes, after: now.bytes }
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} KiB, {} threads", self.bytes >> 10, self.threads)
    }
}

/// The threads of this process. 0 where the system does not list them.
fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count)
}
