//! Queue of checkpoint and restore requests from handles to the device proxy.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dotcompute_ring::reply::{ReplySender, ReplySlot};

/// The bytes of the state after a read, no bytes after a write, or the device's error text.
pub(crate) type StateReply = Result<Vec<u8>, String>;

/// A request to read or write the state.
pub(crate) struct StateRequest {
    /// The bytes to write. `None` to read.
    pub(crate) write: Option<Vec<u8>>,
    pub(crate) reply: ReplySender<StateReply>,
}

/// The requests that the device proxy has not served yet.
#[derive(Default)]
pub(crate) struct StateRequestQueue {
    pending: AtomicBool,
    requests: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    requests: VecDeque<StateRequest>,
    /// The ring kernel has ended. Later requests complete with `ReplyDropped`, because their reply sender is dropped.
    closed: bool,
}

impl StateRequestQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enqueues a request. The caller must notify the device proxy afterwards.
    pub(crate) fn enqueue(&self, write: Option<Vec<u8>>) -> ReplySlot<StateReply> {
        let mut slot = ReplySlot::new();
        let reply = slot.arm();
        let mut queue = self.lock();
        if !queue.closed {
            queue.requests.push_back(StateRequest { write, reply });
            // Release: pairs with the acquire load in `are_pending`; publishes the request.
            self.pending.store(true, Ordering::Release);
        }
        slot
    }

    /// Whether requests are queued.
    #[inline]
    pub(crate) fn are_pending(&self) -> bool {
        // Acquire: pairs with the release store in `enqueue`.
        self.pending.load(Ordering::Acquire)
    }

    /// Takes all queued requests.
    pub(crate) fn take(&self) -> VecDeque<StateRequest> {
        let mut queue = self.lock();
        self.pending.store(false, Ordering::Release);
        std::mem::take(&mut queue.requests)
    }

    /// Drops all queued requests and rejects later ones.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        drop(self.take());
    }
}
