//! Whether the handler of a ring kernel has been short so far: then an ask may run it on the caller's own thread.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// A handler is short if a message takes at most this long on average. To wake a parked thread takes about as long.
const SHORT: Duration = Duration::from_micros(10);

/// Number of messages that must be short, one after another, before the handler counts as short.
const FIRST_STREAK: u32 = 64;

/// The same after the handler was once not short.
const NEXT_STREAK: u32 = 1024;

/// Messages of one poll that count: one long message must not hide among many short ones.
const MAX_PER_POLL: u32 = 16;

/// The recent duration of a handler. The thread that polls the ring kernel writes, callers read.
///
/// One long poll decides nothing: its thread may have been preempted. Two in a row do.
#[derive(Debug)]
pub(crate) struct HandlerPace {
    is_short: AtomicBool,
    last_was_long: AtomicBool,
    /// Number of short messages since the last one that was not.
    streak: AtomicU32,
    needed: AtomicU32,
}

impl Default for HandlerPace {
    fn default() -> Self {
        Self {
            is_short: AtomicBool::new(false),
            last_was_long: AtomicBool::new(false),
            streak: AtomicU32::new(0),
            needed: AtomicU32::new(FIRST_STREAK),
        }
    }
}

impl HandlerPace {
    /// Whether the handler has been short for long enough.
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        // Relaxed: a hint. Which thread runs the handler changes no result.
        self.is_short.load(Ordering::Relaxed)
    }

    /// Whether the next poll is to be recorded: the handler is not known to be short, or may no longer be.
    #[inline]
    pub(crate) fn is_undecided(&self) -> bool {
        !self.is_short() || self.last_was_long.load(Ordering::Relaxed)
    }

    /// Records that a poll took `elapsed` and handled this many messages.
    pub(crate) fn record(&self, messages: u32, elapsed: Duration) {
        let counted = messages.min(MAX_PER_POLL);
        let is_long = elapsed > SHORT * counted;
        let last_was_long = self.last_was_long.swap(is_long, Ordering::Relaxed);
        if is_long {
            if last_was_long {
                self.streak.store(0, Ordering::Relaxed);
                if self.is_short.swap(false, Ordering::Relaxed) {
                    self.needed.store(NEXT_STREAK, Ordering::Relaxed);
                }
            }
            return;
        }
        let streak = self.streak.load(Ordering::Relaxed).saturating_add(counted);
        self.streak.store(streak, Ordering::Relaxed);
        if streak >= self.needed.load(Ordering::Relaxed) {
            self.is_short.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_is_short_after_a_streak_and_long_after_two_slow_polls() {
        let pace = HandlerPace::default();
        for _ in 0..FIRST_STREAK {
            assert!(!pace.is_short());
            pace.record(1, SHORT);
        }
        assert!(pace.is_short());
        pace.record(1, SHORT * 2);
        assert!(pace.is_short(), "its thread may have been preempted");
        assert!(pace.is_undecided());
        pace.record(1, SHORT);
        assert!(!pace.is_undecided());
        pace.record(1, SHORT * 2);
        pace.record(1, SHORT * 2);
        assert!(!pace.is_short());
        for _ in 0..NEXT_STREAK {
            assert!(!pace.is_short());
            pace.record(1, Duration::ZERO);
        }
        assert!(pace.is_short());
    }

    #[test]
    fn a_long_message_among_many_is_seen() {
        let pace = HandlerPace::default();
        for _ in 0..1000 {
            pace.record(64, Duration::from_micros(500));
        }
        assert!(!pace.is_short());
        for _ in 0..FIRST_STREAK / MAX_PER_POLL {
            pace.record(64, Duration::from_micros(20));
        }
        assert!(pace.is_short());
    }
}
