//! The books of links: ways from one ring kernel on a device to another that the runtime does not see a message of.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::backend::device_port::{DevicePeer, LinkCounts};
use crate::telemetry::Counter;

/// What a ring kernel has sent and taken over links.
#[derive(Default)]
pub(crate) struct LinkBooks {
    state: Mutex<Books>,
    /// Messages over links whose handler failed.
    pub(crate) failed: Counter,
    /// Messages over links that it ended without.
    pub(crate) left: Counter,
}

#[derive(Default)]
struct Books {
    /// While it is on its device.
    peer: Option<Arc<dyn DevicePeer>>,
    /// What it came to, once it has ended.
    last: LinkCounts,
}

impl LinkBooks {
    fn lock(&self) -> MutexGuard<'_, Books> {
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
        let mut books = self.lock();
        if let Some(peer) = books.peer.take() {
            books.last = peer.link_counts();
        }
    }

    /// What has been counted until now.
    pub(crate) fn counts(&self) -> LinkCounts {
        let books = self.lock();
        let counts = books.peer.as_ref().map_or(books.last, |peer| peer.link_counts());
        // What is being sent and handled at this moment may be counted at one end only.
        LinkCounts { received: counts.received.max(counts.handled), ..counts }
    }
}
