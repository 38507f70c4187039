//! The one memory layout of all rings, in whatever memory they live.
//!
//! ```text
//! byte 0     Header     magic, version, capacity, stride, payload size: written once
//!      128   Producer   tail      what has been claimed, ever         written by producers only
//!      256   Consumer   head      what has been taken, ever           written by the consumer only
//!      384   Rare       closed    whether an SPSC consumer is gone    written by the consumer, once
//!      512   Slot 0     seq: index + 1 once filled | payload        written by producers only
//!            Slot 1     ...
//! ```
//!
//! Tickets are `u64` and only grow: at a billion messages a second they last 584 years. Ticket `t` lives in slot `t % capacity`, and
//! the slot's word becomes `t + 1` after its payload is written: a poll that finds a message has its first cache line already.
//! Memory full of zeros is an empty ring. The consumer never writes to a slot; producers learn from `head` what is free.

use alloc::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::error::CapacityError;
use crate::sync::{AtomicU64, Ordering, UnsafeCell};

/// Bytes between words that different threads write: two 64-byte lines, since processors fetch lines in pairs, and one line of
/// those that have 128-byte lines.
pub const CACHE_LINE: usize = 128;

/// The first eight bytes of a ring in shared memory: `DCRING` and two zeros, little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"DCRING\0\0");

/// The version of this layout.
pub const VERSION: u32 = 1;

/// Set in `tail` by whoever closes an MPSC ring; no ticket ever gets so large.
pub const CLOSED_BIT: u64 = 1 << 63;

/// Says what the ring is. Written once, before anybody else sees the memory.
#[repr(C, align(128))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Header {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`VERSION`].
    pub version: u32,
    /// Bytes from one slot to the next.
    pub stride: u32,
    /// Slots; a power of two.
    pub capacity: u64,
    /// Bytes of a payload.
    pub payload_size: u32,
    /// Where in a slot the payload begins.
    pub payload_offset: u32,
}

/// The producers' line.
#[repr(C, align(128))]
pub(crate) struct ProducerLine {
    /// With [`CLOSED_BIT`] in it, no more is coming. The producer of an SPSC ring writes it only then, and the words say how far it is.
    pub(crate) tail: AtomicU64,
}

/// The consumer's line.
#[repr(C, align(128))]
pub(crate) struct ConsumerLine {
    pub(crate) head: AtomicU64,
}

/// What hardly ever changes, so that looking at it costs nothing.
#[repr(C, align(128))]
pub(crate) struct FlagsLine {
    /// Not zero while an SPSC ring has no consumer. (Of an MPSC ring, the consumer sets [`CLOSED_BIT`].)
    pub(crate) consumer_closed: AtomicU64,
}

/// Everything before the slots.
#[repr(C, align(128))]
pub(crate) struct Control {
    pub(crate) header: Header,
    pub(crate) producer: ProducerLine,
    pub(crate) consumer: ConsumerLine,
    pub(crate) flags: FlagsLine,
}

/// A place for one message.
#[repr(C)]
pub(crate) struct Slot<T> {
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

/// The slots of a ring of `T` that asks for room for `messages`: a power of two.
pub(crate) fn slots_for<T>(messages: usize) -> Result<usize, CapacityError> {
    let slot_bytes = size_of::<Slot<T>>();
    let too_large = CapacityError::TooLarge { messages, slot_bytes };
    if messages == 0 {
        return Err(CapacityError::Zero);
    }
    let slots = messages.checked_next_power_of_two().ok_or(too_large)?;
    let bytes = slots.checked_mul(slot_bytes).ok_or(too_large)?;
    // `Layout` allows no more than isize::MAX; a quarter of it leaves room for the control block and its alignment.
    if bytes > isize::MAX as usize / 4 { Err(too_large) } else { Ok(slots) }
}

/// Where a ring of `slots` slots begins its slots, and how it is to be aligned: its whole layout. None if it cannot be addressed.
pub(crate) fn layout_of<T>(slots: usize) -> Option<(Layout, usize)> {
    let array = Layout::array::<Slot<T>>(slots).and_then(|array| array.align_to(CACHE_LINE)).ok()?;
    Layout::new::<Control>().extend(array).ok()
}

/// Where a ring is. Whoever has one sees to it that the [`RingMemory`] it came from stays.
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

// SAFETY: a `RingRef` is only the address of a ring: atomics, and slots whose values are handed from one thread to another by the
// protocol of the ends built on it. A `T: Send` may be so handed; no `&T` is ever shared between threads.
unsafe impl<T: Send> Send for RingRef<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for RingRef<T> {}

impl<T> RingRef<T> {
    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: initialised before the view was made, and kept by whoever has the view; all that changes in it is atomic.
        unsafe { self.control.as_ref() }
    }

    /// The slot of a ticket.
    #[inline(always)]
    pub(crate) fn slot(&self, index: u64) -> &Slot<T> {
        // SAFETY: the masked index is below the number of slots that there is memory for; a slot's fields are an atomic and a cell,
        // for which zeroed memory is valid.
        unsafe { self.slots.add((index & self.mask) as usize).as_ref() }
    }

    #[inline(always)]
    pub(crate) fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// Whether the slot of a ticket holds that ticket's value at this moment. Says nothing that a value may be read by.
    #[inline(always)]
    pub(crate) fn is_filled(&self, index: u64) -> bool {
        // Relaxed: nothing is read on the strength of it.
        self.slot(index).seq.load(Ordering::Relaxed) == index + 1
    }

    /// Where the slot of a ticket is, and its bytes.
    #[inline(always)]
    pub(crate) fn slot_bytes(&self, index: u64) -> (*const u8, usize) {
        (core::ptr::from_ref(self.slot(index)).cast(), size_of::<Slot<T>>())
    }
}

/// A ring's memory. Either its own: one zeroed allocation of a control block and slots, of which pages that no message has touched
/// cost nothing where the allocator gets zeroed pages from the operating system. Or somebody else's.
pub(crate) struct RingMemory<T> {
    ring_ref: RingRef<T>,
    owned: bool,
}

impl<T> RingMemory<T> {
    /// Memory for `slots` slots (from [`slots_for`]).
    pub(crate) fn new(slots: usize) -> Result<Self, CapacityError> {
        let too_large = CapacityError::TooLarge { messages: slots, slot_bytes: size_of::<Slot<T>>() };
        let (layout, offset) = layout_of::<T>(slots).ok_or(too_large)?;
        // SAFETY: the layout is not of size zero: it holds a control block.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            if layout.size() > 1 << 24 {
                // Too much was asked for; that is the caller's to know.
                return Err(too_large);
            }
            handle_alloc_error(layout)
        };
        let control = base.cast::<Control>();
        // SAFETY: the block is large enough and aligned for a `Control`, and nobody else has its address yet.
        unsafe { control.write(Control::new(Header::of::<T>(slots))) };
        // SAFETY: `offset` is within the allocation, by `layout_of`.
        let first = unsafe { base.add(offset) }.cast::<Slot<T>>();
        // Loom's atomics are not plain zeros; real ones are, and the memory is zeroed already.
        #[cfg(loom)]
        for index in 0..slots {
            let slot = Slot { seq: AtomicU64::new(0), value: UnsafeCell::new(MaybeUninit::uninit()) };
            // SAFETY: as for the control block; `index` is below the number of slots the layout was made for.
            unsafe { first.add(index).write(slot) };
        }
        Ok(Self { ring_ref: RingRef { control, slots: first, mask: slots as u64 - 1 }, owned: true })
    }

    /// Memory that is somebody else's, with a ring of `slots` slots in it.
    ///
    /// # Safety
    ///
    /// There is an initialised control block at `base`, aligned to [`CACHE_LINE`], with the slots after it as [`layout_of`] says; slots are
    /// zeroed or were written by a ring of the same layout. The memory outlives every view of it, and all who use it meanwhile use it
    /// as a ring.
    #[cfg(not(loom))]
    pub(crate) unsafe fn borrowed(base: NonNull<u8>, slots: usize) -> Self {
        debug_assert!(slots.is_power_of_two());
        // SAFETY: within the memory, by the contract above: the slots begin where the control block ends.
        let first = unsafe { base.add(size_of::<Control>()) }.cast::<Slot<T>>();
        Self {
            ring_ref: RingRef { control: base.cast(), slots: first, mask: slots as u64 - 1 },
            owned: false,
        }
    }

    #[inline(always)]
    pub(crate) fn ring_ref(&self) -> RingRef<T> {
        self.ring_ref
    }

    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        self.ring_ref.control()
    }

    /// The slot of a ticket.
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
        if !self.owned {
            return;
        }
        let RingRef { control, slots: _slots, .. } = self.ring_ref;
        let (layout, _) =
            layout_of::<T>(self.capacity() as usize).expect("`new` has made this layout before");
        #[cfg(loom)]
        for index in 0..self.capacity() {
            // SAFETY: written by `new`; nobody else has the ring any more. Loom checks its atomics when they are dropped.
            unsafe { _slots.add(index as usize).drop_in_place() };
        }
        // SAFETY: written by `new`, dropped once. Values still in slots were dropped by the ring before.
        unsafe { control.drop_in_place() };
        // SAFETY: allocated by `new` with this very layout.
        unsafe { dealloc(control.as_ptr().cast(), layout) };
    }
}
