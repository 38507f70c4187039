//! How long a sender waits for a free slot.

use std::time::Duration;

/// How long a sender waits for a free slot in a full mailbox.
#[derive(Clone, Copy)]
pub(super) enum WaitLimit {
    NoWait,
    Timeout(Duration),
    Unlimited,
}
