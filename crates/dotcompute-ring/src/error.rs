//! What can go wrong with a ring.

use core::fmt;

/// A ring of this capacity cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapacityError {
    /// The capacity is zero.
    #[error("a ring with room for 0 messages can never pass one on; give it room for at least 1")]
    Zero,
    /// The slots would take more memory than can be addressed or had.
    #[error(
        "a ring with room for {messages} messages of {slot_bytes} bytes a slot is larger than this machine can provide; ask for fewer"
    )]
    TooLarge {
        /// The capacity asked for.
        messages: usize,
        /// Bytes one slot takes.
        slot_bytes: usize,
    },
}

/// A value that was not taken; it comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PushError<T> {
    /// There is no room.
    Full(T),
    /// The other end has closed the ring: there will never be room.
    Closed(T),
}

impl<T> PushError<T> {
    /// The value that was not taken.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Closed(value) => value,
        }
    }

    /// Whether trying again may succeed.
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

// By hand, so that values need not implement `Debug`.
impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() { "Full(..)" } else { "Closed(..)" })
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() {
            "pushing to a ring that is full; pop, wait, or make it larger"
        } else {
            "pushing to a ring that its consumer has closed"
        })
    }
}

impl<T> core::error::Error for PushError<T> {}
