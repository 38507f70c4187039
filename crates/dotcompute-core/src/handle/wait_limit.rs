//! Wait limit.

use std::time::Duration;

/// How long a sender is prepared to wait for room.
#[derive(Clone, Copy)]
pub(super) enum Patience {
    None,
    For(Duration),
    Endless,
}
