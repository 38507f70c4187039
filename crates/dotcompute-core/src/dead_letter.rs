//! Dead letters: messages that will never be handled. All are counted; the latest are stored for inspection.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// The dead letters of a runtime: stores the latest, counts all.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    capacity: usize,
    letters: Mutex<VecDeque<DeadLetter>>,
    total: AtomicU64,
}

impl DeadLetters {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, letters: Mutex::new(VecDeque::new()), total: AtomicU64::new(0) })
    }

    pub(crate) fn add(&self, fault: Fault, header: MessageHeader, message: Option<Box<dyn Any + Send>>) {
        let letter = DeadLetter { fault, header, when: SystemTime::now(), message };
        let dropped = {
            let mut letters = self.lock();
            let full = letters.len() >= self.capacity;
            let oldest = if full { letters.pop_front() } else { None };
            let dropped = if self.capacity > 0 {
                letters.push_back(letter);
                oldest
            } else {
                Some(letter)
            };
            // Release, after the push: who sees the new total also finds the dead letter.
            self.total.fetch_add(1, Ordering::Release);
            dropped
        };
        // Dropped after the lock is released: the message's own `drop` may be slow. It may also panic, on the thread of a ring kernel that
        // has nothing to do with this message.
        drop_contained(dropped);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Acquire)
    }

    pub(crate) fn list(&self) -> Vec<DeadLetterInfo> {
        let info = |letter: &DeadLetter| DeadLetterInfo {
            fault: letter.fault.clone(),
            header: letter.header,
            when: letter.when,
            holds_message: letter.message.is_some(),
        };
        self.lock().iter().map(info).collect()
    }

    pub(crate) fn take(&self) -> Vec<DeadLetter> {
        std::mem::take(&mut *self.lock()).into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<DeadLetter>> {
        // A poisoned queue is still consistent: no invariant spans its elements.
        self.letters.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for DeadLetters {
    fn drop(&mut self) {
        for letter in self.take() {
            drop_contained(letter);
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
}
