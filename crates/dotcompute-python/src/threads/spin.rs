//! How long to spin before parking.
//!
//! If the other side runs on another core, it responds within microseconds, and spinning saves a park and a wake-up: about 40 µs on a
//! virtual machine. If cores are scarce, the other side may need this core, and each microsecond of spinning is lost. A thread predicts
//! which case applies from its own waits: while long spins find nothing, it spins briefly and tries a long spin now and then. Not spinning
//! at all is no faster in that case, since the other side runs during the short spin.

use std::cell::Cell;
use std::hint::spin_loop;
use std::time::{Duration, Instant};

/// A short spin: longer than the response time of a side that is running.
const SHORT_SPIN: Duration = Duration::from_micros(2);
/// A long spin: half the cost of a park and a wake-up.
const LONG_SPIN: Duration = Duration::from_micros(20);
/// Polls between two reads of the clock.
const POLLS_PER_CLOCK_READ: u32 = 16;

/// Predicts from past results whether an action is worth its cost. After a miss, it is tried every 32nd time until it hits.
pub(crate) struct SpinPredictor {
    misses: Cell<u32>,
}

impl SpinPredictor {
    const TRY_EVERY: u32 = 32;

    pub(crate) const fn new() -> Self {
        Self { misses: Cell::new(0) }
    }

    /// Returns whether to try this time.
    pub(crate) fn is_due(&self) -> bool {
        self.misses.get().is_multiple_of(Self::TRY_EVERY)
    }

    /// Records that the action paid off.
    pub(crate) fn hit(&self) {
        self.misses.set(0);
    }

    /// Records that the action did not pay off, or was not tried.
    pub(crate) fn miss(&self) {
        self.misses.set(self.misses.get().wrapping_add(1));
    }
}

thread_local! {
    static LONG_SPIN_PREDICTOR: SpinPredictor = const { SpinPredictor::new() };
}

/// Polls until `ready`, for a short or a long spin as predicted for this thread. Returns whether it is ready.
pub(crate) fn spin_adaptively(ready: impl FnMut() -> bool) -> bool {
    LONG_SPIN_PREDICTOR.with(|predictor| spin(predictor, ready))
}

fn spin(long_spins: &SpinPredictor, mut ready: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    let is_long = long_spins.is_due();
    let limit = if is_long { LONG_SPIN } else { SHORT_SPIN };
    loop {
        for _ in 0..POLLS_PER_CLOCK_READ {
            if ready() {
                // A result that a short spin would have found is no evidence for long spins.
                if is_long && started.elapsed() > SHORT_SPIN {
                    long_spins.hit();
                }
                return true;
            }
            spin_loop();
        }
        if started.elapsed() >= limit {
            long_spins.miss();
            return false;
        }
    }
}
