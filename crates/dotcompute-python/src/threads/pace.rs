//! How long to spin before sleeping.
//!
//! Where the other side runs on a core of its own, it answers within microseconds, and spinning spares both the sleep and the wake-up:
//! some 40 µs on a virtual machine. Where cores are short, it may be this very core that the other side needs, and each microsecond of
//! spinning is lost. Which it is, a thread learns from its own waits: as long as long spins find nothing, it spins only shortly, and
//! tries a long one now and then.

use std::cell::Cell;
use std::hint::spin_loop;
use std::time::{Duration, Instant};

/// A short spin: longer than the other side takes to answer if it answers at once.
const SHORT: Duration = Duration::from_micros(2);
/// A long spin: half of what sleeping and being woken takes.
const LONG: Duration = Duration::from_micros(20);
/// While short spins are the rule, every so-manyeth is a long one.
const TRY_EVERY: u32 = 32;

/// Looks between two looks at the clock.
const LOOKS_PER_CLOCK: u32 = 16;

thread_local! {
    /// Waits since a long spin found something beyond the short one's time, or since the beginning.
    static SHORT_SPINS: Cell<u32> = const { Cell::new(0) };
}

/// Looks again and again until `ready`, for as long as seems worth it. Whether it is ready.
pub(crate) fn spin(mut ready: impl FnMut() -> bool) -> bool {
    let short_spins = SHORT_SPINS.get();
    let long = short_spins.is_multiple_of(TRY_EVERY);
    let begin = Instant::now();
    let limit = if long { LONG } else { SHORT };
    loop {
        for _ in 0..LOOKS_PER_CLOCK {
            if ready() {
                if long && begin.elapsed() > SHORT {
                    SHORT_SPINS.set(0);
                }
                return true;
            }
            spin_loop();
        }
        if begin.elapsed() >= limit {
            SHORT_SPINS.set(short_spins.wrapping_add(1));
            return false;
        }
    }
}
