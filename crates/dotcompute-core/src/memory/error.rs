//! What can go wrong with memory.

use std::ops::Range;

use thiserror::Error;

use super::DeviceId;

/// What went wrong with memory.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// So many elements cannot be addressed.
    #[error("a buffer of {elements} elements of {element_bytes} bytes cannot be addressed; ask for less")]
    TooLarge {
        /// How many were asked for.
        elements: usize,
        /// The size of one.
        element_bytes: usize,
    },
    /// The host has no such memory.
    #[error("the host has no {requested} bytes to give; free some, or ask for less")]
    NoHostMemory {
        /// Bytes asked for.
        requested: usize,
    },
    /// The device has no such memory.
    #[error(
        "{device} has no {requested} bytes to give{}; free some, ask for less, or trim pools that keep some",
        .free.map(|free| format!(", {free} are free")).unwrap_or_default()
    )]
    NoDeviceMemory {
        /// The device.
        device: DeviceId,
        /// Bytes asked for.
        requested: usize,
        /// Bytes that are free, if it tells.
        free: Option<u64>,
    },
    /// A pool's limit would be passed.
    #[error(
        "the pool of {what} of {device} is limited to {limit} bytes, of which {in_use} are in use: {requested} more ({rounded} with rounding) \
         are too many, and {fits} would fit; free some, ask for less, or raise the limit"
    )]
    Limit {
        /// The device.
        device: DeviceId,
        /// The kind of memory.
        what: &'static str,
        /// Bytes asked for.
        requested: usize,
        /// The size class that they are rounded up to.
        rounded: usize,
        /// Bytes in use.
        in_use: usize,
        /// The limit.
        limit: usize,
        /// The most that could be had now.
        fits: usize,
    },
    /// A range leaves the buffer.
    #[error("{}..{} is not within a buffer of {len}; count elements, from 0", .range.start, .range.end)]
    OutOfRange {
        /// What was asked for.
        range: Range<usize>,
        /// How long the buffer is.
        len: usize,
    },
    /// The device refused, or its memory is not as it should be.
    #[error("{device}, {doing}: {problem}")]
    Device {
        /// The device.
        device: DeviceId,
        /// What was being done.
        doing: String,
        /// What went wrong, and what to do.
        problem: String,
    },
}

/// That `range` is within `len`.
pub(super) fn check_range(range: &Range<usize>, len: usize) -> Result<(), MemoryError> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    Err(MemoryError::OutOfRange { range: range.clone(), len })
}

/// The range of `count` from `at` on, if it is within `len`.
pub(super) fn range_of(at: usize, count: usize, len: usize) -> Result<Range<usize>, MemoryError> {
    let range = at..at.saturating_add(count);
    check_range(&range, len)?;
    Ok(range)
}
