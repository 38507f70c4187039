//! Many producers, one consumer: lock-free, bounded, first in first out.
//!
//! A producer claims a ticket by one compare-exchange on `tail`, writes its slot, and publishes it through the slot's word. A claim by
//! fetch-and-add would not do here: it cannot be refused, and a full or closed ring must refuse. Uncontended, both are one locked
//! instruction.
//!
//! Closing sets the top bit of `tail`. A claim either came before it and is accepted, or fails: there is no third case, so what was
//! accepted can be counted and drained exactly.
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
use crate::prefetch::{self, ReadPrefetcher};
use crate::sync::{AtomicU64, Ordering};

/// Makes a ring with room for `capacity` values, rounded up to a power of two.
///
/// # Errors
///
/// [`CapacityError`] if the capacity is zero or cannot be had.
pub fn channel<T: Send>(capacity: usize) -> Result<(Producer<T>, Consumer<T>), CapacityError> {
    let ring = Arc::new(Ring::new(slots_for::<T>(capacity)?)?);
    Ok((
        Producer { ring: Arc::clone(&ring), cached_head: AtomicU64::new(0) },
        Consumer { ring, prefetcher: ReadPrefetcher::default() },
    ))
}

/// Tickets in a row that one producer may fill.
struct Claim {
    first: u64,
    count: u64,
    /// The first ticket that there was no room for.
    limit: u64,
}

/// The ring itself. Whoever has it may push; popping is for one at a time.
pub(crate) struct Ring<T> {
    memory: RingMemory<T>,
}

impl<T> Ring<T> {
    /// A ring of `slots` (from [`slots_for`]).
    pub(crate) fn new(slots: usize) -> Result<Self, CapacityError> {
        Ok(Self { memory: RingMemory::new(slots)? })
    }

    /// Claims up to `wanted` tickets in a row. None if the ring is full, an error if it is closed.
    ///
    /// `cached_head` is the caller's idea of where the consumer is: true once, so never too large. It spares reading the consumer's line
    /// while there is room by it.
    #[inline]
    fn claim(&self, cached_head: &AtomicU64, wanted: u64) -> Result<Option<Claim>, ()> {
        let line = &self.memory.control().producer;
        let mut tail = line.tail.load(Ordering::Relaxed);
        loop {
            if tail & CLOSED_BIT != 0 {
                return Err(());
            }
            // Acquire here and below: what is free by this head has been read out by the consumer, and this thread is about to write it.
            let mut free_slots = self.free_slots(tail, cached_head.load(Ordering::Acquire));
            if free_slots < wanted {
                let head = self.memory.control().consumer.head.load(Ordering::Acquire);
                // Release: hands the acquired order on to another thread that shares this copy.
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
            // Relaxed: a ticket is only a number; what it guards is published by the slot's word.
            match line.tail.compare_exchange_weak(tail, tail + count, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(Some(Claim { first: tail, count, limit: tail + free_slots })),
                Err(current) => tail = current,
            }
        }
    }

    /// Free slots. A `tail` read long ago may lie behind `head`; the claim that relies on it will fail.
    #[inline]
    fn free_slots(&self, tail: u64, head: u64) -> u64 {
        self.memory.capacity().saturating_sub(tail.saturating_sub(head))
    }

    /// Fills a claimed slot. Asks for the one that this or another producer will fill some slots later, if that is below `limit`, so
    /// free already.
    #[inline]
    fn write_slot(&self, index: u64, limit: u64, value: T) {
        let ahead = index + prefetch::distance(self.memory.capacity());
        if index < ahead && ahead < limit {
            prefetch::prefetch_for_write(self.memory.ring_ref(), ahead);
        }
        let slot = self.memory.slot(index);
        slot.value.with_mut(|storage| {
            // SAFETY: the ticket was claimed by this thread, and the consumer has read out the value that was here a lap ago: the claim
            // saw its head beyond it. So nobody else touches the place until the word below says so.
            unsafe { (*storage).write(value) };
        });
        // Release: whoever sees the word sees the value.
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

    /// Takes the oldest value, if it has been published.
    ///
    /// # Safety
    ///
    /// No other thread pops at the same time, and pops of different threads are ordered.
    #[inline]
    pub(crate) unsafe fn try_pop(&self, prefetcher: &mut ReadPrefetcher) -> Option<T> {
        let shared_head = &self.memory.control().consumer.head;
        // Relaxed: written only by those who pop, one at a time.
        let head = shared_head.load(Ordering::Relaxed);
        let slot = self.memory.slot(head);
        // Acquire: pairs with the release in `write_slot`.
        if slot.seq.load(Ordering::Acquire) != head + 1 {
            return None;
        }
        prefetcher.prefetch_after(self.memory.ring_ref(), head);
        // SAFETY: the word says that this ticket's value is there; it is read once, since `head` moves on before the next pop, and
        // overwritten only by a producer that has seen that.
        let value = slot.value.with(|storage| unsafe { (*storage).assume_init_read() });
        // Release: a producer that sees this may overwrite the slot; the value has been read out.
        shared_head.store(head + 1, Ordering::Release);
        Some(value)
    }

    pub(crate) fn close(&self) {
        // AcqRel: what is decided by having seen the ring closed comes after the claims before it.
        self.memory.control().producer.tail.fetch_or(CLOSED_BIT, Ordering::AcqRel);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.memory.control().producer.tail.load(Ordering::Acquire) & CLOSED_BIT != 0
    }

    pub(crate) fn pushed(&self) -> u64 {
        self.memory.control().producer.tail.load(Ordering::Acquire) & !CLOSED_BIT
    }

    pub(crate) fn popped(&self) -> u64 {
        self.memory.control().consumer.head.load(Ordering::Acquire)
    }

    /// Values in the ring, those being written included.
    pub(crate) fn len(&self) -> u64 {
        // Head first: it can only be too small then, and is never beyond tail.
        let head = self.popped();
        self.pushed() - head
    }

    /// Whether half of it is free.
    pub(crate) fn is_half_free(&self) -> bool {
        self.len() <= self.capacity() / 2
    }

    /// Whether it is closed and everything accepted has been taken.
    pub(crate) fn is_drained(&self) -> bool {
        let tail = self.memory.control().producer.tail.load(Ordering::Acquire);
        tail & CLOSED_BIT != 0 && self.popped() == tail & !CLOSED_BIT
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.memory.capacity()
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: `&mut self`: nobody else pops. Everything claimed has been published, since no push is under way.
        while let Some(value) = unsafe { self.try_pop(&mut ReadPrefetcher::default()) } {
            drop(value);
        }
    }
}

/// A producer's end. Clone it for another producer; or share it, at the price of contention on its notes.
pub struct Producer<T> {
    ring: Arc<Ring<T>>,
    cached_head: AtomicU64,
}

impl<T> Clone for Producer<T> {
    fn clone(&self) -> Self {
        // Acquire: the copy carries on the order that came with the head.
        Self {
            ring: Arc::clone(&self.ring),
            cached_head: AtomicU64::new(self.cached_head.load(Ordering::Acquire)),
        }
    }
}

impl<T: Send> Producer<T> {
    /// Puts a value in.
    ///
    /// # Errors
    ///
    /// [`PushError`] with the value in it: the ring is full or closed.
    #[inline]
    pub fn try_push(&self, value: T) -> Result<(), PushError<T>> {
        self.ring.try_push(&self.cached_head, value)
    }

    /// Puts in as many values as there is room for, in order and with no other producer's between them, and takes them from the front
    /// of `values`. Gives how many.
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

    /// Whether the ring is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ring.is_closed()
    }

    /// Values in the ring.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len() as usize
    }

    /// Whether the ring is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values the ring has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring.capacity() as usize
    }

    /// Values accepted, ever.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.ring.pushed()
    }

    /// Values taken, ever.
    #[must_use]
    pub fn popped(&self) -> u64 {
        self.ring.popped()
    }
}

/// The consumer's end. Dropping it closes the ring.
pub struct Consumer<T> {
    ring: Arc<Ring<T>>,
    prefetcher: ReadPrefetcher,
}

impl<T: Send> Consumer<T> {
    /// Takes the oldest value.
    #[inline]
    pub fn try_pop(&mut self) -> Option<T> {
        // SAFETY: there is one consumer, not cloneable, and this takes it by `&mut`.
        unsafe { self.ring.try_pop(&mut self.prefetcher) }
    }

    /// Takes up to `max` values, oldest first, to the end of `into`. Gives how many.
    pub fn pop_batch(&mut self, into: &mut Vec<T>, max: usize) -> usize {
        let before = into.len();
        into.extend(core::iter::from_fn(|| self.try_pop()).take(max));
        into.len() - before
    }

    /// Closes the ring: nothing more is accepted. What was accepted can still be taken.
    pub fn close(&self) {
        self.ring.close();
    }

    /// Whether the ring is closed and everything accepted has been taken.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.ring.is_drained()
    }

    /// Values in the ring.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ring.len() as usize
    }

    /// Whether the ring is empty.
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
