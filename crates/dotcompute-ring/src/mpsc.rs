//! Multi-producer, single-consumer ring: lock-free, bounded, first in first out.
//!
//! A producer claims an index by one compare-exchange on `tail`, writes the slot, and publishes it by storing the slot's sequence tag. This
//! is the bounded queue of Vyukov with a single consumer. Claims do not use fetch-and-add because it cannot fail, and a full or closed ring
//! must reject the push. Without contention both cost one locked instruction.
//!
//! Closing sets the top bit of `tail`. A claim is either ordered before that and accepted, or it fails. The accepted values can therefore
//! be counted and drained exactly.
//!
//! ```
//! use dotcompute_ring::{mpsc, PushError};
//!
//! let (producer, mut consumer) = mpsc::channel(2)?;
//! let other = producer.clone();
//! producer.try_push("a")?;
//! other.try_push("b")?;
//! assert_eq!(producer.try_push("c"), Err(PushError::Full("c")));
//! assert_eq!(consumer.try_pop(), Some("a"));
//! consumer.close();
//! assert_eq!(other.try_push("d"), Err(PushError::Closed("d")));
//! assert_eq!(consumer.try_pop(), Some("b"));
//! assert!(consumer.is_drained());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::error::{CapacityError, PushError};
use crate::layout::{CLOSED_BIT, RingMemory, slots_for};
use crate::pacing::Pacer;
use crate::prefetch::{self, ReadPrefetcher};
use crate::sync::{AtomicU64, Ordering};

/// Creates a ring with at least `capacity` slots, rounded up to a power of two.
///
/// # Errors
///
/// [`CapacityError`] if the capacity is zero or the memory is not available.
pub fn channel<T: Send>(capacity: usize) -> Result<(Producer<T>, Consumer<T>), CapacityError> {
    let ring = Arc::new(Ring::new(slots_for::<T>(capacity)?)?);
    Ok((
        Producer { ring: Arc::clone(&ring), cached_head: AtomicU64::new(0) },
        Consumer { ring, prefetcher: ReadPrefetcher::default(), pacer: Pacer::default() },
    ))
}

/// Consecutive indices that one producer may write.
struct Claim {
    first: u64,
    count: u64,
    /// The first index without a free slot, when the claim was made.
    limit: u64,
}

/// The ring itself. Any thread may push; one thread at a time may pop.
pub(crate) struct Ring<T> {
    memory: RingMemory<T>,
}

impl<T> Ring<T> {
    /// Creates a ring of `slots` slots (from [`slots_for`]).
    pub(crate) fn new(slots: usize) -> Result<Self, CapacityError> {
        Ok(Self { memory: RingMemory::new(slots)? })
    }

    /// Claims up to `wanted` consecutive indices. `Ok(None)` if the ring is full, an error if it is closed.
    ///
    /// `cached_head` is the caller's copy of `head`. It may be stale and is never ahead of `head`. It saves reading the consumer's cache
    /// line while free slots remain by it.
    #[inline]
    fn claim(&self, cached_head: &AtomicU64, wanted: u64) -> Result<Option<Claim>, ()> {
        let line = &self.memory.control().producer;
        let mut tail = line.tail.load(Ordering::Relaxed);
        loop {
            if tail & CLOSED_BIT != 0 {
                return Err(());
            }
            // SYNC POINT: cached head
            // Acquire: pairs with the release store below, by a thread that shares this copy; the consumer has read the slots before it.
            let mut free_slots = self.free_slots(tail, cached_head.load(Ordering::Acquire));
            if free_slots < wanted {
                // SYNC POINT: head publish
                // Acquire: pairs with the release store in `try_pop`; the consumer has read the slots before this `head`.
                let head = self.memory.control().consumer.head.load(Ordering::Acquire);
                // SYNC POINT: cached head
                // Release: pairs with the acquire load above; passes the consumer's order on to a thread that shares this copy.
                cached_head.store(head, Ordering::Release);
                free_slots = self.free_slots(tail, head);
            }
            if free_slots == 0 {
                let current = line.tail.load(Ordering::Relaxed);
                if current == tail {
                    return Ok(None);
                }
                tail = current;
                continue;
            }
            let count = free_slots.min(wanted);
            // Relaxed: an index is only a number; the release store of the sequence tag in `write_slot` publishes the value.
            match line.tail.compare_exchange_weak(tail, tail + count, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Some(Claim { first: tail, count, limit: tail + free_slots })),
                Err(current) => tail = current,
            }
        }
    }

    /// Returns the number of free slots. A stale `tail` may be behind `head`; a claim that starts from it fails.
    #[inline]
    fn free_slots(&self, tail: u64, head: u64) -> u64 {
        self.memory.capacity().saturating_sub(tail.saturating_sub(head))
    }

    /// Writes a claimed slot and publishes it. Prefetches the slot that a producer writes some pushes later, if it is below `limit` and
    /// thus free.
    #[inline]
    fn write_slot(&self, index: u64, limit: u64, value: T) {
        let ahead = index + prefetch::distance(self.memory.capacity());
        if index < ahead && ahead < limit {
            prefetch::prefetch_for_write(self.memory.ring_ref(), ahead);
        }
        let slot = self.memory.slot(index);
        slot.value.with_mut(|storage| {
            // SAFETY: this thread claimed `index`, so no other producer writes this slot. The claim observed a `head` past the slot's
            // previous lap, so the consumer has read that value. The consumer does not read the slot before the store of `seq` below.
            unsafe { (*storage).write(value) };
        });
        // SYNC POINT: slot publish
        // Release: pairs with the acquire load in `try_pop`; publishes the value.
        slot.seq.store(index + 1, Ordering::Release);
    }

    #[inline]
    pub(crate) fn try_push(&self, cached_head: &AtomicU64, value: T) -> Result<(), PushError<T>> {
        match self.claim(cached_head, 1) {
            Ok(Some(Claim { first, limit, .. })) => {
                self.write_slot(first, limit, value);
                Ok(())
            }
            Ok(None) => Err(PushError::Full(value)),
            Err(()) => Err(PushError::Closed(value)),
        }
    }

    /// Pops the oldest value, if it is published.
    ///
    /// # Safety
    ///
    /// No other thread pops at the same time, and pops of different threads are ordered by synchronization.
    #[inline]
    pub(crate) unsafe fn try_pop(&self, prefetcher: &mut ReadPrefetcher) -> Option<T> {
        let shared_head = &self.memory.control().consumer.head;
        // Relaxed: written only by pops, which the caller serializes.
        let head = shared_head.load(Ordering::Relaxed);
        let slot = self.memory.slot(head);
        // SYNC POINT: slot publish
        // Acquire: pairs with the release store in `write_slot`, so that the value may be read.
        if slot.seq.load(Ordering::Acquire) != head + 1 {
            return None;
        }
        prefetcher.prefetch_after(self.memory.ring_ref(), head);
        // SAFETY: the sequence tag shows that the slot holds the value of this index. It is read once, because `head` advances before the
        // next pop. A producer overwrites it only after it has observed the advanced `head`.
        let value = slot.value.with(|storage| unsafe { (*storage).assume_init_read() });
        // SYNC POINT: head publish
        // Release: pairs with the acquire loads in `claim` and `popped`; the value is read out before a producer overwrites the slot.
        shared_head.store(head + 1, Ordering::Release);
        Some(value)
    }

    /// Called by the thread that pops, after it found no value. May pause if values come fast. Returns whether to poll again.
    #[inline]
    pub(crate) fn found_empty(&self, pacer: &mut Pacer) -> bool {
        // Relaxed: written by pops only, which the caller serializes.
        let head = self.memory.control().consumer.head.load(Ordering::Relaxed);
        pacer.found_empty(self.memory.ring_ref(), head)
    }

    pub(crate) fn close(&self) {
        // SYNC POINT: tail close
        // AcqRel: release pairs with the acquire loads in `is_closed` and `is_drained`. Acquire orders what the caller does next after
        // earlier closes.
        self.memory.control().producer.tail.fetch_or(CLOSED_BIT, Ordering::AcqRel);
    }

    pub(crate) fn is_closed(&self) -> bool {
        // SYNC POINT: tail close
        // Acquire: pairs with the AcqRel in `close`.
        self.memory.control().producer.tail.load(Ordering::Acquire) & CLOSED_BIT != 0
    }

    pub(crate) fn pushed(&self) -> u64 {
        self.memory.control().producer.tail.load(Ordering::Acquire) & !CLOSED_BIT
    }

    pub(crate) fn popped(&self) -> u64 {
        // SYNC POINT: head publish
        // Acquire: pairs with the release store in `try_pop`.
        self.memory.control().consumer.head.load(Ordering::Acquire)
    }

    /// Returns the number of values in the ring, including those being written.
    pub(crate) fn len(&self) -> u64 {
        // `head` first: it can then only be too small, and never exceeds `tail`.
        let head = self.popped();
        self.pushed() - head
    }

    /// Returns whether at least half of the slots are free.
    pub(crate) fn is_half_free(&self) -> bool {
        self.len() <= self.capacity() / 2
    }

    /// Returns whether the ring is closed and every accepted value was popped.
    pub(crate) fn is_drained(&self) -> bool {
        // SYNC POINT: tail close
        // Acquire: pairs with the AcqRel in `close`; no claim is accepted after it, so `tail` counts every value.
        let tail = self.memory.control().producer.tail.load(Ordering::Acquire);
        tail & CLOSED_BIT != 0 && self.popped() == tail & !CLOSED_BIT
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.memory.capacity()
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self` excludes other pops. Every claimed index is published, because no push is in progress.
        while let Some(value) = unsafe { self.try_pop(&mut ReadPrefetcher::default()) } {
            drop(value);
        }
    }
}

/// The producing end of an MPSC ring. Clone it for each producer. It may also be shared by reference, at the cost of contention on its
/// cached `head`.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    cached_head: AtomicU64,
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        // SYNC POINT: cached head
        // Acquire: pairs with the release store in `claim`; the clone inherits the order that came with the cached value.
        Self {
            ring: Arc::clone(&self.ring),
            cached_head: AtomicU64::new(self.cached_head.load(Ordering::Acquire)),
        }
    }
}

impl<T: Send> Producer<T> {
    /// Pushes a value.
    ///
    /// # Errors
    ///
    /// [`PushError`] with the value: the ring is full or closed.
    #[inline]
    pub fn try_push(&self, value: T) -> Result<(), PushError<T>> {
        self.ring.try_push(&self.cached_head, value)
    }

    /// Pushes as many values as there are free slots, in order and contiguously, taking them from the front of `values`. Returns how many.
    ///
    /// # Errors
    ///
    /// [`PushError::Closed`]; `values` is unchanged.
    pub fn try_push_batch(&self, values: &mut Vec<T>) -> Result<usize, PushError<()>> {
        if values.is_empty() {
            return Ok(0);
        }
        let Some(Claim { first, count, limit }) =
            self.ring.claim(&self.cached_head, values.len() as u64).map_err(|()| PushError::Closed(()))?
        else {
            return Ok(0);
        };
        for (index, value) in (first..).zip(values.drain(..count as usize)) {
            self.ring.write_slot(index, limit, value);
        }
        Ok(count as usize)
    }

    /// Closes the ring: nothing more is accepted from any producer.
    pub fn close(&self) {
        self.ring.close();
    }

    /// Returns whether the ring is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ring.is_closed()
    }

    /// Returns the number of values in the ring.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len() as usize
    }

    /// Returns whether the ring is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of slots.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity() as usize
    }

    /// Returns the number of values accepted in total.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.ring.pushed()
    }

    /// Returns the number of values popped in total.
    #[must_use]
    pub fn popped(&self) -> u64 {
        self.ring.popped()
    }
}

/// The consuming end of an MPSC ring. Dropping it closes the ring.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    prefetcher: ReadPrefetcher,
    pacer: Pacer,
}

impl<T: Send> Consumer<T> {
    /// Pops the oldest value.
    ///
    /// If the ring is empty and values come fast, tens of millions a second, it waits up to some microseconds for a number of them.
    #[inline]
    pub fn try_pop(&mut self) -> Option<T> {
        let popped = self.pop_at_once();
        if popped.is_none() && self.ring.found_empty(&mut self.pacer) { self.pop_at_once() } else { popped }
    }

    #[inline]
    fn pop_at_once(&mut self) -> Option<T> {
        // SAFETY: there is one consumer, which cannot be cloned, and `&mut self` excludes concurrent pops.
        unsafe { self.ring.try_pop(&mut self.prefetcher) }
    }

    /// Pops up to `max` values, oldest first, to the end of `into`. Returns how many.
    pub fn pop_batch(&mut self, into: &mut Vec<T>, max: usize) -> usize {
        let before = into.len();
        into.extend(core::iter::from_fn(|| self.try_pop()).take(max));
        into.len() - before
    }

    /// Closes the ring: nothing more is accepted. Values accepted before can still be popped.
    pub fn close(&self) {
        self.ring.close();
    }

    /// Returns whether the ring is closed and every accepted value was popped.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.ring.is_drained()
    }

    /// Returns the number of values in the ring.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len() as usize
    }

    /// Returns whether the ring is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.ring.close();
    }
}
