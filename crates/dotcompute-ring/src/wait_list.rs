//! Waking everybody who waits for room, for an output or for a change of state.

use alloc::vec::Vec;
use core::task::Waker;

use crate::fence::Fence;
use crate::sync::{AtomicUsize, Mutex, Ordering};

/// Many waiters, many notifiers. Notifying costs one load where nobody waits; waiting takes a lock.
///
/// The waiters' protocol is that of [`Signal`](crate::signal::Signal): [`prepare`](Self::prepare), look again, sleep.
pub struct WaitList {
    /// How many wait; written under the lock, read without it.
    waiting: AtomicUsize,
    fence: Fence,
    list: Mutex<Entries>,
}

struct Entries {
    next_key: u64,
    wakers: Vec<(u64, Waker)>,
}

/// A waiter's place in a [`WaitList`]; a default one is none. Give it back with [`WaitList::cancel`].
#[derive(Debug, Default)]
pub struct Ticket {
    /// Keys are never used twice, so a ticket that outlived its place cannot touch another's. Zero is none.
    key: u64,
}

impl WaitList {
    /// A list with nobody in it. Allocates nothing.
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        let list = Mutex::new(Entries { next_key: 1, wakers: Vec::new() });
        Self { waiting: AtomicUsize::new(0), fence: fence.available(), list }
    }

    fn with_entries<R>(&self, f: impl FnOnce(&mut Entries) -> R) -> R {
        // A waker's `clone` may panic under the lock; the entries are whole all the same.
        let mut entries = self.list.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let result = f(&mut entries);
        self.waiting.store(entries.wakers.len(), Ordering::Relaxed);
        result
    }

    /// Puts the caller on the list, or replaces its waker. Then look at the condition once more before sleeping.
    pub fn prepare(&self, ticket: &mut Ticket, waker: &Waker) {
        self.with_entries(|entries| {
            match entries.wakers.iter_mut().find(|(key, _)| *key == ticket.key) {
                Some((_, present)) => present.clone_from(waker),
                None => {
                    ticket.key = entries.next_key;
                    entries.next_key += 1;
                    entries.wakers.push((ticket.key, waker.clone()));
                }
            }
        });
        // Between the announcement and the caller's second look; pairs with the light fence in `notify_all`.
        self.fence.heavy();
    }

    /// Takes the caller off the list, if it is still on it.
    pub fn cancel(&self, ticket: &mut Ticket) {
        let key = core::mem::take(&mut ticket.key);
        if key != 0 {
            self.with_entries(|entries| entries.wakers.retain(|(present, _)| *present != key));
        }
    }

    /// Whether anybody waits, as seen after what this thread published before.
    #[inline]
    pub fn is_waited_on(&self) -> bool {
        self.fence.light();
        self.waiting.load(Ordering::Relaxed) != 0
    }

    /// Wakes everybody and empties the list. Call after publishing what they wait for.
    #[inline]
    pub fn notify_all(&self) {
        if self.is_waited_on() {
            self.wake_all();
        }
    }

    #[cold]
    fn wake_all(&self) {
        let wakers = self.with_entries(|entries| core::mem::take(&mut entries.wakers));
        // Outside the lock: a waker may run code that waits here again.
        for (_, waker) in wakers {
            waker.wake();
        }
    }
}
