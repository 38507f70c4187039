//! Links between ring kernels of one device, as the host counts, closes and drains them.
//!
//! A link is a ring in device memory. The source kernel produces into it and the target kernel consumes from it; the host takes no part
//! in the transfer of a message. `device_peer` creates links.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dotcompute_core::backend::BackendError;
use dotcompute_core::backend::device_port::LinkCounts;

use crate::host_device_channel::ChannelMemory;
use crate::protocol::{COMMAND_CLOSED_SHIFT, InputHeader, Ring, STATE_OFF_DEVICE, STATE_STOPPED};
use crate::resident_grid::LinkMemory;

/// Slots of a link. A handler that sends at most half as many outputs per message never waits for a free slot.
pub(crate) const LINK_SLOTS: usize = 256;

/// The source kernel of a link, as the link sees it.
pub(crate) trait LinkSource: Send + Sync {
    /// Returns the state that the device has published: a `STATE_*` constant.
    fn state(&self) -> u32;

    /// Whether the ring kernel is lost.
    fn is_lost(&self) -> bool;
}

/// A link.
pub(crate) struct Link {
    pub(crate) memory: Arc<dyn LinkMemory>,
    pub(crate) ring: Ring,
    pub(crate) source: Weak<dyn LinkSource>,
    pub(crate) source_memory: Arc<ChannelMemory>,
    /// Index of the link among the outgoing links of the source.
    pub(crate) out: usize,
    pub(crate) target_memory: Arc<ChannelMemory>,
    /// Index of the link among the incoming links of the target.
    pub(crate) into: usize,
}

impl Link {
    fn sent(&self) -> u64 {
        // SYNC POINT: link counts
        // Acquire: pairs with the release store of `sent` in `Leader::finish` (leader.cuh).
        self.source_memory.control().links.sent[self.out].load(Ordering::Acquire)
    }

    fn handled(&self) -> u64 {
        // SYNC POINT: link counts
        // Acquire: pairs with the release store of `handled` in `Leader::finish` (leader.cuh); `linked_failed` is written before it.
        self.target_memory.control().links.handled[self.into].load(Ordering::Acquire)
    }

    fn has_messages(&self) -> bool {
        // `handled` is read first: every message handled by then was sent before, so the difference is never negative.
        let handled = self.handled();
        self.sent() > handled
    }

    fn bit(&self) -> u32 {
        1 << self.out
    }

    /// Asks the source to stop sending over the link. Returns true once it sends nothing over it any more.
    fn close(&self) -> bool {
        let Some(source) = self.source.upgrade() else { return true };
        let control = self.source_memory.control();
        // SYNC POINT: link close
        // The source confirms in `closed_links` (`Leader::apply_link_routing`, leader.cuh), unless it is off the device or lost.
        control.host.command.fetch_or(self.bit() << COMMAND_CLOSED_SHIFT, Ordering::Release);
        // SYNC POINT: relaunch
        // Pairs with the fence in `ResidentKernel::relaunch`: a source that is off the device is relaunched with the link closed.
        fence(Ordering::SeqCst);
        let is_off_device = matches!(source.state(), STATE_OFF_DEVICE | STATE_STOPPED) || source.is_lost();
        // Acquire: pairs with the release store of `closed_links`; `sent` then includes every message sent before the confirmation.
        is_off_device || control.status.closed_links.load(Ordering::Acquire) & u64::from(self.bit()) != 0
    }

    /// Passes the messages that the target has not handled to `each`. The link is closed and the target is off the device or lost.
    fn drain(&self, message_size: usize, each: &mut dyn FnMut(&[u8])) -> Result<(), BackendError> {
        let (handled, sent) = (self.handled(), self.sent());
        if handled >= sent {
            return Ok(());
        }
        let bytes = self.memory.read()?;
        for sequence in handled..sent {
            let slot = ChannelMemory::link_slot(self.ring, sequence);
            let begin = slot + size_of::<u64>() + size_of::<InputHeader>();
            if let Some(message) = bytes.get(begin..begin + message_size) {
                each(message);
            }
        }
        Ok(())
    }
}

/// The links of one ring kernel.
#[derive(Default)]
pub(crate) struct Links(Mutex<LinkEnds>);

/// The links at both sides of a ring kernel.
#[derive(Default)]
pub(crate) struct LinkEnds {
    pub(crate) incoming: Vec<Arc<Link>>,
    pub(crate) outgoing: Vec<Arc<Link>>,
    /// Set once the ring kernel is about to end: no link is created after that.
    pub(crate) closed: bool,
}

impl Links {
    pub(crate) fn lock(&self) -> MutexGuard<'_, LinkEnds> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an incoming link has messages that are not handled yet.
    pub(crate) fn have_messages(&self) -> bool {
        self.lock().incoming.iter().any(|link| link.has_messages())
    }

    /// Closes the incoming links. Returns `None` while a source may still send, then the number of messages that wait.
    pub(crate) fn close(&self) -> Option<u64> {
        let mut ends = self.lock();
        ends.closed = true;
        // `filter` visits every link: each source receives the request, even if an earlier one has not confirmed.
        let open = ends.incoming.iter().filter(|link| !link.close()).count();
        (open == 0).then(|| ends.incoming.iter().map(|link| link.sent().saturating_sub(link.handled())).sum())
    }

    /// Passes the messages that wait in the incoming links to `each`. The links are closed and the ring kernel is off the device or lost.
    pub(crate) fn drain(&self, message_size: usize, each: &mut dyn FnMut(&[u8])) -> Result<(), BackendError> {
        let incoming = self.lock().incoming.clone();
        incoming.iter().try_for_each(|link| link.drain(message_size, each))
    }

    /// Returns the counters of all links of the ring kernel.
    pub(crate) fn counts(&self) -> LinkCounts {
        let ends = self.lock();
        let sum = |links: &[Arc<Link>], count: fn(&Link) -> u64| links.iter().map(|link| count(link)).sum();
        // `handled` is read first. It is then never larger than `received`, and the failures among those messages are visible.
        let handled = sum(&ends.incoming, Link::handled);
        let failed = ends.incoming.first().map_or(0, |link| link.target_memory.linked_failed());
        let (received, sent) = (sum(&ends.incoming, Link::sent), sum(&ends.outgoing, Link::sent));
        LinkCounts { received, handled: u64::saturating_sub(handled, failed), sent }
    }
}
