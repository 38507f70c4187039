//! The output ring: outputs of a ring kernel that is not connected, until a caller receives them.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use dotcompute_ring::fence::Fence;
use dotcompute_ring::mailbox::{self, Band, Receiver, Sender};
use dotcompute_ring::wait_list::{WaitList, WaitToken};
use dotcompute_ring::{CapacityError, PushError};

use crate::envelope::Received;
use crate::message::Message;

/// The ring that `receive` reads. Allocated on first use.
pub(crate) struct OutputRing<O> {
    capacity: usize,
    ring: OnceLock<Ends<O>>,
    readers: WaitList,
}

impl<O> OutputRing<O> {
    /// The wait list of callers that wait for an output.
    pub(crate) fn readers(&self) -> &WaitList {
        &self.readers
    }
}

struct Ends<O> {
    sender: Sender<Received<O>>,
    /// Handles share the only receiver of the ring.
    receiver: Mutex<Receiver<Received<O>>>,
}

impl<O: Message> OutputRing<O> {
    /// Checks the capacity, so that the later allocation cannot fail.
    pub(crate) fn new(capacity: usize) -> Result<Self, CapacityError> {
        mailbox::check_capacity::<Received<O>>(capacity)?;
        Ok(Self { capacity, ring: OnceLock::new(), readers: WaitList::new(Fence::Symmetric) })
    }

    fn ends(&self) -> &Ends<O> {
        self.ring.get_or_init(|| {
            let options = mailbox::Options {
                capacity: self.capacity,
                fence: Fence::Asymmetric,
                ..mailbox::Options::default()
            };
            let (sender, receiver) = mailbox::channel(options).expect("the capacity was checked at launch");
            Ends { sender, receiver: Mutex::new(receiver) }
        })
    }

    /// Pushes an output, then wakes all callers that wait for one.
    pub(crate) fn push(&self, output: Received<O>) -> Result<(), PushError<Received<O>>> {
        let band = Band::of(output.header.priority.get());
        self.ends().sender.try_push(band, output)?;
        // SYNC POINT: output-waiter (ring kernel). Fills a slot, then wakes. Pairs with `OutputWaiter::poll`, which registers, then
        // rechecks.
        self.readers.notify_all();
        Ok(())
    }

    /// Ready once a push with this priority may succeed; otherwise registers the task's waker.
    pub(crate) fn poll_ready(&self, priority: u8, token: &mut WaitToken, cx: &mut Context<'_>) -> Poll<()> {
        self.ends().sender.poll_ready(Band::of(priority), token, cx)
    }

    /// Returns the number of outputs that were not received.
    pub(crate) fn len(&self) -> usize {
        self.ring.get().map_or(0, |ends| ends.sender.len())
    }

    /// Stops waiting for a free slot.
    pub(crate) fn cancel_wait(&self, token: &mut WaitToken) {
        if let Some(ends) = self.ring.get() {
            ends.sender.cancel_wait(token);
        }
    }

    pub(crate) fn try_receive(&self) -> Option<Received<O>> {
        // A ring that was never allocated has never held an output.
        let ends = self.ring.get()?;
        ends.receiver.lock().unwrap_or_else(PoisonError::into_inner).try_pop()
    }
}
