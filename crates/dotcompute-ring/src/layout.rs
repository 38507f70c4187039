//! The one memory layout of all rings, in whatever memory they live.
//!
//! ```text
//! byte 0     Header     magic, version, capacity, stride, payload size: written once
//!      128   Producer   tail      what has been claimed, ever         written by producers only
//!      256   Consumer   head      what has been taken, ever           written by the consumer only
//!      384   Waiting    words for parked peers                        written rarely
//!      512   Slot 0     word: ticket + 1 once filled | payload        written by producers only
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
use crate::sync::{AtomicU64, UnsafeCell};

/// Bytes between words that different threads write: two 64-byte lines, since processors fetch lines in pairs, and one line of
/// those that have 128-byte lines.
pub const LINE: usize = 128;

/// The first eight bytes of a ring in shared memory: `DCRING` and two zeros, little endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"DCRING\0\0");

/// The version of this layout.
pub const VERSION: u32 = 1;

/// Set in `tail` by whoever closes an MPSC ring; no ticket ever gets so large.
pub const CLOSED: u64 = 1 << 63;

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
    pub(crate) tail: AtomicU64,
    /// Not zero once an SPSC producer is gone.
    pub(crate) closed: AtomicU64,
}

/// The consumer's line.
#[repr(C, align(128))]
pub(crate) struct ConsumerLine {
    pub(crate) head: AtomicU64,
    /// Not zero once the consumer is gone.
    pub(crate) closed: AtomicU64,
}

/// Everything before the slots.
#[repr(C, align(128))]
pub(crate) struct Control {
    pub(crate) header: Header,
    pub(crate) producer: ProducerLine,
    pub(crate) consumer: ConsumerLine,
    pub(crate) waiting: WaitingLine,
}

/// Room for the words of parked peers in rings that cross processes.
#[repr(C, align(128))]
pub(crate) struct WaitingLine {
    pub(crate) consumer: AtomicU64,
    pub(crate) producer: AtomicU64,
}

/// A place for one message.
#[repr(C)]
pub(crate) struct Slot<T> {
    pub(crate) word: AtomicU64,
    pub(crate) value: UnsafeCell<MaybeUninit<T>>,
}

impl Control {
    pub(crate) fn new(header: Header) -> Self {
        Self {
            header,
            producer: ProducerLine { tail: AtomicU64::new(0), closed: AtomicU64::new(0) },
            consumer: ConsumerLine { head: AtomicU64::new(0), closed: AtomicU64::new(0) },
            waiting: WaitingLine { consumer: AtomicU64::new(0), producer: AtomicU64::new(0) },
        }
    }
}

#[cfg(not(loom))]
const _: () = {
    assert!(core::mem::offset_of!(Control, producer) == LINE);
    assert!(core::mem::offset_of!(Control, consumer) == 2 * LINE);
    assert!(core::mem::offset_of!(Control, waiting) == 3 * LINE);
    assert!(size_of::<Control>() == 4 * LINE);
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

/// A ring's memory, owned: one zeroed allocation of a control block and slots. Pages that no message has touched cost nothing
/// where the allocator gets zeroed pages from the operating system.
pub(crate) struct Memory<T> {
    control: NonNull<Control>,
    slots: NonNull<Slot<T>>,
    mask: u64,
}

// SAFETY: `Memory` is only the address of a ring: atomics, and slots whose values are handed from one thread to another by the
// protocol of the ends built on it. A `T: Send` may be so handed; no `&T` is ever shared between threads.
unsafe impl<T: Send> Send for Memory<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Memory<T> {}

impl<T> Memory<T> {
    /// Memory for `slots` slots (from [`slots_for`]).
    pub(crate) fn new(slots: usize) -> Result<Self, CapacityError> {
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            stride: size_of::<Slot<T>>() as u32,
            capacity: slots as u64,
            payload_size: size_of::<T>() as u32,
            payload_offset: (size_of::<Slot<T>>() - size_of::<T>()) as u32,
        };
        let (layout, offset) = Self::layout(slots);
        // SAFETY: the layout is not of size zero: it holds a control block.
        let Some(base) = NonNull::new(unsafe { alloc_zeroed(layout) }) else {
            if layout.size() > 1 << 24 {
                // Too much was asked for; that is the caller's to know.
                return Err(CapacityError::TooLarge { messages: slots, slot_bytes: size_of::<Slot<T>>() });
            }
            handle_alloc_error(layout)
        };
        let control = base.cast::<Control>();
        // SAFETY: `offset` is within the allocation, by `layout`.
        let first = unsafe { base.add(offset) }.cast::<Slot<T>>();
        // SAFETY: the block is large enough and aligned for a `Control`, and nobody else has its address yet.
        unsafe { control.write(Control::new(header)) };
        // Loom's atomics are not plain zeros; real ones are, and the memory is zeroed already.
        #[cfg(loom)]
        for index in 0..slots {
            // SAFETY: as for the control block; `index` is below the number of slots the layout was made for.
            unsafe {
                first.add(index).write(Slot {
                    word: AtomicU64::new(0),
                    value: UnsafeCell::new(MaybeUninit::uninit()),
                });
            }
        }
        Ok(Self { control, slots: first, mask: slots as u64 - 1 })
    }

    fn layout(slots: usize) -> (Layout, usize) {
        let array = Layout::array::<Slot<T>>(slots).and_then(|array| array.align_to(LINE));
        let whole = array.and_then(|array| Layout::new::<Control>().extend(array));
        whole.expect("`slots_for` has bounded the size")
    }

    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: written by `new`, freed only by `drop`; all that changes in it is atomic.
        unsafe { self.control.as_ref() }
    }

    /// The slot of a ticket.
    #[inline(always)]
    pub(crate) fn slot(&self, ticket: u64) -> &Slot<T> {
        // SAFETY: the masked index is below the number of slots allocated; a slot's fields are an atomic and a cell, for
        // which zeroed memory is valid.
        unsafe { self.slots.add((ticket & self.mask) as usize).as_ref() }
    }

    #[inline(always)]
    pub(crate) fn capacity(&self) -> u64 {
        self.mask + 1
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        let (layout, _) = Self::layout(self.capacity() as usize);
        #[cfg(loom)]
        for index in 0..self.capacity() {
            // SAFETY: written by `new`; nobody else has the ring any more. Loom checks its atomics when they are dropped.
            unsafe { self.slots.add(index as usize).drop_in_place() };
        }
        // SAFETY: written by `new`, dropped once. Values still in slots were dropped by the end that went last.
        unsafe { self.control.drop_in_place() };
        // SAFETY: allocated by `new` with this very layout.
        unsafe { dealloc(self.control.as_ptr().cast(), layout) };
    }
}
