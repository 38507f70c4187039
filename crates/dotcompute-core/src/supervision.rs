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
pub(crate) enum Verdict {
    Fail,
    Resume,
    RestartAfter(Duration),
}

/// A ring kernel's record of its faults.
#[derive(Debug)]
pub(crate) struct Supervisor {
    policy: Supervision,
    recent: VecDeque<Instant>,
}

impl Supervisor {
    pub(crate) fn new(policy: Supervision) -> Self {
        Self { policy, recent: VecDeque::new() }
    }

    pub(crate) fn judge(&mut self, now: Instant) -> Verdict {
        match self.policy {
            Supervision::Never => Verdict::Fail,
            Supervision::Resume => Verdict::Resume,
            Supervision::Restart { max, within, backoff } => {
                while self.recent.front().is_some_and(|&at| now.duration_since(at) > within) {
                    self.recent.pop_front();
                }
                if self.recent.len() >= max as usize {
                    return Verdict::Fail;
                }
                let doublings = self.recent.len().min(5) as u32;
                self.recent.push_back(now);
                Verdict::RestartAfter(backoff * (1 << doublings))
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
        assert_eq!(supervisor.judge(start), Verdict::RestartAfter(Duration::from_millis(10)));
        assert_eq!(supervisor.judge(start + second), Verdict::RestartAfter(Duration::from_millis(20)));
        assert_eq!(supervisor.judge(start + 2 * second), Verdict::Fail);
        // Eleven seconds on, the first fault is out of the window.
        assert_eq!(supervisor.judge(start + 11 * second), Verdict::RestartAfter(Duration::from_millis(20)));
    }

    #[test]
    fn never_and_resume_do_not_count() {
        let mut never = Supervisor::new(Supervision::Never);
        let mut resume = Supervisor::new(Supervision::Resume);
        for _ in 0..10 {
            assert_eq!(never.judge(Instant::now()), Verdict::Fail);
            assert_eq!(resume.judge(Instant::now()), Verdict::Resume);
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
        let last = (0..50).map(|_| supervisor.judge(now)).last();
        assert_eq!(last, Some(Verdict::RestartAfter(Duration::from_millis(32))));
    }
}
