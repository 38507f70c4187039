//! The books of links: ways from one ring kernel on a device to another that the runtime does not see a message of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::device_port::{DevicePeer, LinkCounts};
use crate::telemetry::Counter;

/// What a ring kernel has sent and taken over links.
#[derive(Default)]
pub(crate) struct LinkAccounting {
    state: Mutex<LinkState>,
    /// Messages over links whose handler failed.
    pub(crate) failed: Counter,
    /// Messages over links that it ended without.
    pub(crate) unhandled: Counter,
}

#[derive(Default)]
struct LinkState {
    /// While it is on its device.
    peer: Option<Arc<dyn DevicePeer>>,
    /// What it came to, once it has ended.
    final_counts: LinkCounts,
}

impl LinkAccounting {
    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called once, at launch.
    pub(crate) fn open(&self, peer: Option<Arc<dyn DevicePeer>>) {
        self.lock().peer = peer;
    }

    /// The ring kernel on its device, while it is there.
    pub(crate) fn peer(&self) -> Option<Arc<dyn DevicePeer>> {
        self.lock().peer.clone()
    }

    /// Lets go of the device, which takes no more over links. The counts stay.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        if let Some(peer) = state.peer.take() {
            state.final_counts = peer.link_counts();
        }
    }

    /// What has been counted until now.
    pub(crate) fn counts(&self) -> LinkCounts {
        let state = self.lock();
        let counts = state.peer.as_ref().map_or(state.final_counts, |peer| peer.link_counts());
        // What is being sent and handled at this moment may be counted at one end only.
        LinkCounts { received: counts.received.max(counts.handled), ..counts }
    }
}
