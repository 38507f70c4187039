//! Accounting of links: rings in device memory between two ring kernels, whose messages bypass the host.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::device_port::{DevicePeer, LinkCounts};
use crate::telemetry::Counter;

/// Counts of what a ring kernel sends and receives over links.
#[derive(Default)]
pub(crate) struct LinkAccounting {
    state: Mutex<LinkState>,
    /// Linked messages whose handler failed.
    pub(crate) failed: Counter,
    /// Linked messages that were unhandled when the ring kernel ended.
    pub(crate) unhandled: Counter,
}

#[derive(Default)]
struct LinkState {
    /// The ring kernel on its device. `None` before launch and after the end.
    peer: Option<Arc<dyn DevicePeer>>,
    /// The counts at the end of the ring kernel.
    final_counts: LinkCounts,
}

impl LinkAccounting {
    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the peer. Called once, at launch.
    pub(crate) fn open(&self, peer: Option<Arc<dyn DevicePeer>>) {
        self.lock().peer = peer;
    }

    /// Returns the ring kernel as its device links see it, until it ends.
    pub(crate) fn peer(&self) -> Option<Arc<dyn DevicePeer>> {
        self.lock().peer.clone()
    }

    /// Drops the peer and stores its final counts. New links are then impossible.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if let Some(peer) = state.peer.take() {
            state.final_counts = peer.link_counts();
        }
    }

    /// Returns the present counts, or the final ones.
    pub(crate) fn counts(&self) -> LinkCounts {
        let state = self.lock();
        let counts = state.peer.as_ref().map_or(state.final_counts, |peer| peer.link_counts());
        // A message in progress may be counted at one end only.
        LinkCounts { received: counts.received.max(counts.handled), ..counts }
    }
}
