//! Errors of memory and buffers.

use std::ops::Range;

use thiserror::Error;

use super::DeviceId;

/// An error of memory or of a buffer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The buffer cannot be addressed.
    #[error(
        "creating a buffer of {elements} elements of {element_bytes} bytes: too large to be addressed; use fewer elements"
    )]
    TooLarge {
        /// Number of elements requested.
        elements: usize,
        /// Size of an element.
        element_bytes: usize,
    },
    /// The host has not enough memory.
    #[error("allocating {requested} bytes of host memory: not enough memory; free some, or allocate less")]
    NoHostMemory {
        /// Bytes requested.
        requested: usize,
    },
    /// The device has not enough memory.
    #[error(
        "allocating {requested} bytes on {device}: not enough memory{}; free some, allocate less, or trim pools",
        .free.map(|free| format!(", {free} bytes are free")).unwrap_or_default()
    )]
    NoDeviceMemory {
        /// The device.
        device: DeviceId,
        /// Bytes requested.
        requested: usize,
        /// Free bytes, if the device reports them.
        free: Option<u64>,
    },
    /// The allocation would exceed the pool's limit.
    #[error(
        "allocating {requested} bytes ({rounded} after rounding) from the pool of {what} of {device}: it is limited to {limit} bytes, of \
         which {in_use} are in use, and {fits} would fit; free some, allocate less, or raise the limit"
    )]
    Limit {
        /// The device.
        device: DeviceId,
        /// The kind of memory.
        what: &'static str,
        /// Bytes requested.
        requested: usize,
        /// Size class of the request.
        rounded: usize,
        /// Bytes in use.
        in_use: usize,
        /// The limit.
        limit: usize,
        /// Size of the largest request that would succeed now.
        fits: usize,
    },
    /// A range exceeds the buffer.
    #[error(
        "accessing {}..{} of a buffer of length {len}: out of range; use a range within 0..{len}",
        .range.start, .range.end
    )]
    OutOfRange {
        /// The range requested.
        range: Range<usize>,
        /// Length of the buffer.
        len: usize,
    },
    /// The device reported an error, or returned memory that does not match the request.
    #[error("{device}, {doing}: {problem}")]
    Device {
        /// The device.
        device: DeviceId,
        /// The operation that failed.
        doing: String,
        /// What went wrong, and what to do.
        problem: String,
    },
}

/// Checks that `range` lies within `0..len`.
pub(super) fn check_range(range: &Range<usize>, len: usize) -> Result<(), MemoryError> {
    if range.start <= range.end && range.end <= len {
        return Ok(());
    }
    Err(MemoryError::OutOfRange { range: range.clone(), len })
}

/// Returns the range of `count` items from `at` on, if it lies within `0..len`.
pub(super) fn range_of(at: usize, count: usize, len: usize) -> Result<Range<usize>, MemoryError> {
    let range = at..at.saturating_add(count);
    check_range(&range, len)?;
    Ok(range)
}
