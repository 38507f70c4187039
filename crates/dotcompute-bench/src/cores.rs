//! The two cores that the benchmarks use, and thread affinity.

use core_affinity::CoreId;

use crate::error::BenchError;

/// One core for the driver, which is the measured thread, and one for its peer.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    driver: CoreId,
    peer: CoreId,
}

impl Cores {
    /// Selects the first two cores that this process may use.
    ///
    /// # Errors
    ///
    /// [`BenchError::TooFewCores`] if only one core is available.
    pub fn choose() -> Result<Self, BenchError> {
        match core_affinity::get_core_ids().unwrap_or_default()[..] {
            [driver, peer, ..] => Ok(Cores { driver, peer }),
            ref fewer => Err(BenchError::TooFewCores { found: fewer.len() }),
        }
    }

    /// Pins the calling thread as the driver, which is the measured thread. Threads that it starts later inherit the
    /// affinity, so a subject starts its own threads first.
    ///
    /// If the system rejects the affinity, the thread stays unpinned; the larger spread of the measurements shows that.
    pub fn pin_driver(self) {
        core_affinity::set_for_current(self.driver);
    }

    /// Pins the calling thread as the driver's peer.
    pub fn pin_peer(self) {
        core_affinity::set_for_current(self.peer);
    }

    /// Returns the index of the peer's core among those available to this process, for subjects that pin their own threads.
    pub fn peer(self) -> usize {
        1
    }
}
