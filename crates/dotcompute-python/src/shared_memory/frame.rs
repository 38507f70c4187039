//! Messages as records: their length, then their bytes, in slots of one of a few sizes.
//!
//! The ring is made for records whose size the compiler knows. A queue's size is known only when it runs, so there is a class for
//! each power of two.

use std::mem::offset_of;
use std::ptr::NonNull;

use dotcompute_ring::record::{self, Record, RecordError};
use dotcompute_ring::spsc::{Consumer, Producer};
use dotcompute_ring::{CapacityError, PushError};

/// What a slot holds.
#[derive(Clone, Copy)]
#[repr(C)]
struct Frame<const WORDS: usize> {
    /// Bytes that are used of `data`.
    len: u32,
    /// What they are; the ring does not care.
    kind: u32,
    data: [u64; WORDS],
}

// SAFETY: `repr(C)`, two numbers of four bytes, then numbers of eight: no padding, no pointers, and every pattern is a value.
unsafe impl<const WORDS: usize> Record for Frame<WORDS> {}

/// A message where it lies in the ring.
pub(super) struct Found<'a> {
    pub(super) kind: u32,
    /// None if the frame says that it is longer than its slot.
    pub(super) bytes: Option<&'a [u8]>,
}

/// The producer's end, whatever its class.
pub(super) trait Sender: Send {
    /// Puts a message in, which must fit.
    fn put(&mut self, kind: u32, bytes: &[u8]) -> Result<(), PushError<()>>;
    /// Whether a put would not be refused for want of room.
    fn has_room(&self) -> bool;
    /// Whether the consumer has left for good.
    fn is_closed(&self) -> bool;
    /// Messages put in, ever.
    fn pushed(&self) -> u64;
}

/// The consumer's end, whatever its class.
pub(super) trait Receiver: Send {
    /// The oldest message.
    fn peek(&mut self) -> Option<Found<'_>>;
    /// Gives the oldest message's slot back.
    fn advance(&mut self);
    fn is_empty(&self) -> bool;
    /// Whether the producer has left for good.
    fn is_closed(&self) -> bool;
    /// Messages taken, ever.
    fn popped(&self) -> u64;
}

impl<const WORDS: usize> Sender for Producer<Frame<WORDS>> {
    #[inline]
    fn put(&mut self, kind: u32, bytes: &[u8]) -> Result<(), PushError<()>> {
        assert!(bytes.len() <= 8 * WORDS, "the caller has looked whether the message fits");
        let mut claim = self.claim(1)?;
        let write = |place: &mut std::mem::MaybeUninit<Frame<WORDS>>| {
            let frame = place.as_mut_ptr();
            // SAFETY: `frame` points to a whole frame, and the assertion leaves room for the bytes; they come from elsewhere, so do not
            // overlap it. The fields are written through pointers, since there may be no reference to what is not initialised.
            unsafe {
                (&raw mut (*frame).len).write(bytes.len() as u32);
                (&raw mut (*frame).kind).write(kind);
                let data = frame.cast::<u8>().add(offset_of!(Frame<WORDS>, data));
                data.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
        };
        // SAFETY: what `write` leaves out, beyond the message, is memory of the ring, which was zeroed when it was made or holds bytes of
        // an earlier message: initialised, and any bytes are a frame.
        unsafe { claim.write_in_place(write) };
        claim.commit();
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.len() < self.capacity()
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }

    #[inline]
    fn pushed(&self) -> u64 {
        self.pushed()
    }
}

impl<const WORDS: usize> Receiver for Consumer<Frame<WORDS>> {
    #[inline]
    fn peek(&mut self) -> Option<Found<'_>> {
        let frame = self.peek()?;
        let data = &record::bytes_of(frame)[offset_of!(Frame<WORDS>, data)..];
        Some(Found { kind: frame.kind, bytes: data.get(..frame.len as usize) })
    }

    #[inline]
    fn advance(&mut self) {
        if let Some(claim) = self.claim(1) {
            claim.commit();
        }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.is_empty()
    }

    fn is_closed(&self) -> bool {
        self.is_closed()
    }

    #[inline]
    fn popped(&self) -> u64 {
        self.popped()
    }
}

/// Attaches an end of a ring in memory of so many bytes.
type Attach<End> = unsafe fn(NonNull<u8>, usize) -> Result<Box<End>, RecordError>;

/// How to make and attach rings whose slots have one size.
pub(super) struct Class {
    /// Bytes of a slot, its word included.
    pub(super) stride: usize,
    /// Bytes that the ring takes, by its capacity.
    pub(super) required_bytes: fn(usize) -> Result<usize, CapacityError>,
    /// As [`record::create`], [`record::producer`] and [`record::consumer`], whose contracts these have.
    pub(super) create: unsafe fn(NonNull<u8>, usize, usize) -> Result<(), RecordError>,
    pub(super) sender: Attach<dyn Sender>,
    pub(super) receiver: Attach<dyn Receiver>,
}

/// Bytes of a slot that are not the message's: the ring's word, and the frame's length and kind.
const OVERHEAD: usize = 16;

impl Class {
    const fn of<const WORDS: usize>() -> Self {
        Self {
            stride: OVERHEAD + 8 * WORDS,
            required_bytes: record::required_bytes::<Frame<WORDS>>,
            create: record::create::<Frame<WORDS>>,
            sender: |memory, len| {
                // SAFETY: the caller keeps to the contract of `record::producer`, which is this field's.
                Ok(Box::new(unsafe { record::producer::<Frame<WORDS>>(memory, len) }?))
            },
            receiver: |memory, len| {
                // SAFETY: the caller keeps to the contract of `record::consumer`, which is this field's.
                Ok(Box::new(unsafe { record::consumer::<Frame<WORDS>>(memory, len) }?))
            },
        }
    }

    /// The smallest class whose slots have room for messages of so many bytes.
    pub(super) fn for_messages(bytes: usize) -> Option<&'static Self> {
        CLASSES.iter().find(|class| class.slot_size() >= bytes)
    }

    /// The class whose slots are so large.
    pub(super) fn of_stride(stride: usize) -> Option<&'static Self> {
        CLASSES.iter().find(|class| class.stride == stride)
    }

    /// Bytes of the largest message that fits.
    pub(super) const fn slot_size(&self) -> usize {
        self.stride - OVERHEAD
    }
}

/// Slots of 64 bytes to 1 MiB.
static CLASSES: [Class; 15] = [
    Class::of::<6>(),
    Class::of::<14>(),
    Class::of::<30>(),
    Class::of::<62>(),
    Class::of::<126>(),
    Class::of::<254>(),
    Class::of::<510>(),
    Class::of::<1022>(),
    Class::of::<2046>(),
    Class::of::<4094>(),
    Class::of::<8190>(),
    Class::of::<16382>(),
    Class::of::<32766>(),
    Class::of::<65534>(),
    Class::of::<131_070>(),
];

/// Bytes of the largest message that any class has room for.
pub(super) fn largest() -> usize {
    CLASSES[CLASSES.len() - 1].slot_size()
}
