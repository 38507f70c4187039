//! Dead letters: messages that will never be handled. All are counted; the latest are stored for inspection.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::num::NonZero;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::fault::Fault;
pub use crate::fault::Reason;
use crate::message::MessageHeader;
use crate::user_code::drop_contained;

/// A message that will never be handled.
pub struct DeadLetter {
    /// The ring kernel, the type of the message, and the cause.
    pub fault: Fault,
    /// The header of the message.
    pub header: MessageHeader,
    /// When it became a dead letter.
    pub when: SystemTime,
    /// The message itself, if it still exists: a handler on the host that panicked or failed has consumed its message.
    pub message: Option<Box<dyn Any + Send>>,
}

impl DeadLetter {
    /// Takes the message if it still exists and is an `M`. Otherwise changes nothing.
    pub fn take_message<M: 'static>(&mut self) -> Option<M> {
        match self.message.take()?.downcast() {
            Ok(message) => Some(*message),
            Err(message) => {
                self.message = Some(message);
                None
            }
        }
    }
}

impl fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeadLetter")
            .field("fault", &self.fault)
            .field("header", &self.header)
            .field("when", &self.when)
            .field("holds_message", &self.message.is_some())
            .finish()
    }
}

/// A dead letter without its message.
#[derive(Debug, Clone)]
pub struct DeadLetterInfo {
    /// The ring kernel, the type of the message, and the cause.
    pub fault: Fault,
    /// The header of the message.
    pub header: MessageHeader,
    /// When it became a dead letter.
    pub when: SystemTime,
    /// Whether the message itself still exists.
    pub holds_message: bool,
}

/// Upper limit of the number of shards.
const MAX_SHARDS: usize = 16;

/// The dead letters of a runtime: stores the latest, counts all.
///
/// Under overload with `Backpressure::DropOldest` every message is a dead letter. Each thread adds to one of several shards, so that threads
/// rarely wait for each other. A sequence number gives the order of all.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    /// Number of stored dead letters, at most.
    capacity: usize,
    /// The sequence number of the next dead letter.
    next: AtomicU64,
    shards: Box<[Shard]>,
}

/// On cache lines of its own: another thread writes the next one.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// In the order of their sequence numbers, almost: two threads of one shard may swap neighbours.
    letters: Mutex<VecDeque<(u64, DeadLetter)>>,
    /// Number of dead letters ever added.
    added: AtomicU64,
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, DeadLetter)>> {
        // A poisoned queue is still consistent: no invariant spans its elements.
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns a number of the calling thread: successive threads have successive numbers.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    // An error means that the thread is ending: any number will do.
    NUMBER.try_with(|number| *number).unwrap_or(0)
}

impl DeadLetters {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let shards = (2 * cores).next_power_of_two().min(MAX_SHARDS);
        let shards = std::iter::repeat_with(Shard::default).take(shards).collect();
        Arc::new(Self { capacity, next: AtomicU64::new(0), shards })
    }

    pub(crate) fn add(&self, fault: Fault, header: MessageHeader, message: Option<Box<dyn Any + Send>>) {
        let letter = DeadLetter { fault, header, when: SystemTime::now(), message };
        // The number of shards is a power of two.
        let shard = &self.shards[thread_number() & (self.shards.len() - 1)];
        // Relaxed: the numbers order dead letters, not memory.
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        // Dropped after the lock is released: the message's own `drop` may be slow. It may also panic, on the thread of a ring kernel that
        // has nothing to do with this message.
        let dropped = self.store(shard, sequence, letter);
        drop_contained(dropped);
    }

    /// Stores a letter. Returns one that is no longer among the latest, if the shard has one.
    fn store(&self, shard: &Shard, sequence: u64, letter: DeadLetter) -> Option<DeadLetter> {
        let mut letters = shard.lock();
        letters.push_back((sequence, letter));
        // Written under the lock only. Release, after the letter is stored: a reader that sees the new total also finds the letter.
        shard.added.store(shard.added.load(Ordering::Relaxed) + 1, Ordering::Release);
        let oldest_kept = (sequence + 1).saturating_sub(self.capacity as u64);
        let is_outdated = letters.front().is_some_and(|&(oldest, _)| oldest < oldest_kept);
        // One for one: a shard that others have overtaken shrinks when they no longer add.
        if is_outdated || letters.len() > self.capacity {
            letters.pop_front().map(|(_, letter)| letter)
        } else {
            None
        }
    }

    pub(crate) fn total(&self) -> u64 {
        // Acquire: pairs with `store`.
        self.shards.iter().map(|shard| shard.added.load(Ordering::Acquire)).sum()
    }

    pub(crate) fn list(&self) -> Vec<DeadLetterInfo> {
        let info = |letter: &DeadLetter| DeadLetterInfo {
            fault: letter.fault.clone(),
            header: letter.header,
            when: letter.when,
            holds_message: letter.message.is_some(),
        };
        let mut letters = Vec::new();
        for shard in &self.shards {
            letters.extend(shard.lock().iter().map(|(sequence, letter)| (*sequence, info(letter))));
        }
        self.latest(letters).1
    }

    pub(crate) fn take(&self) -> Vec<DeadLetter> {
        let letters = self.shards.iter().flat_map(|shard| std::mem::take(&mut *shard.lock())).collect();
        let (outdated, latest) = self.latest(letters);
        outdated.into_iter().for_each(drop_contained);
        latest
    }

    /// Sorts dead letters and splits them: those that are no longer among the latest, and the others.
    fn latest<L>(&self, mut letters: Vec<(u64, L)>) -> (Vec<L>, Vec<L>) {
        letters.sort_unstable_by_key(|&(sequence, _)| sequence);
        let outdated = letters.len().saturating_sub(self.capacity);
        let latest = letters.split_off(outdated);
        let unnumbered = |letters: Vec<(u64, L)>| letters.into_iter().map(|(_, letter)| letter).collect();
        (unnumbered(letters), unnumbered(latest))
    }
}

impl Drop for DeadLetters {
    fn drop(&mut self) {
        for shard in &self.shards {
            for (_, letter) in std::mem::take(&mut *shard.lock()) {
                drop_contained(letter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        Fault { kernel: "k".into(), message_type: "u8", reason: Reason::Evicted, cause: String::new() }
    }

    #[test]
    fn stores_the_latest_and_counts_all() {
        let dead_letters = DeadLetters::new(2);
        for value in 0u8..5 {
            dead_letters.add(fault(), MessageHeader::new(), Some(Box::new(value)));
        }
        assert_eq!(dead_letters.total(), 5);
        let messages: Vec<u8> =
            dead_letters.take().into_iter().map(|mut letter| letter.take_message().unwrap()).collect();
        assert_eq!(messages, [3, 4]);
        assert!(dead_letters.list().is_empty());
    }

    #[test]
    fn taking_a_message_as_another_type_leaves_it_in_the_dead_letter() {
        let dead_letters = DeadLetters::new(1);
        dead_letters.add(fault(), MessageHeader::new(), Some(Box::new(7u8)));
        let mut letter = dead_letters.take().pop().unwrap();
        assert_eq!(letter.take_message::<String>(), None);
        assert_eq!(letter.take_message::<u8>(), Some(7));
    }

    #[test]
    fn a_capacity_of_zero_only_counts() {
        let dead_letters = DeadLetters::new(0);
        dead_letters.add(fault(), MessageHeader::new(), None);
        assert_eq!((dead_letters.total(), dead_letters.list().len()), (1, 0));
    }

    #[test]
    fn the_latest_of_all_threads_are_stored_in_order() {
        const EACH: u64 = 1000;
        let dead_letters = DeadLetters::new(10);
        let add = |value: u64| dead_letters.add(fault(), MessageHeader::new(), Some(Box::new(value)));
        // One after another, so that the order is known; each thread has a shard of its own, or shares it.
        for thread in 0..40 {
            std::thread::scope(|scope| {
                scope.spawn(|| (0..EACH).for_each(|value| add(thread * EACH + value)));
            });
            assert_eq!(dead_letters.total(), (thread + 1) * EACH);
            assert_eq!(dead_letters.list().len(), 10);
        }
        let values: Vec<u64> =
            dead_letters.take().into_iter().map(|mut letter| letter.take_message().unwrap()).collect();
        assert_eq!(values, (40 * EACH - 10..40 * EACH).collect::<Vec<_>>());
    }

    #[test]
    fn dead_letters_of_threads_at_once_are_all_counted() {
        const EACH: u64 = 20_000;
        let dead_letters = DeadLetters::new(100);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..EACH).for_each(|_| dead_letters.add(fault(), MessageHeader::new(), None)));
            }
            // A reader that sees the total also finds dead letters.
            while dead_letters.total() == 0 {}
            assert!(!dead_letters.list().is_empty());
        });
        assert_eq!((dead_letters.total(), dead_letters.list().len()), (4 * EACH, 100));
    }
}
