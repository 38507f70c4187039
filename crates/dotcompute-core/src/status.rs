//! What a ring kernel is doing: its state, and what keeps it from taking its next message.

use std::fmt;
use std::sync::Arc;

use crate::lifecycle::State;

/// Why a running ring kernel takes no message at present.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Blocked {
    /// Its output ring is full: its outputs are not received.
    OutputRing {
        /// Outputs in the ring that were not received.
        unread: u64,
    },
    /// The mailbox of a ring kernel that it is connected to, or sends to in its handler, is full.
    Mailbox {
        /// The name of that ring kernel.
        of: Arc<str>,
    },
    /// Its handler waits for the reply of a ring kernel that it asked.
    Reply {
        /// The name of that ring kernel.
        of: Arc<str>,
    },
    /// Its handler waits for an output of a ring kernel.
    Output {
        /// The name of that ring kernel.
        of: Arc<str>,
    },
    /// Connected ring kernels wait for room in each other's mailboxes. None of them goes on until one is aborted.
    Jam {
        /// The ring kernels.
        cycle: WaitCycle,
    },
}

/// Ring kernels of which each waits for the next, and the last for the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitCycle(Arc<[Arc<str>]>);

impl WaitCycle {
    pub(crate) fn new(kernels: Vec<Arc<str>>) -> Self {
        Self(kernels.into())
    }

    /// Returns the names of the ring kernels. The last is the first again.
    #[must_use]
    pub fn kernels(&self) -> &[Arc<str>] {
        &self.0
    }
}

impl fmt::Display for WaitCycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, kernel) in self.0.iter().enumerate() {
            write!(f, "{}{kernel}", if position > 0 { " → " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Blocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutputRing { unread } => {
                write!(f, "waiting for room in its output ring: {} outputs unread", Grouped(*unread))
            }
            Self::Mailbox { of } => write!(f, "waiting for room in the mailbox of ring kernel `{of}`"),
            Self::Reply { of } => write!(f, "waiting for the reply of ring kernel `{of}`"),
            Self::Output { of } => write!(f, "waiting for an output of ring kernel `{of}`"),
            Self::Jam { cycle } => {
                write!(
                    f,
                    "jammed: {cycle}, each waits for room in the mailbox of the next; abort one of them"
                )
            }
        }
    }
}

/// The state of a ring kernel, and what keeps it from taking its next message.
///
/// ```
/// use dotcompute_core::lifecycle::State;
/// use dotcompute_core::status::{Blocked, Status};
///
/// let status = Status { state: State::Active, blocked: Some(Blocked::OutputRing { unread: 1_024 }) };
/// assert_eq!(status.to_string(), "Active, waiting for room in its output ring: 1,024 outputs unread");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The state.
    pub state: State,
    /// Why it takes no message at present. `None` if nothing prevents it.
    pub blocked: Option<Blocked>,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.blocked {
            None => self.state.fmt(f),
            Some(blocked) => write!(f, "{}, {blocked}", self.state),
        }
    }
}

/// A number with a comma before each group of three digits.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        for (position, digit) in digits.chars().enumerate() {
            if position > 0 && (digits.len() - position).is_multiple_of(3) {
                f.write_str(",")?;
            }
            write!(f, "{digit}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_three_digits() {
        let grouped = [0, 12, 999, 1_000, 65_536, 1_234_567].map(|number| Grouped(number).to_string());
        assert_eq!(grouped, ["0", "12", "999", "1,000", "65,536", "1,234,567"]);
    }

    #[test]
    fn a_status_names_the_full_mailbox() {
        let status = Status { state: State::Terminating, blocked: Some(Blocked::Mailbox { of: "b".into() }) };
        assert_eq!(status.to_string(), "Terminating, waiting for room in the mailbox of ring kernel `b`");
        assert_eq!(Status { state: State::Active, blocked: None }.to_string(), "Active");
    }
}
