//! Creation of links between ring kernels of one device.

use std::any::Any;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use dotcompute_core::backend::BackendError;
use dotcompute_core::backend::device_port::{DevicePeer, LinkCounts};

use crate::links::{LINK_SLOTS, Link, LinkSource};
use crate::protocol::{COMMAND_COPY_TO_HOST, MAX_LINKS};
use crate::resident_kernel::ResidentKernel;

/// A ring kernel, as other ring kernels of its device see it.
pub(crate) struct Peer(pub(crate) Arc<ResidentKernel>);

impl DevicePeer for Peer {
    fn link(&self, to: &dyn DevicePeer) -> Result<Option<u8>, BackendError> {
        let to: &dyn Any = to;
        let Some(Self(target)) = to.downcast_ref::<Self>() else { return Ok(None) };
        let source = &self.0;
        if source.grid.device_key() != target.grid.device_key() {
            return Ok(None);
        }
        let mut created = Ok(None);
        source.grid.quiesced(&mut || created = create_link(source, target))?;
        created
    }

    fn copy_to_host(&self) {
        self.0.memory.control().host.command.fetch_or(COMMAND_COPY_TO_HOST, Ordering::Release);
    }

    fn link_counts(&self) -> LinkCounts {
        self.0.links.counts()
    }
}

/// Creates a link between two ring kernels that are both off the device. Returns the index of the link among the outgoing links of
/// `source`. Returns `None` if either side has its maximum of links, or if `target` is about to end.
fn create_link(
    source: &Arc<ResidentKernel>,
    target: &Arc<ResidentKernel>,
) -> Result<Option<u8>, BackendError> {
    // Links are created only while the device is quiesced, and one thread quiesces it at a time. The lengths stay valid.
    let (out, into) = {
        let (from, to) = (source.links.lock().outgoing.len(), target.links.lock());
        if to.closed || from >= MAX_LINKS || to.incoming.len() >= MAX_LINKS {
            return Ok(None);
        }
        (from, to.incoming.len())
    };
    let memory = source.grid.link_memory(target.memory.link_bytes(LINK_SLOTS))?;
    let ring = target.memory.link_ring(memory.address(), LINK_SLOTS);
    let source_ref: Weak<ResidentKernel> = Arc::downgrade(source);
    let source_ref: Weak<dyn LinkSource> = source_ref;
    let link = Arc::new(Link {
        memory,
        ring,
        source: source_ref,
        source_memory: Arc::clone(&source.memory),
        out,
        target_memory: Arc::clone(&target.memory),
        into,
    });
    source.grid.keep_alive(Arc::clone(&link.memory));
    target.grid.keep_alive(Arc::clone(&link.memory));
    let (from, to) = (&source.memory.control().table, &target.memory.control().table);
    // SYNC POINT: grid launch
    // Relaxed: both grids are off the device, and the launch that follows publishes the table (`find_links`, links.cuh).
    from.out[out].set(ring);
    to.into[into].set(ring);
    from.outgoing.store(out as u64 + 1, Ordering::Relaxed);
    to.incoming.store(into as u64 + 1, Ordering::Relaxed);
    source.links.lock().outgoing.push(Arc::clone(&link));
    target.links.lock().incoming.push(link);
    Ok(u8::try_from(out).ok())
}
