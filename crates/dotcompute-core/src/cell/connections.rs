//! Connections between ring kernels, handed over from `connect` to the driver.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use super::wait_graph::OutputEdge;
use crate::message::MessageHeader;

/// Result of an attempt to send an output.
pub(crate) enum SendOutcome<O> {
    Accepted,
    /// No free slot at present; try again.
    Full(O),
    /// The sink will never accept it, for this reason.
    Rejected(O, String),
}

/// A destination for outputs of type `O`.
pub(crate) trait OutputSink<O>: Send {
    fn try_send(&mut self, header: MessageHeader, output: O) -> SendOutcome<O>;
    /// Ready once another attempt may succeed; otherwise registers the task's waker.
    fn poll_ready(&mut self, priority: u8, cx: &mut Context<'_>) -> Poll<()>;
    /// Returns what an output of this priority waits for while there is no free slot.
    fn destination(&self, priority: u8) -> OutputEdge;
}

/// A destination, and the number of the device link that also leads to it, if there is one.
pub(crate) type Connection<O> = (Box<dyn OutputSink<O>>, Option<u8>);

/// The connections of one ring kernel. `connect` adds them, and the driver takes them over at its next output.
pub(crate) struct Connections<O> {
    /// Number of connections added. The driver compares it with the number it has taken over.
    added: AtomicUsize,
    new: Mutex<Vec<Connection<O>>>,
    clone: OnceLock<fn(&O) -> O>,
}

impl<O> Connections<O> {
    pub(crate) fn new() -> Self {
        Self { added: AtomicUsize::new(0), new: Mutex::new(Vec::new()), clone: OnceLock::new() }
    }

    /// Returns the number of connections added so far.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        // SYNC POINT: connection-added (driver). Acquire: pairs with the release in `add`; the sink and the clone function are visible.
        self.added.load(Ordering::Acquire)
    }

    /// Takes the connections added since the last call.
    pub(crate) fn take_new(&self) -> Vec<Connection<O>> {
        std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the function that clones an output. `None` before the first connection.
    pub(crate) fn clone_fn(&self) -> Option<fn(&O) -> O> {
        self.clone.get().copied()
    }

    pub(crate) fn add(&self, sink: Box<dyn OutputSink<O>>, link: Option<u8>)
    where
        O: Clone,
    {
        self.clone.get_or_init(|| O::clone);
        self.new.lock().unwrap_or_else(PoisonError::into_inner).push((sink, link));
        // SYNC POINT: connection-added (caller). Release: pairs with the acquire load in `count`; publishes the sink and the clone
        // function.
        self.added.fetch_add(1, Ordering::Release);
    }
}
