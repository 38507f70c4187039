//! Connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use crate::message::MessageHeader;

/// What became of an output that was offered.
pub(crate) enum Offer<O> {
    Taken,
    /// No room now; offer it again.
    Full(O),
    /// It will never be taken, and why.
    Refused(O, String),
}

/// A place that takes outputs of type `O`.
pub(crate) trait Outlet<O>: Send {
    fn offer(&mut self, header: MessageHeader, output: O) -> Offer<O>;
    /// Ready when offering again may succeed.
    fn poll_room(&mut self, priority: u8, cx: &mut Context<'_>) -> Poll<()>;
}

/// A connection, and the link that its device has for it.
pub(crate) type Route<O> = (Box<dyn Outlet<O>>, Option<u8>);

/// Connections made with `connect`, on their way to the driver, which takes them at a message boundary.
pub(crate) struct Routes<O> {
    /// How many there are; the driver compares it with how many it has.
    made: AtomicUsize,
    new: Mutex<Vec<Route<O>>>,
    clone: OnceLock<fn(&O) -> O>,
}

impl<O> Routes<O> {
    pub(crate) fn new() -> Self {
        Self { made: AtomicUsize::new(0), new: Mutex::new(Vec::new()), clone: OnceLock::new() }
    }

    /// How many connections were made so far.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.made.load(Ordering::Acquire)
    }

    /// The connections made since the last call.
    pub(crate) fn take_new(&self) -> Vec<Route<O>> {
        std::mem::take(&mut *self.new.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How to clone an output. None before the first connection is made.
    pub(crate) fn clone_fn(&self) -> Option<fn(&O) -> O> {
        self.clone.get().copied()
    }

    pub(crate) fn add(&self, outlet: Box<dyn Outlet<O>>, link: Option<u8>)
    where
        O: Clone,
    {
        self.clone.get_or_init(|| O::clone);
        self.new.lock().unwrap_or_else(PoisonError::into_inner).push((outlet, link));
        // Release: a driver that sees the count finds the outlet and the clone function.
        self.made.fetch_add(1, Ordering::Release);
    }
}
