//! Links: the ways that lead from one ring kernel to another in the device's memory, as the host makes, closes and counts them.

use std::any::Any;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use dotcompute_core::backend::BackendError;
use dotcompute_core::backend::device_port::{DevicePeer, LinkCounts};

use crate::exchange::Words;
use crate::protocol::{
    COMMAND_ALSO_TO_HOST, COMMAND_CLOSED_SHIFT, MOST_LINKS, MessageHead, Ring, STATE_IDLE, STATE_STOPPED,
};
use crate::tenant::Tenant;

/// Messages that a link holds. A handler that sends no more than half as many for one message never waits for room.
pub(crate) const LINK_SLOTS: usize = 256;

/// Memory of the device that the host reads only when its ring kernels rest.
pub(crate) trait LinkMemory: Send + Sync {
    /// Where it is on the device.
    fn address(&self) -> u64;

    /// Its bytes.
    fn read(&self) -> Result<Vec<u8>, BackendError>;
}

/// A link.
pub(crate) struct Link {
    memory: Arc<dyn LinkMemory>,
    ring: Ring,
    source: Weak<Tenant>,
    source_words: Arc<Words>,
    out: usize,
    target_words: Arc<Words>,
    into: usize,
}

impl Link {
    fn sent(&self) -> u64 {
        self.source_words.control().links.sent[self.out].load(Ordering::Acquire)
    }

    fn handled(&self) -> u64 {
        self.target_words.control().links.handled[self.into].load(Ordering::Acquire)
    }

    fn has_messages(&self) -> bool {
        // In this order: what is handled has been sent.
        let handled = self.handled();
        self.sent() > handled
    }

    fn bit(&self) -> u32 {
        1 << self.out
    }

    /// Has its sender send elsewhere. True once it does.
    fn close(&self) -> bool {
        let Some(source) = self.source.upgrade() else { return true };
        let control = self.source_words.control();
        control.host.command.fetch_or(self.bit() << COMMAND_CLOSED_SHIFT, Ordering::SeqCst);
        let is_away = matches!(source.state(), STATE_IDLE | STATE_STOPPED) || source.watched.lost().is_some();
        // Acquire: what it has sent before is counted.
        is_away || control.device.closed_links.load(Ordering::Acquire) & u64::from(self.bit()) != 0
    }

    /// Gives `each` the messages that nobody has handled. Both ends rest.
    fn take(&self, message_size: usize, each: &mut dyn FnMut(&[u8])) -> Result<(), BackendError> {
        let (handled, sent) = (self.handled(), self.sent());
        if handled >= sent {
            return Ok(());
        }
        let bytes = self.memory.read()?;
        for ticket in handled..sent {
            let slot = Words::link_slot(self.ring, ticket);
            let begin = slot + size_of::<u64>() + size_of::<MessageHead>();
            if let Some(message) = bytes.get(begin..begin + message_size) {
                each(message);
            }
        }
        Ok(())
    }
}

/// The links of one ring kernel.
#[derive(Default)]
pub(crate) struct Links(Mutex<Ends>);

#[derive(Default)]
struct Ends {
    incoming: Vec<Arc<Link>>,
    outgoing: Vec<Arc<Link>>,
    /// Set once it is about to end: there are no new ones.
    closed: bool,
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether messages wait that came over links.
    pub(crate) fn have_messages(&self) -> bool {
        self.lock().incoming.iter().any(|link| link.has_messages())
    }

    /// Closes those that lead here. None while somebody may still send; then how many messages wait.
    pub(crate) fn close(&self) -> Option<u64> {
        let mut ends = self.lock();
        ends.closed = true;
        // All are asked, also when the first has not answered.
        let open = ends.incoming.iter().filter(|link| !link.close()).count();
        (open == 0).then(|| ends.incoming.iter().map(|link| link.sent().saturating_sub(link.handled())).sum())
    }

    /// Gives `each` the messages that wait in those that lead here.
    pub(crate) fn take(&self, message_size: usize, each: &mut dyn FnMut(&[u8])) -> Result<(), BackendError> {
        let incoming = self.lock().incoming.clone();
        incoming.iter().try_for_each(|link| link.take(message_size, each))
    }

    fn counts(&self) -> LinkCounts {
        let ends = self.lock();
        let sum = |links: &[Arc<Link>], count: fn(&Link) -> u64| links.iter().map(|link| count(link)).sum();
        // Done first: they are never more than were received, and those of them that failed are known by then.
        let done = sum(&ends.incoming, Link::handled);
        let failed = ends.incoming.first().map_or(0, |link| link.target_words.linked_failed());
        let (received, sent) = (sum(&ends.incoming, Link::sent), sum(&ends.outgoing, Link::sent));
        LinkCounts { received, handled: u64::saturating_sub(done, failed), sent }
    }
}

/// A ring kernel as others of its device see it.
pub(crate) struct Peer(pub(crate) Arc<Tenant>);

impl DevicePeer for Peer {
    fn link(&self, to: &dyn DevicePeer) -> Result<Option<u8>, BackendError> {
        let to: &dyn Any = to;
        let Some(Self(target)) = to.downcast_ref::<Self>() else { return Ok(None) };
        let source = &self.0;
        if source.stage.ground() != target.stage.ground() {
            return Ok(None);
        }
        let mut laid = Ok(None);
        source.stage.quiesced(&mut || laid = lay(source, target))?;
        laid
    }

    fn copy_to_host(&self) {
        self.0.words.control().host.command.fetch_or(COMMAND_ALSO_TO_HOST, Ordering::Release);
    }

    fn link_counts(&self) -> LinkCounts {
        self.0.links.counts()
    }
}

/// Lays a link between two ring kernels that are both away.
fn lay(source: &Arc<Tenant>, target: &Arc<Tenant>) -> Result<Option<u8>, BackendError> {
    // One at a time: nobody else lays links while the device is quiet.
    let (out, into) = {
        let (from, to) = (source.links.lock().outgoing.len(), target.links.lock());
        if to.closed || from >= MOST_LINKS || to.incoming.len() >= MOST_LINKS {
            return Ok(None);
        }
        (from, to.incoming.len())
    };
    let memory = source.stage.link_memory(target.words.link_bytes(LINK_SLOTS))?;
    let ring = target.words.link_ring(memory.address(), LINK_SLOTS);
    let link = Arc::new(Link {
        memory,
        ring,
        source: Arc::downgrade(source),
        source_words: Arc::clone(&source.words),
        out,
        target_words: Arc::clone(&target.words),
        into,
    });
    source.stage.keep(Arc::clone(&link.memory));
    target.stage.keep(Arc::clone(&link.memory));
    let (from, to) = (&source.words.control().table, &target.words.control().table);
    from.out[out].set(ring);
    to.into[into].set(ring);
    // Relaxed, as all of the table: both are started after this.
    from.outgoing.store(out as u64 + 1, Ordering::Relaxed);
    to.incoming.store(into as u64 + 1, Ordering::Relaxed);
    source.links.lock().outgoing.push(Arc::clone(&link));
    target.links.lock().incoming.push(link);
    Ok(u8::try_from(out).ok())
}
