//! Reading the state of a ring kernel on a device, and putting it back: calls on their way to its attendant.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use dotcompute_ring::reply::{ReplySender, ReplySlot};

/// What came of a call: the state's bytes for a read, none for a write; or what the device says.
pub(crate) type StateAnswer = Result<Vec<u8>, String>;

/// A call.
pub(crate) struct StateCall {
    /// The bytes to be put into the state; none to read it.
    pub(crate) write: Option<Vec<u8>>,
    pub(crate) reply: ReplySender<StateAnswer>,
}

/// The calls that an attendant has not come to.
#[derive(Default)]
pub(crate) struct StateCalls {
    pending: AtomicBool,
    calls: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    calls: VecDeque<StateCall>,
    /// The ring kernel has ended; who calls now is told by the end of his replier.
    closed: bool,
}

impl StateCalls {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a call in. The attendant has to be woken after it.
    pub(crate) fn put(&self, write: Option<Vec<u8>>) -> ReplySlot<StateAnswer> {
        let mut slot = ReplySlot::new();
        let reply = slot.arm();
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.calls.push_back(StateCall { write, reply });
            // Release: an attendant that sees it finds the call.
            self.pending.store(true, Ordering::Release);
        }
        slot
    }

    /// Whether there are any.
    #[inline]
    pub(crate) fn are_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// All that there are.
    pub(crate) fn take(&self) -> VecDeque<StateCall> {
        let mut waiting = self.lock();
        self.pending.store(false, Ordering::Release);
        std::mem::take(&mut waiting.calls)
    }

    /// Turns away those that there are and all that come.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        drop(self.take());
    }
}
