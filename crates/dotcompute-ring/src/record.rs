//! Rings in memory that somebody else provides: shared with another process, or with a device.
//!
//! The ends are those of [`spsc`](crate::spsc), the [layout](crate::layout) is the same, and only plain old data passes: no drop code, no
//! pointers, every bit pattern a value. [`create`] writes an empty ring; then each side attaches its end, [`producer`] or [`consumer`],
//! from whatever address it sees the memory at. All that the header says is checked first, against the memory's length too: a header that
//! is damaged, truncated, or written by another program is refused with an error that names the difference.
//!
//! An end that comes back goes on where the last one was. The producer finds its place from the words of the slots, the consumer from
//! `head`: also if the process before was killed. A record that was being written then is not seen; one that was being
//! read is read again.
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

/// Plain old data: a value whose bytes are all there is to it, and mean the same to another process or a device.
///
/// # Safety
///
/// The type is `repr(C)`, `repr(transparent)` or a primitive, its size and alignment are the same wherever the ring is used, it has no
/// padding bytes and no pointers, and every bit pattern is a valid value.
pub unsafe trait Record: Copy + Send + 'static {}

macro_rules! records {
    ($($primitive:ty),*) => {
        $(
            // SAFETY: a number of fixed size, of which every bit pattern is a value.
            unsafe impl Record for $primitive {}
        )*
    };
}
records!(u8, u16, u32, u64, i8, i16, i32, i64, f32, f64);

// SAFETY: an array has its elements without gaps, and nothing else.
unsafe impl<T: Record, const N: usize> Record for [T; N] {}

/// A record's bytes, as they lie in memory.
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
    // SAFETY: a `Record` has no padding, so each of its `size_of` bytes is initialised; the slice lives as long as the borrow.
    unsafe { core::slice::from_raw_parts(core::ptr::from_ref(record).cast(), size_of::<R>()) }
}

/// The record that these bytes are, wherever they lie; none if they are fewer or more than it has.
#[must_use]
pub fn from_bytes<R: Record>(bytes: &[u8]) -> Option<R> {
    // SAFETY: the bytes are as many as a `Record` has, of which every pattern is a value; the read needs no alignment.
    (bytes.len() == size_of::<R>()).then(|| unsafe { bytes.as_ptr().cast::<R>().read_unaligned() })
}

/// What is wrong with memory that should hold a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A ring of this capacity cannot be made.
    #[error(transparent)]
    Capacity(#[from] CapacityError),
    /// The address is not a multiple of [`CACHE_LINE`].
    #[error(
        "the memory for a ring begins {offset} bytes after a multiple of {CACHE_LINE}; align it to {CACHE_LINE} bytes (mapped memory always is)"
    )]
    Misaligned {
        /// Bytes after the last multiple.
        offset: usize,
    },
    /// There is less memory than the ring takes.
    #[error("a ring takes {needed} bytes, but there are {len}; map all of it (see `required_bytes`)")]
    TooShort {
        /// Bytes there are.
        len: usize,
        /// Bytes there should be.
        needed: usize,
    },
    /// The memory does not begin as a ring does.
    #[error(
        "the memory begins with {found:#018x}, not as a ring does: was `create` called, on this memory and by now?"
    )]
    BadMagic {
        /// The first eight bytes.
        found: u64,
    },
    /// The header says something else than this side expects.
    #[error(
        "the ring's {field} is {found}, but this side expects {expected}; both sides need the same record type and the same version"
    )]
    HeaderMismatch {
        /// The field of [`Header`].
        field: &'static str,
        /// What the memory says.
        found: u64,
        /// What it should say.
        expected: u64,
    },
    /// The header's capacity is no power of two, or zero.
    #[error("the ring's capacity is {found}, which is no power of two; the header is damaged")]
    CapacityNotPowerOfTwo {
        /// What the memory says.
        found: u64,
    },
    /// The consumer's index is one that no ring gets to.
    #[error(
        "the ring's consumer has taken {head} records, it says, which takes centuries; the control words are damaged"
    )]
    HeadOutOfRange {
        /// What the memory says.
        head: u64,
    },
}

/// Larger than any ticket, by a factor that keeps sums from overflowing.
const MAX_INDEX: u64 = 1 << 62;

/// Bytes of memory that a ring with room for `capacity` records takes.
///
/// # Errors
///
/// [`CapacityError`] if the capacity is zero or too large.
///
/// ```
/// use dotcompute_ring::record;
///
/// // Four lines of 128 bytes, then slots of a word and a record each.
/// assert_eq!(record::required_bytes::<[u64; 7]>(16)?, 4 * 128 + 16 * 64);
/// # Ok::<(), dotcompute_ring::CapacityError>(())
/// ```
pub fn required_bytes<T: Record>(capacity: usize) -> Result<usize, CapacityError> {
    const {
        assert!(
            align_of::<T>() <= CACHE_LINE,
            "a record's alignment is at most that of the lines before the slots"
        );
        assert!(size_of::<Slot<T>>() <= u32::MAX as usize, "a record's size fits the header's 32 bits");
    };
    let slots = slots_for::<T>(capacity)?;
    let too_large = CapacityError::TooLarge { messages: capacity, slot_bytes: size_of::<Slot<T>>() };
    let (layout, _) = layout_of::<T>(slots).ok_or(too_large)?;
    Ok(layout.size())
}

/// Writes an empty ring with room for `capacity` records, rounded up to a power of two. Its header comes last: who attaches
/// too early is refused.
///
/// # Errors
///
/// [`RecordError`] if the capacity is impossible, or the memory too short or misaligned.
///
/// # Safety
///
/// `len` bytes at `memory` can be read and written, and nobody uses them as a ring yet.
pub unsafe fn create<T: Record>(memory: NonNull<u8>, len: usize, capacity: usize) -> Result<(), RecordError> {
    let needed = required_bytes::<T>(capacity)?;
    check_memory(memory, len, needed)?;
    let slots = slots_for::<T>(capacity)?;
    // SAFETY: `needed` bytes are there, and nobody else uses them; the control block's alignment was checked. Zeros are what empty slots
    // are, and what a reader of the header refuses.
    unsafe {
        memory.write_bytes(0, needed);
        memory.cast::<Control>().write(Control::new(Header { magic: 0, ..Header::of::<T>(slots) }));
    }
    // SAFETY: an aligned `u64` in the memory, shared from now on and only used as an atomic.
    let magic = unsafe { memory.cast::<AtomicU64>().as_ref() };
    // Release: whoever sees it sees the rest.
    magic.store(MAGIC, Ordering::Release);
    Ok(())
}

/// Attaches the producer's end. What its predecessor published stays.
///
/// # Errors
///
/// [`RecordError`] if there is no ring of `T` in the memory.
///
/// # Safety
///
/// `len` bytes at `memory` can be read and written until the end is dropped, wherever else they are mapped; everybody who writes to them
/// meanwhile keeps to the protocol of the ring; and there is no other producer.
pub unsafe fn producer<T: Record>(memory: NonNull<u8>, len: usize) -> Result<Producer<T>, RecordError> {
    // SAFETY: by the contract above.
    unsafe { attach(memory, len) }.map(producer_in)
}

/// Attaches the consumer's end. It begins with what its predecessor has not taken.
///
/// # Errors
///
/// [`RecordError`] if there is no ring of `T` in the memory.
///
/// # Safety
///
/// `len` bytes at `memory` can be read and written until the end is dropped, wherever else they are mapped; everybody who writes to them
/// meanwhile keeps to the protocol of the ring; and there is no other consumer.
pub unsafe fn consumer<T: Record>(memory: NonNull<u8>, len: usize) -> Result<Consumer<T>, RecordError> {
    // SAFETY: by the contract above.
    unsafe { attach(memory, len) }.map(consumer_in)
}

/// # Safety
///
/// As for [`producer`], or [`consumer`].
unsafe fn attach<T: Record>(memory: NonNull<u8>, len: usize) -> Result<RingMemory<T>, RecordError> {
    check_memory(memory, len, size_of::<Control>())?;
    // SAFETY: a control block's bytes are there, and aligned.
    let found = unsafe { read_header(memory) };
    let slots = check_header::<T>(&found, len)?;
    // SAFETY: the contract above, and the header says that `create` has been here; the memory has room for the control block and `slots`
    // slots of `T`, which were zeroed by it or written since by ends of a ring of the same layout.
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

/// Reads every field once: what is checked is what is used, whatever another process writes meanwhile.
///
/// # Safety
///
/// There are `size_of::<Header>()` readable bytes at `memory`, aligned to [`CACHE_LINE`].
unsafe fn read_header(memory: NonNull<u8>) -> Header {
    let load_u64 = |offset: usize, order| {
        // SAFETY: a field of the header, by `offset_of`; atomic, since another process may be writing it.
        unsafe { memory.add(offset).cast::<AtomicU64>().as_ref() }.load(order)
    };
    let load_u32 = |offset: usize| {
        // SAFETY: as above.
        unsafe { memory.add(offset).cast::<AtomicU32>().as_ref() }.load(Ordering::Relaxed)
    };
    // Acquire, and first: pairs with the release at the end of `create`.
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

/// The number of slots, if the header is that of a ring of `T` which `len` bytes have room for.
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
