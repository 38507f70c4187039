//! Output ring.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use dotcompute_ring::fence::Fence;
use dotcompute_ring::mailbox::{self, Band, Receiver, Sender};
use dotcompute_ring::wait_list::{WaitList, WaitToken};
use dotcompute_ring::{CapacityError, PushError};

use crate::envelope::Received;
use crate::message::Message;

/// The ring that `receive` reads. Its memory is taken when it is first used.
pub(crate) struct OutputRing<O> {
    capacity: usize,
    ring: OnceLock<Ends<O>>,
    readers: WaitList,
}

impl<O> OutputRing<O> {
    /// The callers that wait for an output.
    pub(crate) fn readers(&self) -> &WaitList {
        &self.readers
    }
}

struct Ends<O> {
    sender: Sender<Received<O>>,
    /// Handles are many and a ring has one consumer end, so they take turns.
    receiver: Mutex<Receiver<Received<O>>>,
}

impl<O: Message> OutputRing<O> {
    /// Checks the capacity now, so that using the ring cannot fail later.
    pub(crate) fn new(capacity: usize) -> Result<Self, CapacityError> {
        mailbox::check_capacity::<Received<O>>(capacity)?;
        Ok(Self { capacity, ring: OnceLock::new(), readers: WaitList::new(Fence::Symmetric) })
    }

    fn ends(&self) -> &Ends<O> {
        self.ring.get_or_init(|| {
            let options = mailbox::Options {
                capacity: self.capacity,
                overflow: mailbox::Overflow::Reject,
                fence: Fence::Asymmetric,
            };
            let (sender, receiver) = mailbox::channel(options).expect("the capacity was checked at launch");
            Ends { sender, receiver: Mutex::new(receiver) }
        })
    }

    /// Puts an output in and wakes the callers that wait for one.
    pub(crate) fn push(&self, output: Received<O>) -> Result<(), PushError<Received<O>>> {
        let band = Band::of(output.header.priority.get());
        self.ends().sender.try_push(band, output)?;
        self.readers.notify_all();
        Ok(())
    }

    /// Ready once pushing with this priority may succeed.
    pub(crate) fn poll_ready(&self, priority: u8, token: &mut WaitToken, cx: &mut Context<'_>) -> Poll<()> {
        self.ends().sender.poll_ready(Band::of(priority), token, cx)
    }

    pub(crate) fn try_receive(&self) -> Option<Received<O>> {
        // Not made yet means that nothing was ever put in.
        let ends = self.ring.get()?;
        ends.receiver.lock().unwrap_or_else(PoisonError::into_inner).try_pop()
    }
}
