//! Rings in memory that the caller provides: shared with another process or with a device.
//!
//! The ends are those of [`spsc`](crate::spsc), and the [layout](crate::layout) is the same. Only plain old data passes: no drop code, no
//! pointers, every bit pattern a valid value. [`create`] writes an empty ring. Then each side attaches its end, [`producer`] or
//! [`consumer`], at the address where it has mapped the memory. Attaching checks every field of the header, also against the length of the
//! memory. A header that is damaged, truncated, or written by another program is rejected with an error that names the difference.
//!
//! A reattached end continues where its predecessor stopped, even if that process was killed. The producer finds its index from the
//! sequence tags, the consumer from `head`. A record that was being written is not seen; a record that was being read is read again.
//!
//! ```
//! use std::ptr::NonNull;
//! use dotcompute_ring::record;
//!
//! #[derive(Clone, Copy, Debug, PartialEq)]
//! #[repr(C)]
//! struct Tick {
//!     time: u64,
//!     price: f64,
//! }
//! // SAFETY: `repr(C)`, two fields of eight bytes: no padding, no pointers, no invalid values.
//! unsafe impl record::Record for Tick {}
//!
//! #[repr(align(128))]
//! struct Shared([u8; 1024]);
//! let mut shared = Box::new(Shared([0; 1024]));
//! let (memory, len) = (NonNull::from(&mut shared.0).cast(), shared.0.len());
//! assert!(record::required_bytes::<Tick>(16)? <= len);
//!
//! // SAFETY: `shared` outlives the ends, and only they use it.
//! let (mut producer, mut consumer) = unsafe {
//!     record::create::<Tick>(memory, len, 16)?;
//!     (record::producer::<Tick>(memory, len)?, record::consumer::<Tick>(memory, len)?)
//! };
//! producer.try_push(Tick { time: 1, price: 2.5 })?;
//! assert_eq!(consumer.try_pop(), Some(Tick { time: 1, price: 2.5 }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use core::mem::offset_of;
use core::ptr::NonNull;

use crate::error::CapacityError;
use crate::layout::{CACHE_LINE, Control, Header, MAGIC, RingMemory, Slot, VERSION, layout_of, slots_for};
use crate::spsc::{Consumer, Producer, consumer_in, producer_in};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Plain old data: a type whose value is exactly its bytes, with the same meaning to another process or a device.
///
/// # Safety
///
/// The type is `repr(C)`, `repr(transparent)` or a primitive. Its size and alignment are the same everywhere the ring is used. It has no
/// padding bytes and no pointers, and every bit pattern is a valid value.
pub unsafe trait Record: Copy + Send + 'static {}

macro_rules! records {
    ($($primitive:ty),*) => {
        $(
            // SAFETY: a fixed-size number, of which every bit pattern is a valid value.
            unsafe impl Record for $primitive {}
        )*
    };
}
records!(u8, u16, u32, u64, i8, i16, i32, i64, f32, f64);

// SAFETY: an array consists of its elements without gaps, and each element is a `Record`.
unsafe impl<T: Record, const N: usize> Record for [T; N] {}

/// Returns the bytes of a record, in memory order.
///
/// ```
/// use dotcompute_ring::record::{bytes_of, from_bytes};
///
/// assert_eq!(bytes_of(&0x0403_0201u32.to_le()), [1, 2, 3, 4]);
/// assert_eq!(from_bytes::<u32>(&[1, 2, 3, 4]).map(u32::from_le), Some(0x0403_0201));
/// assert_eq!(from_bytes::<u32>(&[1, 2, 3]), None);
/// ```
#[must_use]
pub fn bytes_of<R: Record>(record: &R) -> &[u8] {
    // SAFETY: a `Record` has no padding, so each of its `size_of` bytes is initialised. The slice borrows the record.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(record).cast(), size_of::<R>()) }
}

/// Returns the record with these bytes, at any alignment. `None` if `bytes` is not exactly as long as a record.
#[must_use]
pub fn from_bytes<R: Record>(bytes: &[u8]) -> Option<R> {
    // SAFETY: the length is that of a `Record`, of which every bit pattern is valid, and the read needs no alignment.
    (bytes.len() == size_of::<R>()).then(|| unsafe { bytes.as_ptr().cast::<R>().read_unaligned() })
}

/// Errors of creating a ring in memory and of attaching to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A ring of this capacity cannot be created.
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    /// The address is not a multiple of [`CACHE_LINE`].
    #[error(
        "placing a ring in memory: its address is {offset} bytes past a multiple of {CACHE_LINE}; align it to {CACHE_LINE} bytes (mapped memory is aligned)"
    )]
    Misaligned {
        /// Bytes past the last multiple.
        offset: usize,
    },
    /// The memory is shorter than the ring.
    #[error(
        "placing a ring in memory: expected {needed} bytes, got {len}; map all of the ring (see `required_bytes`)"
    )]
    TooShort {
        /// Length of the memory in bytes.
        len: usize,
        /// Required length in bytes.
        needed: usize,
    },
    /// The memory does not begin with the ring magic.
    #[error(
        "attaching to a ring: expected the ring magic, found {found:#018x}; call `create` on this memory first"
    )]
    BadMagic {
        /// The first eight bytes.
        found: u64,
    },
    /// A field of the header differs from what this side expects.
    #[error(
        "attaching to a ring: expected {field} {expected}, found {found}; use the same record type and version on both sides"
    )]
    HeaderMismatch {
        /// The field of [`Header`].
        field: &'static str,
        /// The value in memory.
        found: u64,
        /// The expected value.
        expected: u64,
    },
    /// The capacity in the header is zero or not a power of two.
    #[error(
        "attaching to a ring: capacity {found} is not a power of two; the header is corrupt, create the ring again"
    )]
    CapacityNotPowerOfTwo {
        /// The value in memory.
        found: u64,
    },
    /// `head` is larger than any ring reaches.
    #[error(
        "attaching to a ring: `head` is {head}, which is out of range; the control block is corrupt, create the ring again"
    )]
    HeadOutOfRange {
        /// The value in memory.
        head: u64,
    },
}

/// Upper bound of indices, with enough distance to the end of `u64` that sums do not overflow.
const MAX_INDEX: u64 = 1 << 62;

/// Returns the size in bytes of a ring with at least `capacity` slots.
///
/// # Errors
///
/// [`CapacityError`] if the capacity is zero or too large.
///
/// ```
/// use dotcompute_ring::record;
///
/// // Four cache lines of 128 bytes, then slots of a sequence tag and a record each.
/// assert_eq!(record::required_bytes::<[u64; 7]>(16)?, 4 * 128 + 16 * 64);
/// # Ok::<(), dotcompute_ring::CapacityError>(())
/// ```
pub fn required_bytes<T: Record>(capacity: usize) -> Result<usize, CapacityError> {
    const {
        assert!(
            align_of::<T>() <= CACHE_LINE,
            "a record's alignment is at most that of the cache lines before the slots"
        );
        assert!(size_of::<Slot<T>>() <= u32::MAX as usize, "a record's size fits the header's 32 bits");
    };
    let slots = slots_for::<T>(capacity)?;
    let too_large = CapacityError::TooLarge { messages: capacity, slot_bytes: size_of::<Slot<T>>() };
    let (layout, _) = layout_of::<T>(slots).ok_or(too_large)?;
    Ok(layout.size())
}

/// Writes an empty ring with at least `capacity` slots, rounded up to a power of two. The magic is written last, so that an end that
/// attaches too early is rejected.
///
/// # Errors
///
/// [`RecordError`] if the capacity is invalid, or the memory is too short or misaligned.
///
/// # Safety
///
/// The `len` bytes at `memory` are valid for reads and writes, and no end of a ring uses them yet.
pub unsafe fn create<T: Record>(memory: NonNull<u8>, len: usize, capacity: usize) -> Result<(), RecordError> {
    let needed = required_bytes::<T>(capacity)?;
    check_memory(memory, len, needed)?;
    let slots = slots_for::<T>(capacity)?;
    // SAFETY: `check_memory` checked length and alignment, and by the contract of this function no other code uses the memory. Zeros are
    // empty slots, and a zero magic is rejected by readers of the header.
    unsafe {
        memory.write_bytes(0, needed);
        memory.cast::<Control>().write(Control::new(Header { magic: 0, ..Header::of::<T>(slots) }));
    }
    // SAFETY: an aligned `u64` in the memory, shared from now on and accessed only as an atomic.
    let magic = unsafe { memory.cast::<AtomicU64>().as_ref() };
    // SYNC POINT: header publish
    // Release: pairs with the acquire load in `read_header`; publishes the rest of the header and the empty slots.
    magic.store(MAGIC, Ordering::Release);
    Ok(())
}

/// Attaches a producer. Records that its predecessor published stay in the ring.
///
/// # Errors
///
/// [`RecordError`] if the memory does not contain a ring of `T`.
///
/// # Safety
///
/// Until the producer is dropped, the `len` bytes at `memory` are valid for reads and writes. Every other writer, through any mapping,
/// follows the protocol of the ring until then. There is no other producer.
pub unsafe fn producer<T: Record>(memory: NonNull<u8>, len: usize) -> Result<Producer<T>, RecordError> {
    // SAFETY: by the contract of this function.
    unsafe { attach(memory, len) }.map(producer_in)
}

/// Attaches a consumer. It starts with the records that its predecessor has not popped.
///
/// # Errors
///
/// [`RecordError`] if the memory does not contain a ring of `T`.
///
/// # Safety
///
/// Until the consumer is dropped, the `len` bytes at `memory` are valid for reads and writes. Every other writer, through any mapping,
/// follows the protocol of the ring until then. There is no other consumer.
pub unsafe fn consumer<T: Record>(memory: NonNull<u8>, len: usize) -> Result<Consumer<T>, RecordError> {
    // SAFETY: by the contract of this function.
    unsafe { attach(memory, len) }.map(consumer_in)
}

/// # Safety
///
/// The contract of [`producer`], or that of [`consumer`].
unsafe fn attach<T: Record>(memory: NonNull<u8>, len: usize) -> Result<RingMemory<T>, RecordError> {
    check_memory(memory, len, size_of::<Control>())?;
    // SAFETY: `check_memory` checked that a control block fits and is aligned.
    let found = unsafe { read_header(memory) };
    let slots = check_header::<T>(&found, len)?;
    // SAFETY: the header shows that `create` has written the ring, and `check_header` that the control block and `slots` slots of `T` fit.
    // `create` zeroed the slots, and only ends of a ring of this layout have written them since, by the contract of this function.
    let ring = unsafe { RingMemory::borrowed(memory, slots) };
    let head = ring.control().consumer.head.load(Ordering::Relaxed);
    if head >= MAX_INDEX { Err(RecordError::HeadOutOfRange { head }) } else { Ok(ring) }
}

fn check_memory(memory: NonNull<u8>, len: usize, needed: usize) -> Result<(), RecordError> {
    let offset = memory.addr().get() % CACHE_LINE;
    if offset != 0 {
        return Err(RecordError::Misaligned { offset });
    }
    if len < needed { Err(RecordError::TooShort { len, needed }) } else { Ok(()) }
}

/// Reads every field once, so that the checked values are the used ones even if another process writes to the header.
///
/// # Safety
///
/// `size_of::<Header>()` bytes at `memory`, aligned to [`CACHE_LINE`], are valid for reads.
unsafe fn read_header(memory: NonNull<u8>) -> Header {
    let load_u64 = |offset: usize, order| {
        // SAFETY: an aligned field of the header, by `offset_of`. The access is atomic because another process may write the field.
        unsafe { memory.add(offset).cast::<AtomicU64>().as_ref() }.load(order)
    };
    let load_u32 = |offset: usize| {
        // SAFETY: an aligned field of the header, by `offset_of`, accessed atomically.
        unsafe { memory.add(offset).cast::<AtomicU32>().as_ref() }.load(Ordering::Relaxed)
    };
    // SYNC POINT: header publish
    // Acquire, and first: pairs with the release store in `create`; the fields read below are complete.
    let magic = load_u64(offset_of!(Header, magic), Ordering::Acquire);
    Header {
        magic,
        version: load_u32(offset_of!(Header, version)),
        stride: load_u32(offset_of!(Header, stride)),
        capacity: load_u64(offset_of!(Header, capacity), Ordering::Relaxed),
        payload_size: load_u32(offset_of!(Header, payload_size)),
        payload_offset: load_u32(offset_of!(Header, payload_offset)),
    }
}

/// Returns the number of slots, if this is the header of a ring of `T` that fits into `len` bytes.
fn check_header<T: Record>(found: &Header, len: usize) -> Result<usize, RecordError> {
    if found.magic != MAGIC {
        return Err(RecordError::BadMagic { found: found.magic });
    }
    let expected = Header::of::<T>(1);
    for (field, found, expected) in [
        ("version", found.version, VERSION),
        ("payload_size", found.payload_size, expected.payload_size),
        ("payload_offset", found.payload_offset, expected.payload_offset),
        ("stride", found.stride, expected.stride),
    ] {
        if found != expected {
            return Err(RecordError::HeaderMismatch {
                field,
                found: found.into(),
                expected: expected.into(),
            });
        }
    }
    let slots = usize::try_from(found.capacity).ok().filter(|slots| slots.is_power_of_two());
    let slots = slots.ok_or(RecordError::CapacityNotPowerOfTwo { found: found.capacity })?;
    let needed = required_bytes::<T>(slots)?;
    if len < needed { Err(RecordError::TooShort { len, needed }) } else { Ok(slots) }
}
