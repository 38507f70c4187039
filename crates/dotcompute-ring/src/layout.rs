//! The memory layout shared by all rings, in owned memory, in memory shared between processes, and in memory shared with a device.
//!
//! ```text
//! byte 0     Header     magic, version, capacity, stride, payload size    written once, by the creator
//!      128   Producer   tail      slots claimed, and the closed bit       written by producers only
//!      256   Consumer   head      slots released                          written by the consumer only
//!      384   Flags      closed    whether an SPSC ring has no consumer    written by the consumer only
//!      512   Slot 0     seq: index + 1 once filled | payload              written by producers only
//!            Slot 1     ...
//! ```
//!
//! Indices are free-running `u64`s: at a billion messages per second they last 584 years. Index `i` is slot `i % capacity`. The slot's
//! sequence tag (`seq`) becomes `i + 1` after the payload is written. A poll that finds a message has therefore already fetched its first
//! cache line. Zeroed memory is an empty ring. The consumer never writes to a slot; producers read `head` to find free slots.
//!
//! # Atomic words, bit by bit
//!
//! All words are in native byte order. Each `SYNC POINT` names the comments on both sides of the handshake.
//!
//! `header.magic`
//! - bits 0-63: 0 while there is no ring, [`MAGIC`] once the header is complete.
//! - Written by the creator, last, with release ([`record::create`](crate::record::create)). Read by an attaching end, first, with acquire.
//!   `SYNC POINT: header publish`.
//!
//! Other fields of `header`
//! - Constant after creation. Written by the creator before `magic`. Read by an attaching end after `magic`, relaxed.
//!
//! `producer.tail` of an MPSC ring
//! - bits 0-62: index of the next slot to claim, which is the number of accepted values. Written by producers with a relaxed
//!   compare-exchange. Read by producers relaxed, by counters and `is_drained` with acquire.
//! - bit 63: [`CLOSED_BIT`]; the ring accepts nothing more. Set by either end with an AcqRel fetch-or, never cleared. Read by a producer's
//!   claim relaxed, by the consumer with acquire. `SYNC POINT: tail close`.
//!
//! `producer.tail` of an SPSC ring
//! - bits 0-62: index of the next slot when the producer attached or was dropped; stale in between.
//! - bit 63: [`CLOSED_BIT`]; the producer was dropped. Cleared when another producer attaches ([`record`](crate::record)).
//! - Both written by the producer, relaxed when it attaches and with release when it is dropped. Read by the consumer with acquire. `SYNC
//!   POINT: tail close`.
//!
//! `consumer.head`
//! - bits 0-63: index of the oldest slot that is not released. [`record`](crate::record) rejects values from 2^62 on.
//! - Written by the consumer with release, after it has read the values out. Read by producers with acquire, before they overwrite a slot.
//!   `SYNC POINT: head publish`.
//!
//! `flags.consumer_closed`
//! - bit 0: an SPSC ring has no consumer. Cleared when another consumer attaches. Unused in an MPSC ring.
//! - bits 1-63: zero. A reader takes any nonzero word as closed.
//! - Written by the consumer and read by the producer, both relaxed: a hint that publishes nothing.
//!
//! `slot.seq`, the sequence tag
//! - bits 0-63: 0 if the slot was never filled; `i + 1` if it was last filled with the value of index `i`. The value is present while `head
//!   <= i`.
//! - Written with release, after the value, by the producer that claimed index `i`. Read by the consumer with acquire, before the value.
//!   `SYNC POINT: slot publish`.
//!
//! In a record ring shared with a device, the device reads and writes the same words with the same orderings, at system scope. The words of
//! waiting are not part of this layout and exist within one process only: see [`notifier`](crate::notifier),
//! [`wait_list`](crate::wait_list), [`reply`](crate::reply) and [`mailbox`](crate::mailbox).

use alloc::alloc::{Layout, handle_alloc_error};
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::error::CapacityError;
use crate::sync::{AtomicU64, Ordering, UnsafeCell};
use crate::zeroed::ZeroedMemory;

/// Distance in bytes between words that different threads write. It is two 64-byte lines, because CPUs prefetch lines in pairs, and one
/// line of CPUs with 128-byte lines.
pub const CACHE_LINE: usize = 128;

/// The first eight bytes of a ring in shared memory: `DCRING` and two zero bytes, little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"DCRING\0\0");

/// The version of this layout.
pub const VERSION: u32 = 1;

/// Bit of `tail` that marks an MPSC ring as closed, or an SPSC ring as without a producer. Indices never reach it.
pub const CLOSED_BIT: u64 = 1 << 63;

/// Describes the ring. Written once, before any other thread, process or device reads the memory.
#[repr(C, align(128))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Distance in bytes from one slot to the next.
    pub stride: u32,
    /// Number of slots; a power of two.
    pub capacity: u64,
    /// Size of a payload in bytes.
    pub payload_size: u32,
    /// Offset in bytes of the payload within a slot.
    pub payload_offset: u32,
}

/// The cache line written by producers.
#[repr(C, align(128))]
pub(crate) struct ProducerLine {
    /// Bits 0-62: next index to claim. Bit 63: [`CLOSED_BIT`]. An SPSC producer writes it only when it attaches and when it is dropped;
    /// between, the sequence tags show its progress.
    pub(crate) tail: AtomicU64,
}

/// The cache line written by the consumer.
#[repr(C, align(128))]
pub(crate) struct ConsumerLine {
    /// Bits 0-63: index of the oldest slot that is not released.
    pub(crate) head: AtomicU64,
}

/// Words that hardly ever change, so that reading them hits the reader's own cache.
#[repr(C, align(128))]
pub(crate) struct FlagsLine {
    /// Bit 0: an SPSC ring has no consumer. (The consumer of an MPSC ring sets [`CLOSED_BIT`].)
    pub(crate) consumer_closed: AtomicU64,
}

/// The control block: everything before the slots.
#[repr(C, align(128))]
pub(crate) struct Control {
    pub(crate) header: Header,
    pub(crate) producer: ProducerLine,
    pub(crate) consumer: ConsumerLine,
    pub(crate) flags: FlagsLine,
}

/// One slot: a sequence tag and a value.
#[repr(C)]
pub(crate) struct Slot<T> {
    /// Bits 0-63: 0, or index + 1 of the value in the slot.
    pub(crate) seq: AtomicU64,
    pub(crate) value: UnsafeCell<MaybeUninit<T>>,
}

impl Header {
    /// The header of a ring of `slots` slots for `T`.
    pub(crate) fn of<T>(slots: usize) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            stride: size_of::<Slot<T>>() as u32,
            capacity: slots as u64,
            payload_size: size_of::<T>() as u32,
            payload_offset: core::mem::offset_of!(Slot<T>, value) as u32,
        }
    }
}

impl Control {
    pub(crate) fn new(header: Header) -> Self {
        Self {
            header,
            producer: ProducerLine { tail: AtomicU64::new(0) },
            consumer: ConsumerLine { head: AtomicU64::new(0) },
            flags: FlagsLine { consumer_closed: AtomicU64::new(0) },
        }
    }
}

#[cfg(not(loom))]
const _: () = {
    assert!(core::mem::offset_of!(Control, producer) == CACHE_LINE);
    assert!(core::mem::offset_of!(Control, consumer) == 2 * CACHE_LINE);
    assert!(core::mem::offset_of!(Control, flags) == 3 * CACHE_LINE);
    assert!(size_of::<Control>() == 4 * CACHE_LINE);
    assert!(core::mem::offset_of!(Slot<[u8; 48]>, value) == 8);
};

/// Returns the number of slots of a ring of `T` with a requested capacity of `messages`: the next power of two.
pub(crate) fn slots_for<T>(messages: usize) -> Result<usize, CapacityError> {
    let slot_bytes = size_of::<Slot<T>>();
    let too_large = CapacityError::TooLarge { messages, slot_bytes };
    if messages == 0 {
        return Err(CapacityError::Zero);
    }
    let slots = messages.checked_next_power_of_two().ok_or(too_large)?;
    let bytes = slots.checked_mul(slot_bytes).ok_or(too_large)?;
    // `Layout` allows at most `isize::MAX` bytes; a quarter of it leaves space for the control block and its alignment.
    if bytes > isize::MAX as usize / 4 { Err(too_large) } else { Ok(slots) }
}

/// Returns the layout of a ring of `slots` slots, and the offset of its first slot. `None` if it exceeds the address space.
pub(crate) fn layout_of<T>(slots: usize) -> Option<(Layout, usize)> {
    let array = Layout::array::<Slot<T>>(slots).and_then(|array| array.align_to(CACHE_LINE)).ok()?;
    Layout::new::<Control>().extend(array).ok()
}

/// The address of a ring. Its owner keeps the [`RingMemory`] that it came from alive.
pub(crate) struct RingRef<T> {
    control: NonNull<Control>,
    slots: NonNull<Slot<T>>,
    mask: u64,
}

impl<T> Clone for RingRef<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RingRef<T> {}

// SAFETY: a `RingRef` is only the address of a ring: atomics, and slots. The producer and consumer built on it pass each value from one
// thread to another, which `T: Send` permits, and never share a `&T` between threads.
unsafe impl<T: Send> Send for RingRef<T> {}
// SAFETY: see the `Send` implementation; shared access reaches the same atomics and slots under the same protocol.
unsafe impl<T: Send> Sync for RingRef<T> {}

impl<T> RingRef<T> {
    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: the control block was initialised before this `RingRef` was created, and its owner keeps the `RingMemory` alive.
        // Everything in it that changes is atomic.
        unsafe { self.control.as_ref() }
    }

    /// Returns the slot of `index`.
    #[inline(always)]
    pub(crate) fn slot(&self, index: u64) -> &Slot<T> {
        // SAFETY: the masked index is below the number of slots in the memory. A slot is an atomic and a cell of `MaybeUninit`, for both of
        // which zeroed memory is valid.
        unsafe { self.slots.add((index & self.mask) as usize).as_ref() }
    }

    #[inline(always)]
    pub(crate) fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// Returns whether the slot of `index` holds that index's value now. Does not make the value readable.
    #[inline(always)]
    pub(crate) fn is_filled(&self, index: u64) -> bool {
        // Relaxed: a hint for prefetching; no value is read because of it.
        self.slot(index).seq.load(Ordering::Relaxed) == index + 1
    }

    /// Returns the address of the slot of `index`, and its size in bytes.
    #[inline(always)]
    pub(crate) fn slot_bytes(&self, index: u64) -> (*const u8, usize) {
        (core::ptr::from_ref(self.slot(index)).cast(), size_of::<Slot<T>>())
    }
}

/// A ring of more bytes that cannot be allocated is an error of the caller, not a reason to abort.
const FALLIBLE_BYTES: usize = 1 << 24;

/// The memory of a ring. Owned memory is one zeroed block of a control block and slots, whose pages cost nothing before a message touches
/// them. Borrowed memory belongs to the caller.
pub(crate) struct RingMemory<T> {
    ring_ref: RingRef<T>,
    /// `None` if the memory is borrowed.
    owned: Option<ZeroedMemory>,
}

impl<T> RingMemory<T> {
    /// Allocates memory for `slots` slots (from [`slots_for`]).
    pub(crate) fn new(slots: usize) -> Result<Self, CapacityError> {
        let too_large = CapacityError::TooLarge { messages: slots, slot_bytes: size_of::<Slot<T>>() };
        let (layout, offset) = layout_of::<T>(slots).ok_or(too_large)?;
        let memory = match ZeroedMemory::new(layout) {
            Some(memory) => memory,
            None if layout.size() > FALLIBLE_BYTES => return Err(too_large),
            None => handle_alloc_error(layout),
        };
        let base = memory.as_ptr();
        let control = base.cast::<Control>();
        // SAFETY: the allocation is large enough and aligned for a `Control`, and no other thread has its address yet.
        unsafe { control.write(Control::new(Header::of::<T>(slots))) };
        // SAFETY: `layout_of` computed `offset` within the allocation.
        let first = unsafe { base.add(offset) }.cast::<Slot<T>>();
        // Loom's atomics are not plain zeros. The real ones are, and the memory is already zeroed.
        #[cfg(loom)]
        for index in 0..slots {
            let slot = Slot { seq: AtomicU64::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) };
            // SAFETY: `index` is below the number of slots of the layout, and no other thread has the address yet.
            unsafe { first.add(index).write(slot) };
        }
        Ok(Self { ring_ref: RingRef { control, slots: first, mask: slots as u64 - 1 }, owned: Some(memory) })
    }

    /// Checks that memory for `slots` slots (from [`slots_for`]) is available, by allocating it if that may fail. No page is touched.
    #[cfg(feature = "std")]
    pub(crate) fn check_available(slots: usize) -> Result<(), CapacityError> {
        let too_large = CapacityError::TooLarge { messages: slots, slot_bytes: size_of::<Slot<T>>() };
        let (layout, _) = layout_of::<T>(slots).ok_or(too_large)?;
        if layout.size() > FALLIBLE_BYTES {
            ZeroedMemory::new(layout).map(drop).ok_or(too_large)
        } else {
            Ok(())
        }
    }

    /// Uses memory that the caller owns and that contains a ring of `slots` slots.
    ///
    /// # Safety
    ///
    /// An initialised control block is at `base`, aligned to [`CACHE_LINE`], followed by the slots as [`layout_of`] describes. The slots
    /// are zeroed or were written by a ring of the same layout. The memory outlives every [`RingRef`] to it, and all its users follow the
    /// protocol of the ring.
    #[cfg(not(loom))]
    pub(crate) unsafe fn borrowed(base: NonNull<u8>, slots: usize) -> Self {
        debug_assert!(slots.is_power_of_two());
        // SAFETY: by the contract of this function the slots begin where the control block ends, within the memory.
        let first = unsafe { base.add(size_of::<Control>()) }.cast::<Slot<T>>();
        Self { ring_ref: RingRef { control: base.cast(), slots: first, mask: slots as u64 - 1 }, owned: None }
    }

    #[inline(always)]
    pub(crate) fn ring_ref(&self) -> RingRef<T> {
        self.ring_ref
    }

    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        self.ring_ref.control()
    }

    /// Returns the slot of `index`.
    #[inline(always)]
    pub(crate) fn slot(&self, index: u64) -> &Slot<T> {
        self.ring_ref.slot(index)
    }

    #[inline(always)]
    pub(crate) fn capacity(&self) -> u64 {
        self.ring_ref.capacity()
    }
}

impl<T> Drop for RingMemory<T> {
    fn drop(&mut self) {
        if self.owned.is_none() {
            return;
        }
        let RingRef { control, slots: _slots, .. } = self.ring_ref;
        #[cfg(loom)]
        for index in 0..self.capacity() {
            // SAFETY: `new` wrote the slot, and `&mut self` is the last access to the ring. Loom checks its atomics on drop.
            unsafe { _slots.add(index as usize).drop_in_place() };
        }
        // SAFETY: `new` wrote the control block, and it is dropped once, before `owned` frees the memory. The ring has already dropped the
        // values left in slots.
        unsafe { control.drop_in_place() };
    }
}
