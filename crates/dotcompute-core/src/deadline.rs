//! Deadlines of calls that wait at most a given time.

use std::time::{Duration, Instant};

/// Stands for "without a limit" where the clock cannot represent a deadline.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Returns the deadline of a call that waits at most `timeout`. [`Duration::MAX`], like every timeout beyond the range of the clock, means
/// without a limit: the deadline is then 30 years ahead.
///
/// Every deadline is computed here. `Instant::now() + timeout` panics for long timeouts.
///
/// ```
/// use std::time::{Duration, Instant};
///
/// assert!(dotcompute_core::deadline::after(Duration::MAX) > Instant::now());
/// ```
#[must_use]
pub fn after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_beyond_the_clock_is_a_deadline_far_ahead() {
        let year = Duration::from_secs(365 * 24 * 3600);
        for timeout in [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(i64::MAX as u64)] {
            assert!(after(timeout) > Instant::now() + year);
        }
    }

    #[test]
    fn other_timeouts_are_exact() {
        let (before, deadline) = (Instant::now(), after(Duration::from_secs(5)));
        assert!(deadline >= before + Duration::from_secs(5));
        assert!(deadline <= Instant::now() + Duration::from_secs(5));
    }
}
