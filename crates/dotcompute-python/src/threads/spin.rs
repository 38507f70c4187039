//! How long to spin before sleeping.
//!
//! Where the other side runs on a core of its own, it answers within microseconds, and spinning spares both the sleep and the wake-up:
//! some 40 µs on a virtual machine. Where cores are short, it may be this very core that the other side needs, and each microsecond of
//! spinning is lost. Which it is, a thread learns from its own waits: as long as long spins find nothing, it spins only shortly, and
//! tries a long one now and then. (Not spinning at all is no faster there: the short spin is when the other side gets its turn.)

use std::cell::Cell;
use std::hint::spin_loop;
use std::time::{Duration, Instant};

/// A short spin: longer than the other side takes to answer if it answers at once.
const SHORT: Duration = Duration::from_micros(2);
/// A long spin: half of what sleeping and being woken takes.
const LONG: Duration = Duration::from_micros(20);
/// Looks between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 16;

/// Whether something that costs time is worth it, by how it went: after a miss it is tried at every 32nd occasion until it hits.
pub(crate) struct Trial {
    misses: Cell<u32>,
}

impl Trial {
    const TRY_EVERY: u32 = 32;

    pub(crate) const fn new() -> Self {
        Self { misses: Cell::new(0) }
    }

    /// Whether to try this time.
    pub(crate) fn is_due(&self) -> bool {
        self.misses.get().is_multiple_of(Self::TRY_EVERY)
    }

    /// It was worth it.
    pub(crate) fn hit(&self) {
        self.misses.set(0);
    }

    /// It was not, or was not tried.
    pub(crate) fn miss(&self) {
        self.misses.set(self.misses.get().wrapping_add(1));
    }
}

thread_local! {
    static LONG_SPINS: Trial = const { Trial::new() };
}

/// Looks again and again until `ready`, for as long as seems worth it. Whether it is ready.
pub(crate) fn spin_adaptively(ready: impl FnMut() -> bool) -> bool {
    LONG_SPINS.with(|long_spins| spin_by(long_spins, ready))
}

fn spin_by(long_spins: &Trial, mut ready: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    let long = long_spins.is_due();
    let limit = if long { LONG } else { SHORT };
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            if ready() {
                // What a short spin would have found says nothing of long ones.
                if long && begin.elapsed() > SHORT {
                    long_spins.hit();
                }
                return true;
            }
            spin_loop();
        }
        if begin.elapsed() >= limit {
            long_spins.miss();
            return false;
        }
    }
}
