//! Parking a thread until another process publishes.
//!
//! The waiter stores its parking word, then rechecks its condition. The other side publishes, then loads the word. A full fence between
//! the two steps on each side ensures that at least one of them sees the other's store. An asymmetric fence (`membarrier`) would cover the
//! threads of one process only.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::WaitStrategy;

use crate::threads::spin;

/// Polls of a spinning wait between two reads of the clock.
const POLLS_PER_CLOCK_READ: u32 = 64;

/// A futex word in shared memory: 1 while the thread of one side is parked, or about to park.
#[repr(C, align(128))]
pub(super) struct ParkingWord(AtomicU32);

impl ParkingWord {
    /// Waits until `ready` or until `until`. Returns whether it is ready.
    pub(super) fn wait(
        &self,
        strategy: WaitStrategy,
        until: Instant,
        mut ready: impl FnMut() -> bool,
    ) -> bool {
        match strategy {
            WaitStrategy::Spin => spin_until(until, ready),
            WaitStrategy::Adaptive => spin::spin_adaptively(&mut ready) || self.park(until, ready),
            WaitStrategy::Park => self.park(until, ready),
        }
    }

    #[cold]
    fn park(&self, until: Instant, mut ready: impl FnMut() -> bool) -> bool {
        loop {
            // SYNC POINT: shared parking
            // Store the word, fence, recheck `ready`: pairs with publish, fence, load in `wake`.
            self.0.store(1, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let remaining = until.saturating_duration_since(Instant::now());
            let is_ready = ready();
            if !is_ready && !remaining.is_zero() {
                futex_wait(&self.0, remaining);
            }
            self.0.store(0, Ordering::Relaxed);
            if is_ready || remaining.is_zero() {
                return is_ready;
            }
        }
    }

    /// Wakes the other side if it is parked. Call it after publishing.
    #[inline]
    pub(super) fn wake(&self) {
        // SYNC POINT: shared parking
        // The caller has published. Fence, load the word: pairs with store, fence, recheck in `park`.
        fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) != 0 {
            futex_wake(&self.0);
        }
    }
}

fn spin_until(until: Instant, mut ready: impl FnMut() -> bool) -> bool {
    loop {
        if (0..POLLS_PER_CLOCK_READ).any(|_| ready()) {
            return true;
        }
        if Instant::now() >= until {
            return ready();
        }
    }
}

/// Parks this thread while the word is 1, for at most `timeout`.
#[cfg(target_os = "linux")]
fn futex_wait(word: &AtomicU32, timeout: Duration) {
    use rustix::thread::futex;
    let timeout =
        rustix::fs::Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
    // The result is ignored: after a wake-up, a timeout, a signal or a changed word, the caller rechecks its condition.
    let _ = futex::wait(word, futex::Flags::empty(), 1, Some(&timeout));
}

#[cfg(target_os = "linux")]
#[cold]
fn futex_wake(word: &AtomicU32) {
    use rustix::thread::futex;
    word.store(0, Ordering::Relaxed);
    // Fails only for an unmapped address, and `word` is mapped.
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}

/// Sleeps briefly: other systems have no futex that works across processes.
#[cfg(not(target_os = "linux"))]
fn futex_wait(_word: &AtomicU32, timeout: Duration) {
    std::thread::sleep(timeout.min(Duration::from_micros(200)));
}

#[cfg(not(target_os = "linux"))]
fn futex_wake(_word: &AtomicU32) {}
