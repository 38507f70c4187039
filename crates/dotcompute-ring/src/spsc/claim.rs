//! Many slots at once: claimed, written or read in place, and published or given back together.

use core::mem::MaybeUninit;

use super::{Consumer, Producer};

/// Slots claimed for writing ([`Producer::claim`]). Dropping it without [`commit`](Self::commit) drops what was written and publishes nothing.
#[must_use = "nothing is published without `commit`"]
pub struct ClaimedWrite<'a, T> {
    pub(super) producer: &'a mut Producer<T>,
    pub(super) claimed: u64,
    /// Of the claimed, from the front.
    pub(super) written: u64,
}

impl<T> ClaimedWrite<'_, T> {
    /// Slots that are claimed and not yet written.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        (self.claimed - self.written) as usize
    }

    /// Whether every claimed slot is written.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.written == self.claimed
    }

    /// Writes a value to the next slot.
    ///
    /// # Errors
    ///
    /// The value comes back if every claimed slot is written.
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

    /// Writes values to the next slots, until there are no more of either. Gives how many. No value is taken from the iterator that
    /// there is no slot for.
    #[inline]
    pub fn fill(&mut self, values: impl IntoIterator<Item = T>) -> usize {
        let before = self.written;
        let mut values = values.into_iter();
        while self.written < self.claimed {
            let Some(value) = values.next() else { break };
            self.next_slot(|storage| {
                storage.write(value);
            });
            // After the value is there, and one by one: should the iterator panic, what was written is dropped, and only that.
            self.written += 1;
        }
        (self.written - before) as usize
    }

    /// Lets `write` fill the next slot in place. None if every claimed slot is written.
    ///
    /// # Safety
    ///
    /// `write` has initialised the place when it returns.
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
            // SAFETY: as in `try_push`: the claim found room for this ticket, and has the one producer by `&mut`.
            write(unsafe { &mut *storage })
        })
    }

    /// Publishes what was written. Gives how much. The other slots stay free.
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
        // After a commit `written` is zero.
        while core::mem::needs_drop::<T>() && self.written > 0 {
            self.written -= 1;
            self.next_slot(|storage| {
                // SAFETY: the place was written, is not published, and with the count taken back is nobody's.
                unsafe { storage.assume_init_drop() };
            });
        }
    }
}

/// Values claimed for reading ([`Consumer::claim`]). As an iterator it takes them; dropping it gives the slots of those taken back, and
/// leaves the others in the ring.
#[must_use = "a claim that is not used leaves everything in the ring"]
pub struct ClaimedRead<'a, T> {
    pub(super) consumer: &'a mut Consumer<T>,
    /// Ready slots from its head on.
    pub(super) remaining: u64,
}

impl<T> ClaimedRead<'_, T> {
    /// Looks at the values that have not been taken yet, oldest first.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &T> {
        let Consumer { ring_ref, head, .. } = &*self.consumer;
        (0..self.remaining as usize).map(move |index| {
            // SAFETY: these slots are ready, and nobody touches their values while the consumer, which `self` has by `&mut`, does not
            // move on; that takes `&mut self`.
            ring_ref.slot(head + index as u64).value.with(|storage| unsafe { (*storage).assume_init_ref() })
        })
    }

    /// Takes all that is left, dropping it.
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
        // SAFETY: `remaining` counts ready slots from `head` on, and this was one of them.
        Some(unsafe { self.consumer.read_next() })
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining as usize, Some(self.remaining as usize))
    }
}

impl<T> ExactSizeIterator for ClaimedRead<'_, T> {}

impl<T> Drop for ClaimedRead<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.consumer.release_slots();
    }
}
