//! Single-producer, single-consumer ring: wait-free, bounded, first in first out.
//!
//! The producer writes a slot and then its sequence tag, and nothing else. The consumer polls the tag of its next slot, and writes `head`.
//! The producer reads `head` only when the ring looks full by the value it read last. It does not publish its tail, which would cost a
//! store to a second cache line per message. [`Consumer::len`] finds the tail from the sequence tags.
//!
//! Both ends can claim many slots at once. [`Producer::claim`] writes values in place and publishes them together; [`Consumer::claim`]
//! reads them in place and releases the slots together. A slot that was claimed and not used stays as it was.
//!
//! Neither end waits, but for short pauses of a consumer that is faster than its producer. For waiting see [`wait`](crate::wait), and [`mailbox`](crate::mailbox) for waiting on both sides.
//!
//! ```
//! use dotcompute_ring::{PushError, spsc};
//!
//! let (mut producer, mut consumer) = spsc::channel(2)?;
//! producer.try_push("a")?;
//! producer.try_push("b")?;
//! assert_eq!(producer.try_push("c"), Err(PushError::Full("c")));
//! assert_eq!(consumer.try_pop(), Some("a"));
//! drop(producer);
//! assert_eq!(consumer.try_pop(), Some("b"));
//! assert!(consumer.is_drained());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod claim;

use alloc::sync::Arc;
use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;

use crate::error::{CapacityError, PushError};
use crate::layout::{CLOSED_BIT, RingMemory, RingRef, slots_for};
use crate::pacing::Pacer;
use crate::prefetch::{self, ReadPrefetcher};
use crate::sync::Ordering;

pub use claim::{ClaimedRead, ClaimedWrite, Iter};

/// Creates a ring with at least `capacity` slots, rounded up to a power of two.
///
/// # Errors
///
/// [`CapacityError`] if the capacity is zero or the memory is not available.
///
/// ```
/// use dotcompute_ring::{CapacityError, spsc};
///
/// let (producer, _consumer) = spsc::channel::<u64>(5)?;
/// assert_eq!(producer.capacity(), 8);
/// assert_eq!(spsc::channel::<u64>(0).err(), Some(CapacityError::Zero));
/// # Ok::<(), CapacityError>(())
/// ```
pub fn channel<T: Send>(capacity: usize) -> Result<(Producer<T>, Consumer<T>), CapacityError> {
    let memory = RingMemory::new(slots_for::<T>(capacity)?)?;
    let ring = Arc::new(Ring { memory });
    Ok((Producer::new(Arc::clone(&ring)), Consumer::new(ring)))
}

/// Attaches a producer to the ring in `memory`, and reopens the ring if an earlier producer has closed it.
#[cfg(not(loom))]
pub(crate) fn producer_in<T: Send>(memory: RingMemory<T>) -> Producer<T> {
    let producer = Producer::new(Arc::new(Ring { memory }));
    // Relaxed: clears `CLOSED_BIT`, which promises only that more values may follow.
    producer.ring_ref.control().producer.tail.store(producer.tail, Ordering::Relaxed);
    producer
}

/// Attaches a consumer to the ring in `memory`, and reopens the ring if an earlier consumer has closed it.
#[cfg(not(loom))]
pub(crate) fn consumer_in<T: Send>(memory: RingMemory<T>) -> Consumer<T> {
    let consumer = Consumer::new(Arc::new(Ring { memory }));
    consumer.ring_ref.control().flags.consumer_closed.store(0, Ordering::Relaxed);
    consumer
}

/// The memory shared by both ends; the end that is dropped last drops the remaining values.
struct Ring<T> {
    memory: RingMemory<T>,
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        if !core::mem::needs_drop::<T>() {
            return;
        }
        let mut head = self.memory.control().consumer.head.load(Ordering::Relaxed);
        // Relaxed: both ends are dropped, and the reference count of the `Arc` orders their accesses before this one.
        while self.memory.slot(head).seq.load(Ordering::Relaxed) == head + 1 {
            self.memory.slot(head).value.with_mut(|storage| {
                // SAFETY: the sequence tag shows that the slot was filled, and `head` that it was not read out. `&mut self` excludes all
                // other accesses.
                unsafe { (*storage).assume_init_drop() };
            });
            head += 1;
        }
    }
}

/// Returns the first index from `head` on whose slot is not filled. Slots are filled in order, so a binary search finds it.
fn first_unfilled<T>(ring_ref: RingRef<T>, head: u64) -> u64 {
    let (mut filled, mut beyond) = (0, ring_ref.capacity() + 1);
    while filled + 1 < beyond {
        let count = filled.midpoint(beyond);
        let index = head + count - 1;
        // SYNC POINT: slot publish
        // Acquire: pairs with the release store in `Producer::publish`, so that a consumer may read the values found here.
        if ring_ref.slot(index).seq.load(Ordering::Acquire) == index + 1 {
            filled = count;
        } else {
            beyond = count;
        }
    }
    head + filled
}

/// The producing end of an SPSC ring. Dropping it closes the ring; the consumer can still pop the remaining values.
// Aligned so that the indices of two adjacent ends, as on the stack after `channel` returns, do not share a cache line.
#[repr(align(128))]
pub struct Producer<T> {
    ring_ref: RingRef<T>,
    /// The next index.
    tail: u64,
    /// The first index without a free slot, by the last read of `head`.
    limit: u64,
    /// Whether the consumer was far behind at that read. Then the slots come from another core's cache, and prefetching them pays.
    prefetch_enabled: bool,
    ring: Arc<Ring<T>>,
    /// Makes the end `!Sync`: one thread uses it at a time, which claims rely on.
    not_sync: PhantomData<Cell<()>>,
}

impl<T> Producer<T> {
    fn new(ring: Arc<Ring<T>>) -> Self {
        let ring_ref = ring.memory.ring_ref();
        let tail = first_unfilled(ring_ref, ring_ref.control().consumer.head.load(Ordering::Acquire));
        // No free slots by this limit: the first push reads `head`.
        Self { ring_ref, tail, limit: tail, prefetch_enabled: false, ring, not_sync: PhantomData }
    }

    /// Returns the number of free slots. It is at least `wanted` if that many are free.
    #[inline]
    fn free_slots(&mut self, wanted: u64) -> u64 {
        let free_slots = self.limit - self.tail;
        if free_slots >= wanted { free_slots } else { self.reload_head() }
    }

    #[inline]
    fn reload_head(&mut self) -> u64 {
        // SYNC POINT: head publish
        // Acquire: pairs with the release store in `Consumer::release_slots`; the consumer has finished reading the slots before this
        // `head`.
        let head = self.ring_ref.control().consumer.head.load(Ordering::Acquire);
        // In shared memory the other side may write any `head`; no value of it may yield more free slots than the ring has.
        let free_slots = self.ring_ref.capacity().saturating_sub(self.tail.wrapping_sub(head));
        self.limit = self.tail + free_slots;
        let distance = prefetch::distance(self.ring_ref.capacity());
        self.prefetch_enabled = distance > 0 && self.ring_ref.capacity() - free_slots >= distance;
        free_slots
    }

    /// Prefetches the slot some pushes after `index`, if it is free.
    #[inline]
    fn prefetch_ahead(&self, index: u64) {
        if self.prefetch_enabled {
            let ahead = index + prefetch::distance(self.ring_ref.capacity());
            if ahead < self.limit {
                prefetch::prefetch_for_write(self.ring_ref, ahead);
            }
        }
    }

    /// Pushes a value.
    ///
    /// # Errors
    ///
    /// [`PushError`] with the value: the ring is full, or its consumer was dropped.
    ///
    /// ```
    /// use dotcompute_ring::{PushError, spsc};
    ///
    /// let (mut producer, consumer) = spsc::channel(1)?;
    /// producer.try_push(1)?;
    /// assert_eq!(producer.try_push(2), Err(PushError::Full(2)));
    /// drop(consumer);
    /// assert_eq!(producer.try_push(2), Err(PushError::Closed(2)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn try_push(&mut self, value: T) -> Result<(), PushError<T>> {
        if self.is_closed() {
            return Err(PushError::Closed(value));
        }
        if self.free_slots(1) == 0 {
            return Err(PushError::Full(value));
        }
        let index = self.tail;
        self.prefetch_ahead(index);
        self.ring_ref.slot(index).value.with_mut(|storage| {
            // SAFETY: the slot of this index is free: the consumer has read its previous value, and reads it again only after the sequence
            // tag is stored. There is one producer, and `&mut self` excludes other calls.
            unsafe { (*storage).write(value) };
        });
        self.publish(1);
        Ok(())
    }

    /// Publishes the next `count` slots, which have been written.
    #[inline]
    fn publish(&mut self, count: u64) {
        let end = self.tail + count;
        for index in self.tail..end {
            // SYNC POINT: slot publish
            // Release: pairs with the acquire loads in `Consumer::is_ready` and `first_unfilled`; publishes the value. Each slot has its
            // own store because the consumer may poll any of them first.
            self.ring_ref.slot(index).seq.store(index + 1, Ordering::Release);
        }
        self.tail = end;
    }

    /// Returns whether the consumer was dropped.
    #[inline]
    #[must_use]
    pub fn is_closed(&self) -> bool {
        // Relaxed: a flag that publishes nothing.
        self.ring_ref.control().flags.consumer_closed.load(Ordering::Relaxed) != 0
    }

    /// Returns the number of values in the ring.
    #[must_use]
    pub fn len(&self) -> usize {
        let head = self.ring_ref.control().consumer.head.load(Ordering::Relaxed);
        self.tail.wrapping_sub(head).min(self.ring_ref.capacity()) as usize
    }

    /// Returns whether the ring is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of slots.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring_ref.capacity() as usize
    }

    /// Returns the number of values pushed in total.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.tail
    }

    /// Returns the number of slots released in total. The consumer's writes before it released them are visible after this call.
    #[must_use]
    pub fn popped(&self) -> u64 {
        // SYNC POINT: head publish
        // Acquire: pairs with the release store in `Consumer::release_slots`.
        self.ring_ref.control().consumer.head.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // SYNC POINT: tail close
        // Release: pairs with the acquire loads in `Consumer::is_closed` and `is_drained`; publishes every sequence tag stored before.
        self.ring.memory.control().producer.tail.store(self.tail | CLOSED_BIT, Ordering::Release);
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

/// The consuming end of an SPSC ring. Dropping it closes the ring: nothing more is accepted.
#[repr(align(128))]
pub struct Consumer<T> {
    ring_ref: RingRef<T>,
    /// The next index.
    head: u64,
    prefetcher: ReadPrefetcher,
    pacer: Pacer,
    ring: Arc<Ring<T>>,
    /// Makes the end `!Sync`: one thread uses it at a time, which claims rely on.
    not_sync: PhantomData<Cell<T>>,
}

impl<T> Consumer<T> {
    fn new(ring: Arc<Ring<T>>) -> Self {
        let ring_ref = ring.memory.ring_ref();
        let head = ring_ref.control().consumer.head.load(Ordering::Relaxed);
        let (prefetcher, pacer) = (ReadPrefetcher::default(), Pacer::default());
        Self { ring_ref, head, prefetcher, pacer, ring, not_sync: PhantomData }
    }

    #[inline]
    fn is_ready(&self, index: u64) -> bool {
        // SYNC POINT: slot publish
        // Acquire: pairs with the release store in `Producer::publish`, so that the value may be read.
        self.ring_ref.slot(index).seq.load(Ordering::Acquire) == index + 1
    }

    /// Moves the value at `head` out and advances `head`, without releasing the slot.
    ///
    /// # Safety
    ///
    /// The slot at `head` is ready.
    #[inline]
    unsafe fn read_next(&mut self) -> T {
        // SAFETY: a ready slot holds a value. It is read once, because `head` advances with the read, and the producer does not overwrite
        // it before `release_slots` publishes the new `head`.
        let value =
            self.ring_ref.slot(self.head).value.with(|storage| unsafe { (*storage).assume_init_read() });
        self.head += 1;
        value
    }

    /// Releases every slot before `head` to the producer.
    #[inline]
    fn release_slots(&self) {
        // SYNC POINT: head publish
        // Release: pairs with the acquire loads in `Producer::reload_head` and `popped`; the values are read out before a producer
        // overwrites the slots.
        self.ring_ref.control().consumer.head.store(self.head, Ordering::Release);
    }

    /// Returns whether the next slot is ready. If it is not, a consumer of a fast stream pauses first.
    #[inline]
    fn is_next_ready(&mut self) -> bool {
        self.is_ready(self.head)
            || (self.pacer.found_empty(self.ring_ref, self.head) && self.is_ready(self.head))
    }

    /// Pops the oldest value.
    ///
    /// If the ring is empty and values come fast, tens of millions a second, it waits up to some microseconds for a number of them.
    #[inline]
    pub fn try_pop(&mut self) -> Option<T> {
        if !self.is_next_ready() {
            return None;
        }
        self.prefetcher.prefetch_after(self.ring_ref, self.head);
        // SAFETY: `is_ready` returned true for `head`.
        let value = unsafe { self.read_next() };
        self.release_slots();
        Some(value)
    }

    /// Returns a reference to the oldest value, which stays in the ring.
    #[inline]
    pub fn peek(&mut self) -> Option<&T> {
        if !self.is_ready(self.head) {
            return None;
        }
        // SAFETY: a ready slot holds a value. It stays valid until this end advances `head`, which the borrow of `self` prevents.
        Some(self.ring_ref.slot(self.head).value.with(|storage| unsafe { (*storage).assume_init_ref() }))
    }

    #[cfg(test)]
    pub(crate) fn ring_ref(&self) -> RingRef<T> {
        self.ring_ref
    }

    #[cfg(test)]
    pub(crate) fn is_paced(&self) -> bool {
        self.pacer.is_paced()
    }

    #[cfg(test)]
    pub(crate) fn is_prefetching(&self) -> bool {
        self.prefetcher.has_backlog()
    }

    /// Returns whether the producer was dropped. Values may remain: see [`is_drained`](Self::is_drained).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        // SYNC POINT: tail close
        // Acquire: pairs with the release store in the producer's `drop`; every value pushed before is visible.
        self.ring_ref.control().producer.tail.load(Ordering::Acquire) & CLOSED_BIT != 0
    }

    /// Returns whether the producer was dropped and every value was popped.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        // SYNC POINT: tail close
        // Acquire: pairs with the release store in the producer's `drop`.
        self.ring_ref.control().producer.tail.load(Ordering::Acquire) == self.head | CLOSED_BIT
    }

    /// Returns the number of values in the ring. Reads as many sequence tags as the capacity has binary digits.
    #[must_use]
    pub fn len(&self) -> usize {
        (first_unfilled(self.ring_ref, self.head) - self.head) as usize
    }

    /// Returns whether the ring is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_ready(self.head)
    }

    /// Returns the number of slots.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring_ref.capacity() as usize
    }

    /// Returns the number of values popped in total.
    #[must_use]
    pub fn popped(&self) -> u64 {
        self.head
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.release_slots();
        self.ring.memory.control().flags.consumer_closed.store(1, Ordering::Relaxed);
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer")
            .field("len", &self.len())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
