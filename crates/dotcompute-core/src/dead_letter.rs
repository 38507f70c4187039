//! Messages that will never be handled: counted exactly, and the latest of them kept for inspection.

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

/// A message that will never be handled.
pub struct DeadLetter {
    /// What happened, where, to which type of message.
    pub fault: Fault,
    /// The message's header.
    pub header: MessageHeader,
    /// When it was given up.
    pub when: SystemTime,
    /// The message itself, where it still exists: a handler that panicked or failed has consumed its message.
    pub message: Option<Box<dyn Any + Send>>,
}

impl DeadLetter {
    /// Takes the message out, if it still exists and is a `M`; otherwise leaves everything as it is.
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

/// What can be read about a dead letter without taking it.
#[derive(Debug, Clone)]
pub struct DeadLetterInfo {
    /// What happened, where, to which type of message.
    pub fault: Fault,
    /// The message's header.
    pub header: MessageHeader,
    /// When it was given up.
    pub when: SystemTime,
    /// Whether the message itself still exists.
    pub holds_message: bool,
}

/// A runtime's dead letters: the latest are kept, all are counted.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    capacity: usize,
    kept: Mutex<VecDeque<DeadLetter>>,
    total: AtomicU64,
}

impl DeadLetters {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, kept: Mutex::new(VecDeque::new()), total: AtomicU64::new(0) })
    }

    pub(crate) fn add(&self, fault: Fault, header: MessageHeader, message: Option<Box<dyn Any + Send>>) {
        let letter = DeadLetter { fault, header, when: SystemTime::now(), message };
        self.total.fetch_add(1, Ordering::Relaxed);
        let pushed_out = {
            let mut kept = self.lock();
            let full = kept.len() >= self.capacity;
            let oldest = if full { kept.pop_front() } else { None };
            if self.capacity > 0 {
                kept.push_back(letter);
            }
            oldest
        };
        // Dropped after the lock is released: a message's own `drop` may take its time.
        drop(pushed_out);
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
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
        // A poisoned queue is still a queue: no invariant spans its elements.
        self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        Fault { kernel: "k".into(), message_type: "u8", reason: Reason::Evicted, cause: String::new() }
    }

    #[test]
    fn keeps_the_latest_and_counts_all() {
        let letters = DeadLetters::new(2);
        for value in 0u8..5 {
            letters.add(fault(), MessageHeader::new(), Some(Box::new(value)));
        }
        assert_eq!(letters.total(), 5);
        let kept: Vec<u8> =
            letters.take().into_iter().map(|mut letter| letter.take_message().unwrap()).collect();
        assert_eq!(kept, [3, 4]);
        assert!(letters.list().is_empty());
    }

    #[test]
    fn a_letter_of_another_type_is_not_lost_by_asking() {
        let letters = DeadLetters::new(1);
        letters.add(fault(), MessageHeader::new(), Some(Box::new(7u8)));
        let mut letter = letters.take().pop().unwrap();
        assert_eq!(letter.take_message::<String>(), None);
        assert_eq!(letter.take_message::<u8>(), Some(7));
    }

    #[test]
    fn a_capacity_of_zero_only_counts() {
        let letters = DeadLetters::new(0);
        letters.add(fault(), MessageHeader::new(), None);
        assert_eq!((letters.total(), letters.list().len()), (1, 0));
    }
}
