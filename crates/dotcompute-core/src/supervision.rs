//! Supervision: what happens to a ring kernel after a panic or an error in its handler.
//!
//! # What counts as a fault
//!
//! A panic or an error of the handler, of a loop, of a hook other than `on_terminate`, or of the factory at a restart. A panic while the
//! handler drops its message or a rejected reply, or while an output is cloned for several connections, is a panic of the handler.
//!
//! User code also runs where no message is at stake: `Display` and `source` of a returned error, and `drop` of that error, of a state, of a
//! loop's future, of a dead letter. A panic there is caught, reported by the panic hook, and has no other effect; in the text of an error
//! the panic's text takes the place of what could not be formatted.
//!
//! # What supervision cannot catch
//!
//! - With `panic = "abort"` in the profile of the program, a panic ends the process: its callers get no error, and no policy applies. Errors
//!   that a handler *returns* are supervised as ever. `dotcompute doctor` reports how the program `dotcompute` itself was built.
//! - A panic while another one unwinds aborts the process, by Rust's rules: for example a panic in the `drop` of a local variable of a
//!   handler that is panicking.
//! - A panic hook that panics, a stack overflow, and running out of memory abort the process too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Supervision policy of one ring kernel. Under every policy, the current message becomes a dead letter with the cause, and its caller
/// gets the cause at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Supervision {
    /// The ring kernel becomes `Failed`. Its queued messages become dead letters.
    #[default]
    Never,
    /// The state is dropped and rebuilt by the factory. Queued messages are preserved.
    Restart {
        /// Faults tolerated within the window. One more makes the ring kernel `Failed`.
        max: u32,
        /// Length of the window.
        within: Duration,
        /// Pause before the new state handles messages. Doubles with each restart in the window, up to 32-fold.
        backoff: Duration,
    },
    /// The state is kept as the fault left it, and the next message is handled. For states that a fault cannot leave inconsistent.
    Resume,
}

impl Supervision {
    /// `Restart` without a pause between the fault and the new state.
    #[must_use]
    pub const fn restart(max: u32, within: Duration) -> Self {
        Self::Restart { max, within, backoff: Duration::ZERO }
    }
}

/// Longer backoffs are this long: timers add them to the present time, which must not overflow.
const MAX_BACKOFF: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What to do after one fault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Fail,
    Resume,
    RestartAfter(Duration),
}

/// Applies a policy to the faults of one ring kernel.
#[derive(Debug)]
pub(crate) struct Supervisor {
    policy: Supervision,
    recent_faults: VecDeque<Instant>,
}

impl Supervisor {
    pub(crate) fn new(policy: Supervision) -> Self {
        Self { policy, recent_faults: VecDeque::new() }
    }

    pub(crate) fn on_fault(&mut self, now: Instant) -> Decision {
        match self.policy {
            Supervision::Never => Decision::Fail,
            Supervision::Resume => Decision::Resume,
            Supervision::Restart { max, within, backoff } => {
                while self.recent_faults.front().is_some_and(|&at| now.duration_since(at) > within) {
                    self.recent_faults.pop_front();
                }
                if self.recent_faults.len() >= max as usize {
                    return Decision::Fail;
                }
                let doublings = self.recent_faults.len().min(5) as u32;
                self.recent_faults.push_back(now);
                Decision::RestartAfter(backoff.saturating_mul(1 << doublings).min(MAX_BACKOFF))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_max_faults_within_the_window_fail_the_ring_kernel() {
        let second = Duration::from_secs(1);
        let policy = Supervision::Restart { max: 2, within: 10 * second, backoff: Duration::from_millis(10) };
        let mut supervisor = Supervisor::new(policy);
        let start = Instant::now();
        assert_eq!(supervisor.on_fault(start), Decision::RestartAfter(Duration::from_millis(10)));
        assert_eq!(supervisor.on_fault(start + second), Decision::RestartAfter(Duration::from_millis(20)));
        assert_eq!(supervisor.on_fault(start + 2 * second), Decision::Fail);
        // After eleven seconds, the first fault is outside the window.
        assert_eq!(
            supervisor.on_fault(start + 11 * second),
            Decision::RestartAfter(Duration::from_millis(20))
        );
    }

    #[test]
    fn never_and_resume_do_not_count() {
        let mut never = Supervisor::new(Supervision::Never);
        let mut resume = Supervisor::new(Supervision::Resume);
        for _ in 0..10 {
            assert_eq!(never.on_fault(Instant::now()), Decision::Fail);
            assert_eq!(resume.on_fault(Instant::now()), Decision::Resume);
        }
    }

    #[test]
    fn the_longest_backoff_does_not_overflow() {
        let within = Duration::from_secs(60);
        let mut supervisor = Supervisor::new(Supervision::Restart { max: 9, within, backoff: Duration::MAX });
        for _ in 0..9 {
            assert_eq!(supervisor.on_fault(Instant::now()), Decision::RestartAfter(MAX_BACKOFF));
        }
    }

    #[test]
    fn backoff_stops_doubling_at_32_fold() {
        let policy = Supervision::Restart {
            max: 100,
            within: Duration::from_secs(60),
            backoff: Duration::from_millis(1),
        };
        let mut supervisor = Supervisor::new(policy);
        let now = Instant::now();
        let last = (0..50).map(|_| supervisor.on_fault(now)).last();
        assert_eq!(last, Some(Decision::RestartAfter(Duration::from_millis(32))));
    }
}
