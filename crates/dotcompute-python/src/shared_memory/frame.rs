//! Messages as records: length and bytes, in slots of one of a few sizes.
//!
//! The ring takes records whose size is known at compile time, but the slot size of a queue is chosen at run time. So there is one slot
//! class for each power of two, and the endpoints of a class are trait objects.

use std::mem::offset_of;
use std::ptr::NonNull;

use dotcompute_ring::record::{self, Record, RecordError};
use dotcompute_ring::spsc::{Consumer, Producer};
use dotcompute_ring::{CapacityError, PushError};

/// The record in a slot.
#[derive(Clone, Copy)]
#[repr(C)]
struct Frame<const WORDS: usize> {
    /// Number of bytes used in `data`.
    len: u32,
    /// Kind of the message, which the ring does not interpret.
    kind: u32,
    data: [u64; WORDS],
}

// SAFETY: `repr(C)` with two `u32` and then `u64`s: no padding, no pointers, and every bit pattern is a valid value.
unsafe impl<const WORDS: usize> Record for Frame<WORDS> {}

/// A message in its slot.
pub(super) struct FrameRef<'a> {
    pub(super) kind: u32,
    /// `None` if the length exceeds the slot, which means that the queue is damaged.
    pub(super) bytes: Option<&'a [u8]>,
}

/// The producer endpoint of any slot class.
pub(super) trait Sender: Send {
    /// Pushes a message, which must fit into a slot.
    fn put(&mut self, kind: u32, bytes: &[u8]) -> Result<(), PushError<()>>;
    /// Returns whether there is a free slot.
    fn has_free_slot(&self) -> bool;
    /// Returns whether the consumer has closed the ring.
    fn is_closed(&self) -> bool;
    /// Number of messages ever pushed.
    fn pushed(&self) -> u64;
}

/// The consumer endpoint of any slot class.
pub(super) trait Receiver: Send {
    /// Returns the oldest message without removing it.
    fn peek(&mut self) -> Option<FrameRef<'_>>;
    /// Releases the slot of the oldest message.
    fn advance(&mut self);
    fn is_empty(&self) -> bool;
    /// Returns whether the producer has closed the ring.
    fn is_closed(&self) -> bool;
    /// Number of messages ever popped.
    fn popped(&self) -> u64;
}

impl<const WORDS: usize> Sender for Producer<Frame<WORDS>> {
    #[inline]
    fn put(&mut self, kind: u32, bytes: &[u8]) -> Result<(), PushError<()>> {
        assert!(
            bytes.len() <= 8 * WORDS,
            "pushing a message: it is larger than a slot; the caller must check its size"
        );
        let mut claim = self.claim(1)?;
        let write = |slot: &mut std::mem::MaybeUninit<Frame<WORDS>>| {
            let frame = slot.as_mut_ptr();
            // SAFETY: `frame` points to a whole frame, and the assertion ensures that the bytes fit into `data`. `bytes` is a Rust slice
            // outside the ring, so they do not overlap. Writes go through raw pointers, since the slot may be uninitialized.
            unsafe {
                (&raw mut (*frame).len).write(bytes.len() as u32);
                (&raw mut (*frame).kind).write(kind);
                let data = frame.cast::<u8>().add(offset_of!(Frame<WORDS>, data));
                data.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            }
        };
        // SAFETY: `write` leaves the bytes after the message as they were: zeroed at creation, or bytes of an earlier message. So the frame
        // is initialized, and every bit pattern of it is valid.
        unsafe { claim.write_in_place(write) };
        claim.commit();
        Ok(())
    }

    fn has_free_slot(&self) -> bool {
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
    fn peek(&mut self) -> Option<FrameRef<'_>> {
        let frame = self.peek()?;
        let data = &record::bytes_of(frame)[offset_of!(Frame<WORDS>, data)..];
        Some(FrameRef { kind: frame.kind, bytes: data.get(..frame.len as usize) })
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

/// Attaches an endpoint of a ring: the memory and its size in bytes.
type Attach<Endpoint> = unsafe fn(NonNull<u8>, usize) -> Result<Box<Endpoint>, RecordError>;

/// Functions that create and attach rings with one slot size.
pub(super) struct SlotClass {
    /// Size of a slot in bytes, including its sequence tag.
    pub(super) stride: usize,
    /// Returns the size of a ring in bytes, by capacity.
    pub(super) required_bytes: fn(usize) -> Result<usize, CapacityError>,
    /// [`record::create`], [`record::producer`] and [`record::consumer`], with their contracts.
    pub(super) create: unsafe fn(NonNull<u8>, usize, usize) -> Result<(), RecordError>,
    pub(super) sender: Attach<dyn Sender>,
    pub(super) receiver: Attach<dyn Receiver>,
}

/// Bytes of a slot besides the message: sequence tag, length and kind.
const OVERHEAD: usize = 16;

impl SlotClass {
    const fn of<const WORDS: usize>() -> Self {
        Self {
            stride: OVERHEAD + 8 * WORDS,
            required_bytes: record::required_bytes::<Frame<WORDS>>,
            create: record::create::<Frame<WORDS>>,
            sender: |memory, len| {
                // SAFETY: the caller upholds the contract of `record::producer`, which is the contract of this field.
                Ok(Box::new(unsafe { record::producer::<Frame<WORDS>>(memory, len) }?))
            },
            receiver: |memory, len| {
                // SAFETY: the caller upholds the contract of `record::consumer`, which is the contract of this field.
                Ok(Box::new(unsafe { record::consumer::<Frame<WORDS>>(memory, len) }?))
            },
        }
    }

    /// Returns the smallest class whose slots hold messages of `bytes` bytes.
    pub(super) fn for_messages(bytes: usize) -> Option<&'static Self> {
        SLOT_CLASSES.iter().find(|class| class.slot_size() >= bytes)
    }

    /// Returns the class with this slot size, including the overhead.
    pub(super) fn of_stride(stride: usize) -> Option<&'static Self> {
        SLOT_CLASSES.iter().find(|class| class.stride == stride)
    }

    /// Size of the largest message, in bytes.
    pub(super) const fn slot_size(&self) -> usize {
        self.stride - OVERHEAD
    }
}

/// Slots from 64 bytes to 1 MiB.
static SLOT_CLASSES: [SlotClass; 15] = [
    SlotClass::of::<6>(),
    SlotClass::of::<14>(),
    SlotClass::of::<30>(),
    SlotClass::of::<62>(),
    SlotClass::of::<126>(),
    SlotClass::of::<254>(),
    SlotClass::of::<510>(),
    SlotClass::of::<1022>(),
    SlotClass::of::<2046>(),
    SlotClass::of::<4094>(),
    SlotClass::of::<8190>(),
    SlotClass::of::<16382>(),
    SlotClass::of::<32766>(),
    SlotClass::of::<65534>(),
    SlotClass::of::<131_070>(),
];

/// Size of the largest message of any class, in bytes.
pub(super) fn max_slot_size() -> usize {
    SLOT_CLASSES[SLOT_CLASSES.len() - 1].slot_size()
}
