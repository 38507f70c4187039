//! Claims of many slots at once, written or read in place, and published or released together.

use alloc::vec::Vec;
use core::fmt;
use core::iter::FusedIterator;
use core::marker::PhantomData;
use core::mem::MaybeUninit;

use super::{Consumer, Producer};
use crate::error::PushError;
use crate::layout::RingRef;

impl<T> Producer<T> {
    /// Claims up to `max` consecutive slots, which are written in place and published together. Claims fewer if fewer are free.
    ///
    /// # Errors
    ///
    /// [`PushError`] if no slot is free, or the consumer was dropped.
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

    /// Pushes as many values as there are free slots, taking them from the front of `values`. Returns how many.
    ///
    /// # Errors
    ///
    /// [`PushError::Closed`] if the consumer was dropped; `values` is unchanged.
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
}

impl<T> Consumer<T> {
    /// Claims up to `max` of the oldest values, which are read in place or taken, and whose slots are released together. `None` if the ring
    /// is empty.
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
        if max == 0 || !self.is_next_ready() {
            return None;
        }
        // Slots are filled in order, so the last tag tells for all of them.
        if self.is_ready(self.head + max - 1) {
            return Some(ClaimedRead { consumer: self, remaining: max });
        }
        let mut ready = 1;
        while ready < max && self.is_ready(self.head + ready) {
            self.prefetcher.prefetch_after(self.ring_ref, self.head + ready);
            ready += 1;
        }
        Some(ClaimedRead { consumer: self, remaining: ready })
    }

    /// Pops up to `max` values, oldest first, to the end of `into`. Returns how many.
    #[inline]
    pub fn pop_batch(&mut self, into: &mut Vec<T>, max: usize) -> usize {
        let Some(claim) = self.claim(max) else { return 0 };
        let count = claim.len();
        into.extend(claim);
        count
    }
}

/// Slots claimed for writing ([`Producer::claim`]). Dropping the claim without [`commit`](Self::commit) drops the written values and
/// publishes nothing.
#[must_use = "nothing is published without `commit`"]
pub struct ClaimedWrite<'a, T> {
    pub(super) producer: &'a mut Producer<T>,
    pub(super) claimed: u64,
    /// Slots written so far, from the front of the claim.
    pub(super) written: u64,
}

impl<T> ClaimedWrite<'_, T> {
    /// Returns the number of claimed slots that are not written yet.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        (self.claimed - self.written) as usize
    }

    /// Returns whether every claimed slot is written.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written == self.claimed
    }

    /// Writes a value to the next slot.
    ///
    /// # Errors
    ///
    /// Returns the value if every claimed slot is written.
    #[inline]
    pub fn write(&mut self, value: T) -> Result<(), T> {
        if self.is_empty() {
            return Err(value);
        }
        self.next_slot(|storage| {
            storage.write(value);
        });
        self.written += 1;
        Ok(())
    }

    /// Writes values to the next slots until either runs out. Returns how many. Takes no value from the iterator without a slot for it.
    #[inline]
    pub fn fill(&mut self, values: impl IntoIterator<Item = T>) -> usize {
        let before = self.written;
        let mut values = values.into_iter();
        while self.written < self.claimed {
            let Some(value) = values.next() else { break };
            self.next_slot(|storage| {
                storage.write(value);
            });
            // Counted one by one, after each write: if the iterator panics, `drop` drops exactly the values that were written.
            self.written += 1;
        }
        (self.written - before) as usize
    }

    /// Calls `write` with the next slot, to initialise it in place. `None` if every claimed slot is written.
    ///
    /// # Safety
    ///
    /// `write` has initialised its argument when it returns.
    ///
    /// ```
    /// use dotcompute_ring::spsc;
    ///
    /// let (mut producer, mut consumer) = spsc::channel::<[u8; 4096]>(4)?;
    /// let mut claim = producer.claim(1)?;
    /// // SAFETY: every byte is written.
    /// unsafe { claim.write_in_place(|page| page.as_mut_ptr().cast::<u8>().write_bytes(7, 4096)) };
    /// claim.commit();
    /// assert_eq!(consumer.try_pop(), Some([7; 4096]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub unsafe fn write_in_place<R>(&mut self, write: impl FnOnce(&mut MaybeUninit<T>) -> R) -> Option<R> {
        if self.is_empty() {
            return None;
        }
        let result = self.next_slot(write);
        self.written += 1;
        Some(result)
    }

    #[inline]
    fn next_slot<R>(&mut self, write: impl FnOnce(&mut MaybeUninit<T>) -> R) -> R {
        let index = self.producer.tail + self.written;
        self.producer.prefetch_ahead(index);
        let slot = self.producer.ring_ref.slot(index);
        slot.value.with_mut(|storage| {
            // SAFETY: the claim found this index free, so the consumer does not access the slot before it is published. There is one
            // producer, and the claim borrows it mutably.
            write(unsafe { &mut *storage })
        })
    }

    /// Publishes the written values. Returns how many. The other slots stay free.
    #[inline]
    pub fn commit(mut self) -> usize {
        let written = core::mem::take(&mut self.written);
        self.producer.publish(written);
        written as usize
    }
}

impl<T> Drop for ClaimedWrite<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // `commit` has set `written` to zero.
        while core::mem::needs_drop::<T>() && self.written > 0 {
            self.written -= 1;
            self.next_slot(|storage| {
                // SAFETY: the slot was written and is not published. `written` no longer counts it, so it is dropped once.
                unsafe { storage.assume_init_drop() };
            });
        }
    }
}

/// Values claimed for reading ([`Consumer::claim`]). Iterating takes them. Dropping the claim releases the slots of the values taken, and
/// leaves the other values in the ring.
#[must_use = "a claim that is not used leaves everything in the ring"]
pub struct ClaimedRead<'a, T> {
    pub(super) consumer: &'a mut Consumer<T>,
    /// Ready slots from the consumer's `head` on.
    pub(super) remaining: u64,
}

impl<T> ClaimedRead<'_, T> {
    /// Iterates over references to the values that are not taken yet, oldest first.
    #[inline]
    #[must_use]
    pub fn iter(&self) -> Iter<'_, T> {
        let Consumer { ring_ref, head, .. } = &*self.consumer;
        Iter { ring_ref: *ring_ref, next: *head, end: head + self.remaining, values: PhantomData }
    }

    /// Takes and drops all remaining values.
    #[inline]
    pub fn commit(self) {
        self.for_each(drop);
    }
}

impl<T> Iterator for ClaimedRead<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        self.remaining = self.remaining.checked_sub(1)?;
        // SAFETY: `remaining` counted ready slots from `head` on, so the slot at `head` is ready.
        Some(unsafe { self.consumer.read_next() })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining as usize, Some(self.remaining as usize))
    }
}

impl<T> ExactSizeIterator for ClaimedRead<'_, T> {}

impl<'a, T> IntoIterator for &'a ClaimedRead<'_, T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    #[inline]
    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> Drop for ClaimedRead<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.consumer.release_slots();
    }
}

/// References to the values of a claim, oldest first ([`ClaimedRead::iter`]).
///
/// Another thread may have it if the values may be read by two threads at once, because the claim can be iterated again:
///
/// ```compile_fail,E0277
/// use std::cell::Cell;
/// use dotcompute_ring::spsc;
///
/// let (mut producer, mut consumer) = spsc::channel(1).unwrap();
/// producer.try_push(Cell::new(0)).unwrap();
/// let claim = consumer.claim(1).unwrap();
/// let there = claim.iter();
/// std::thread::scope(|scope| {
///     scope.spawn(|| there.for_each(|value| value.set(1))); // `Cell<i32>` cannot be shared between threads safely
///     claim.iter().for_each(|value| value.set(2));
/// });
/// ```
pub struct Iter<'a, T> {
    ring_ref: RingRef<T>,
    next: u64,
    end: u64,
    /// Gives the iterator the auto traits of its items. Those of `RingRef` ask only for `T: Send`.
    values: PhantomData<&'a T>,
}

impl<T> Clone for Iter<'_, T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        if self.next == self.end {
            return None;
        }
        let index = self.next;
        self.next += 1;
        self.ring_ref.slot(index).value.with(|storage| {
            // SAFETY: the claim found the slots before `end` ready. The producer overwrites none of them before the consumer advances
            // `head`, which needs the claim mutably and so waits for the end of `'a`. The consumer keeps the memory alive until then.
            Some(unsafe { (*storage).assume_init_ref() })
        })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = (self.end - self.next) as usize;
        (remaining, Some(remaining))
    }
}

impl<T> ExactSizeIterator for Iter<'_, T> {}

impl<T> FusedIterator for Iter<'_, T> {}

impl<T> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("len", &self.len()).finish_non_exhaustive()
    }
}
