//! What happens to a ring kernel after a panic or an error in its code.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The policy of one ring kernel. Whatever it says, the message that was being handled becomes a dead letter with the
/// cause, and whoever asked gets that cause at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Supervision {
    /// The ring kernel becomes `Failed`; what it had queued becomes dead letters.
    #[default]
    Never,
    /// The state is thrown away and made anew by the factory; queued messages are kept.
    Restart {
        /// Faults forgiven within the window; one more and the ring kernel becomes `Failed`.
        max: u32,
        /// The length of the window that `max` counts in.
        within: Duration,
        /// How long to wait before the new state handles messages; doubles with each restart in the window, at most 32-fold.
        backoff: Duration,
    },
    /// The state is kept as the fault left it and the next message is handled. For state that a fault cannot leave torn.
    Resume,
}

impl Supervision {
    /// `Restart` without a pause between fault and new state.
    #[must_use]
    pub const fn restart(max: u32, within: Duration) -> Self {
        Self::Restart { max, within, backoff: Duration::ZERO }
    }
}

/// What to do about one fault.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Fail,
    Resume,
    RestartAfter(Duration),
}

/// A ring kernel's record of its faults.
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
                Decision::RestartAfter(backoff * (1 << doublings))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_forgiven_only_so_often_within_the_window() {
        let second = Duration::from_secs(1);
        let policy = Supervision::Restart { max: 2, within: 10 * second, backoff: Duration::from_millis(10) };
        let mut supervisor = Supervisor::new(policy);
        let start = Instant::now();
        assert_eq!(supervisor.on_fault(start), Decision::RestartAfter(Duration::from_millis(10)));
        assert_eq!(supervisor.on_fault(start + second), Decision::RestartAfter(Duration::from_millis(20)));
        assert_eq!(supervisor.on_fault(start + 2 * second), Decision::Fail);
        // Eleven seconds on, the first fault is out of the window.
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
