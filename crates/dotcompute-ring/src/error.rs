//! Errors of creating a ring and of pushing to it.

use core::fmt;

/// A ring of this capacity cannot be created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CapacityError {
    /// The capacity is zero.
    #[error("creating a ring: capacity is 0; use a capacity of at least 1")]
    Zero,
    /// The slots need more memory than is available or addressable.
    #[error(
        "creating a ring: not enough memory for {messages} messages of {slot_bytes} bytes per slot; use a smaller capacity"
    )]
    TooLarge {
        /// The requested capacity.
        messages: usize,
        /// Size of one slot in bytes.
        slot_bytes: usize,
    },
}

/// A value that was not accepted, returned to the caller.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum PushError<T> {
    /// No slot is free.
    Full(T),
    /// The ring is closed and never accepts a value again.
    Closed(T),
}

impl<T> PushError<T> {
    /// Returns the value that was not accepted.
    pub fn into_inner(self) -> T {
        match self {
            Self::Full(value) | Self::Closed(value) => value,
        }
    }

    /// Returns whether a retry can succeed.
    pub const fn is_full(&self) -> bool {
        matches!(self, Self::Full(_))
    }
}

// Implemented by hand so that values need not implement `Debug`.
impl<T> fmt::Debug for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() { "Full(..)" } else { "Closed(..)" })
    }
}

impl<T> fmt::Display for PushError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_full() {
            "pushing to a ring: it is full; pop values, wait, or use a larger capacity"
        } else {
            "pushing to a ring: it is closed; create a new ring to send more"
        })
    }
}

impl<T> core::error::Error for PushError<T> {}
