//! Sleeping until another process publishes.
//!
//! One side announces in its word that it sleeps, then looks once more; the other publishes, then looks at the word. With a full fence
//! between the two steps on each side, not both can miss the other. Fences that make one side pay for both work within a process only.

use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::WaitStrategy;

use crate::threads::spin;

/// Looks of a spinning wait before it looks at the clock.
const LOOKS_PER_CLOCK: u32 = 64;

/// The word by which one side says that it sleeps.
#[repr(C, align(128))]
pub(super) struct Bed(AtomicU32);

impl Bed {
    /// Waits until `ready`, or until `until`. Whether it is ready.
    pub(super) fn wait(
        &self,
        strategy: WaitStrategy,
        until: Instant,
        mut ready: impl FnMut() -> bool,
    ) -> bool {
        match strategy {
            WaitStrategy::Spin => spin_until(until, ready),
            WaitStrategy::Adaptive => spin::spin_adaptively(&mut ready) || self.sleep(until, ready),
            WaitStrategy::Park => self.sleep(until, ready),
        }
    }

    #[cold]
    fn sleep(&self, until: Instant, mut ready: impl FnMut() -> bool) -> bool {
        loop {
            self.0.store(1, Ordering::Relaxed);
            // Pairs with the fence in `wake`.
            fence(Ordering::SeqCst);
            let left = until.saturating_duration_since(Instant::now());
            let done = ready();
            if !done && !left.is_zero() {
                sleep_on(&self.0, left);
            }
            self.0.store(0, Ordering::Relaxed);
            if done || left.is_zero() {
                return done;
            }
        }
    }

    /// Wakes the other side if it sleeps. Call after publishing.
    #[inline]
    pub(super) fn wake(&self) {
        // Pairs with the fence in `sleep`.
        fence(Ordering::SeqCst);
        if self.0.load(Ordering::Relaxed) != 0 {
            wake_at(&self.0);
        }
    }
}

fn spin_until(until: Instant, mut ready: impl FnMut() -> bool) -> bool {
    loop {
        if (0..LOOKS_PER_CLOCK).any(|_| ready()) {
            return true;
        }
        if Instant::now() >= until {
            return ready();
        }
    }
}

/// Sleeps while the word is 1, for so long at the most.
#[cfg(target_os = "linux")]
fn sleep_on(word: &AtomicU32, left: Duration) {
    use rustix::thread::futex;
    let left =
        rustix::fs::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
    // Woken, late, interrupted by a signal or not asleep at all: in each case the caller looks.
    let _ = futex::wait(word, futex::Flags::empty(), 1, Some(&left));
}

#[cfg(target_os = "linux")]
#[cold]
fn wake_at(word: &AtomicU32) {
    use rustix::thread::futex;
    word.store(0, Ordering::Relaxed);
    // Fails only for an address that cannot be read.
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}

/// Where there is nothing to sleep on that two processes share: naps.
#[cfg(not(target_os = "linux"))]
fn sleep_on(_word: &AtomicU32, left: Duration) {
    std::thread::sleep(left.min(Duration::from_micros(200)));
}

#[cfg(not(target_os = "linux"))]
fn wake_at(_word: &AtomicU32) {}
