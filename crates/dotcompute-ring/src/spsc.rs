//! One producer, one consumer: wait-free, bounded, first in first out.
//!
//! The producer writes a slot and then its word, and nothing else; the consumer looks at the word of the slot that is next, and writes
//! `head`. The producer reads `head` only when the ring is full by what it read last. It does not even publish its tail, which would be
//! a store to a second line with every message. Who needs it finds it from the words ([`Consumer::len`]).
//!
//! Both ends can claim many slots at once: [`Producer::claim`] to write values in place and publish them together,
//! [`Consumer::claim`] to read them in place and give the slots back together. A slot that was claimed and not used stays as it was.
//!
//! Neither end waits. For waiting on either side see [`mailbox`](crate::banded) and [`wait`](crate::wait).
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
use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;

use crate::error::{CapacityError, PushError};
use crate::layout::{CLOSED_BIT, RingMemory, RingRef, slots_for};
use crate::prefetch::{self, ReadPrefetcher};
use crate::sync::Ordering;

pub use claim::{ClaimedRead, ClaimedWrite};

/// Makes a ring with room for `capacity` values, rounded up to a power of two.
///
/// # Errors
///
/// [`CapacityError`] if the capacity is zero or cannot be had.
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

/// The producer's end of a ring in `memory`, opening it again if an earlier one has closed it.
#[cfg(not(loom))]
pub(crate) fn producer_in<T: Send>(memory: RingMemory<T>) -> Producer<T> {
    let producer = Producer::new(Arc::new(Ring { memory }));
    // Relaxed: says only that more may come.
    producer.ring_ref.control().producer.tail.store(producer.tail, Ordering::Relaxed);
    producer
}

/// The consumer's end of a ring in `memory`, opening it again if an earlier one has closed it.
#[cfg(not(loom))]
pub(crate) fn consumer_in<T: Send>(memory: RingMemory<T>) -> Consumer<T> {
    let consumer = Consumer::new(Arc::new(Ring { memory }));
    consumer.ring_ref.control().flags.consumer_closed.store(0, Ordering::Relaxed);
    consumer
}

/// The memory that both ends keep; the last to go drops the values still in it.
struct Ring<T> {
    memory: RingMemory<T>,
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        if !core::mem::needs_drop::<T>() {
            return;
        }
        let mut head = self.memory.control().consumer.head.load(Ordering::Relaxed);
        // Relaxed: both ends are gone, and the count of their references has ordered what they did before this.
        while self.memory.slot(head).seq.load(Ordering::Relaxed) == head + 1 {
            self.memory.slot(head).value.with_mut(|storage| {
                // SAFETY: by the word a value was put here, by `head` it was not taken out, and `&mut self`: nobody else can.
                unsafe { (*storage).assume_init_drop() };
            });
            head += 1;
        }
    }
}

/// The first ticket from `head` on whose slot has not been filled: slots are filled in order, so it is found by halving.
fn first_unfilled<T>(ring_ref: RingRef<T>, head: u64) -> u64 {
    let (mut filled, mut beyond) = (0, ring_ref.capacity() + 1);
    while filled + 1 < beyond {
        let count = filled.midpoint(beyond);
        let index = head + count - 1;
        // Acquire: as for a pop, so that a consumer that finds a value here may look at it.
        if ring_ref.slot(index).seq.load(Ordering::Acquire) == index + 1 {
            filled = count;
        } else {
            beyond = count;
        }
    }
    head + filled
}

/// The producer's end. Dropping it closes the ring: the consumer can still take what is in it.
// Aligned so that the indices of two ends that lie side by side, as on the stack that `channel` returns to, do not share a line.
#[repr(align(128))]
pub struct Producer<T> {
    ring_ref: RingRef<T>,
    /// The next ticket.
    tail: u64,
    /// The first ticket that there is no room for, by the last look at the consumer.
    limit: u64,
    /// Whether the consumer was far behind at that look: then its slots come from another core, and are worth fetching.
    prefetch_enabled: bool,
    ring: Arc<Ring<T>>,
    /// One thread at a time has an end; it need not be shareable, and claims rely on that.
    not_sync: PhantomData<Cell<()>>,
}

impl<T> Producer<T> {
    fn new(ring: Arc<Ring<T>>) -> Self {
        let ring_ref = ring.memory.ring_ref();
        let tail = first_unfilled(ring_ref, ring_ref.control().consumer.head.load(Ordering::Acquire));
        // No room, by this: the first push looks at the consumer.
        Self { ring_ref, tail, limit: tail, prefetch_enabled: false, ring, not_sync: PhantomData }
    }

    /// Free slots, of which at least `wanted` if there are so many.
    #[inline]
    fn free_slots(&mut self, wanted: u64) -> u64 {
        let free_slots = self.limit - self.tail;
        if free_slots >= wanted { free_slots } else { self.reload_head() }
    }

    #[inline]
    fn reload_head(&mut self) -> u64 {
        // Acquire: what is free by this head has been read out, and is about to be written.
        let head = self.ring_ref.control().consumer.head.load(Ordering::Acquire);
        // In shared memory `head` is whatever the other side writes: no value of it may give more room than there are slots.
        let free_slots = self.ring_ref.capacity().saturating_sub(self.tail.wrapping_sub(head));
        self.limit = self.tail + free_slots;
        let distance = prefetch::distance(self.ring_ref.capacity());
        self.prefetch_enabled = distance > 0 && self.ring_ref.capacity() - free_slots >= distance;
        free_slots
    }

    /// Asks for the slot that comes some pushes after `index`, if it is free already.
    #[inline]
    fn prefetch_ahead(&self, index: u64) {
        if self.prefetch_enabled {
            let ahead = index + prefetch::distance(self.ring_ref.capacity());
            if ahead < self.limit {
                prefetch::prefetch_for_write(self.ring_ref, ahead);
            }
        }
    }

    /// Puts a value in.
    ///
    /// # Errors
    ///
    /// [`PushError`] with the value in it: the ring is full, or its consumer is gone.
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
            // SAFETY: there is room for this ticket, so the consumer has read out the value that was here a lap ago, and it reads no
            // slot before its word says so. This is the one producer, and it has `&mut self`.
            unsafe { (*storage).write(value) };
        });
        self.publish(1);
        Ok(())
    }

    /// Makes the next `count` slots, which have been written, the consumer's.
    #[inline]
    fn publish(&mut self, count: u64) {
        let end = self.tail + count;
        for index in self.tail..end {
            // Release: whoever sees the word sees the value. On each, since the consumer may look at any of them first.
            self.ring_ref.slot(index).seq.store(index + 1, Ordering::Release);
        }
        self.tail = end;
    }

    /// Claims up to `max` slots in a row to be written in place and published together. Fewer if there are fewer free.
    ///
    /// # Errors
    ///
    /// [`PushError`] if no slot is free, or the consumer is gone.
    ///
    /// ```
    /// use dotcompute_ring::spsc;
    ///
    /// let (mut producer, mut consumer) = spsc::channel(4)?;
    /// let mut claim = producer.claim(3)?;
    /// claim.fill(10..);
    /// assert_eq!(claim.commit(), 3);
    /// assert_eq!(consumer.claim(8).unwrap().collect::<Vec<_>>(), [10, 11, 12]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn claim(&mut self, max: usize) -> Result<ClaimedWrite<'_, T>, PushError<()>> {
        if self.is_closed() {
            return Err(PushError::Closed(()));
        }
        match self.free_slots(max as u64).min(max as u64) {
            0 if max > 0 => Err(PushError::Full(())),
            claimed => Ok(ClaimedWrite { producer: self, claimed, written: 0 }),
        }
    }

    /// Puts in as many values as there is room for and takes them from the front of `values`. Gives how many.
    ///
    /// # Errors
    ///
    /// [`PushError::Closed`]; `values` is unchanged.
    pub fn try_push_batch(&mut self, values: &mut Vec<T>) -> Result<usize, PushError<()>> {
        match self.claim(values.len()) {
            Ok(mut claim) => {
                let free_slots = claim.len();
                claim.fill(values.drain(..free_slots));
                Ok(claim.commit())
            }
            Err(PushError::Full(())) => Ok(0),
            Err(closed) => Err(closed),
        }
    }

    /// Whether the consumer is gone.
    #[inline]
    #[must_use]
    pub fn is_closed(&self) -> bool {
        // Relaxed: nothing is read on the strength of it.
        self.ring_ref.control().flags.consumer_closed.load(Ordering::Relaxed) != 0
    }

    /// Values in the ring.
    #[must_use]
    pub fn len(&self) -> usize {
        let head = self.ring_ref.control().consumer.head.load(Ordering::Relaxed);
        self.tail.wrapping_sub(head).min(self.ring_ref.capacity()) as usize
    }

    /// Whether the ring is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values the ring has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring_ref.capacity() as usize
    }

    /// Values put in, ever.
    #[must_use]
    pub fn pushed(&self) -> u64 {
        self.tail
    }

    /// Values that the consumer has given back, ever. What it wrote elsewhere before giving them back is seen after this.
    #[must_use]
    pub fn popped(&self) -> u64 {
        // Acquire: pairs with the release in `release_slots`.
        self.ring_ref.control().consumer.head.load(Ordering::Acquire)
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // Release: whoever sees it closed sees every word that was stored before.
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

/// The consumer's end. Dropping it closes the ring: nothing more is accepted.
#[repr(align(128))]
pub struct Consumer<T> {
    ring_ref: RingRef<T>,
    /// The next ticket.
    head: u64,
    prefetcher: ReadPrefetcher,
    ring: Arc<Ring<T>>,
    /// One thread at a time has an end; it need not be shareable, and claims rely on that.
    not_sync: PhantomData<Cell<T>>,
}

impl<T> Consumer<T> {
    fn new(ring: Arc<Ring<T>>) -> Self {
        let ring_ref = ring.memory.ring_ref();
        let head = ring_ref.control().consumer.head.load(Ordering::Relaxed);
        Self { ring_ref, head, prefetcher: ReadPrefetcher::default(), ring, not_sync: PhantomData }
    }

    #[inline]
    fn is_ready(&self, index: u64) -> bool {
        // Acquire: pairs with the release in `publish`.
        self.ring_ref.slot(index).seq.load(Ordering::Acquire) == index + 1
    }

    /// Reads the value at `head` out and moves on, without giving the slot back.
    ///
    /// # Safety
    ///
    /// The slot at `head` is ready.
    #[inline]
    unsafe fn read_next(&mut self) -> T {
        // SAFETY: a ready slot has a value. It is read once, since `head` moves on with it, and it is not overwritten before
        // `release_slots` has published that.
        let value =
            self.ring_ref.slot(self.head).value.with(|storage| unsafe { (*storage).assume_init_read() });
        self.head += 1;
        value
    }

    /// Makes every slot before `head` the producer's.
    #[inline]
    fn release_slots(&self) {
        // Release: the values have been read out before a producer that sees this writes there.
        self.ring_ref.control().consumer.head.store(self.head, Ordering::Release);
    }

    /// Takes the oldest value.
    #[inline]
    pub fn try_pop(&mut self) -> Option<T> {
        if !self.is_ready(self.head) {
            return None;
        }
        self.prefetcher.prefetch_after(self.ring_ref, self.head);
        // SAFETY: just looked.
        let value = unsafe { self.read_next() };
        self.release_slots();
        Some(value)
    }

    /// The oldest value, which stays in the ring.
    #[inline]
    pub fn peek(&mut self) -> Option<&T> {
        if !self.is_ready(self.head) {
            return None;
        }
        // SAFETY: a ready slot has a value, which nobody touches until this end, borrowed for as long, moves on.
        Some(self.ring_ref.slot(self.head).value.with(|storage| unsafe { (*storage).assume_init_ref() }))
    }

    /// Claims the oldest values, at most so many, to be read in place or taken, and their slots given back together. None if there is
    /// nothing.
    ///
    /// ```
    /// use dotcompute_ring::spsc;
    ///
    /// let (mut producer, mut consumer) = spsc::channel(4)?;
    /// producer.claim(4)?.fill([1, 2, 3, 4]);
    /// assert!(consumer.claim(4).is_none(), "nothing was committed");
    ///
    /// let mut values = vec![1, 2, 3, 4];
    /// producer.try_push_batch(&mut values)?;
    /// let mut claim = consumer.claim(3).unwrap();
    /// assert_eq!(claim.iter().sum::<i32>(), 1 + 2 + 3);
    /// assert_eq!(claim.next(), Some(1));
    /// drop(claim);
    /// assert_eq!(consumer.try_pop(), Some(2), "what was not taken is still there");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn claim(&mut self, max: usize) -> Option<ClaimedRead<'_, T>> {
        let max = (max as u64).min(self.ring_ref.capacity());
        let mut ready = 0;
        while ready < max && self.is_ready(self.head + ready) {
            self.prefetcher.prefetch_after(self.ring_ref, self.head + ready);
            ready += 1;
        }
        (ready > 0).then_some(ClaimedRead { consumer: self, remaining: ready })
    }

    /// Takes up to `max` values, oldest first, to the end of `into`. Gives how many.
    #[inline]
    pub fn pop_batch(&mut self, into: &mut Vec<T>, max: usize) -> usize {
        let Some(claim) = self.claim(max) else { return 0 };
        let count = claim.len();
        into.extend(claim);
        count
    }

    #[cfg(test)]
    pub(crate) fn is_prefetching(&self) -> bool {
        self.prefetcher.has_backlog()
    }

    /// Whether the producer is gone. There may still be something to take: see [`is_drained`](Self::is_drained).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.ring_ref.control().producer.tail.load(Ordering::Acquire) & CLOSED_BIT != 0
    }

    /// Whether the producer is gone and everything has been taken.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.ring_ref.control().producer.tail.load(Ordering::Acquire) == self.head | CLOSED_BIT
    }

    /// Values in the ring: looks at the words of as many slots as the capacity has binary digits.
    #[must_use]
    pub fn len(&self) -> usize {
        (first_unfilled(self.ring_ref, self.head) - self.head) as usize
    }

    /// Whether the ring is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.is_ready(self.head)
    }

    /// Values the ring has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.ring_ref.capacity() as usize
    }

    /// Values taken, ever.
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
