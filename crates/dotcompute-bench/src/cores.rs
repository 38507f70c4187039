//! The two cores that the benchmarks use, and pinning to them.

use core_affinity::CoreId;

use crate::error::BenchError;

/// One core for the thread that drives and is timed, one for its peer.
#[derive(Clone, Copy, Debug)]
pub struct Cores {
    driver: CoreId,
    peer: CoreId,
}

impl Cores {
    /// The first two cores that this process may use.
    ///
    /// # Errors
    ///
    /// [`BenchError::TooFewCores`] on a machine with one.
    pub fn choose() -> Result<Self, BenchError> {
        match core_affinity::get_core_ids().unwrap_or_default()[..] {
            [driver, peer, ..] => Ok(Cores { driver, peer }),
            ref fewer => Err(BenchError::TooFewCores { found: fewer.len() }),
        }
    }

    /// Pins the calling thread, which is the one that is timed. Threads made by it afterwards would be pinned with
    /// it, so a subject starts its own threads first.
    ///
    /// Where the system refuses, the thread stays free; the figures then scatter more, which their spread shows.
    pub fn pin_driver(self) {
        core_affinity::set_for_current(self.driver);
    }

    /// Pins the calling thread, which is the driver's peer.
    pub fn pin_peer(self) {
        core_affinity::set_for_current(self.peer);
    }

    /// The peer's core, counted among those that this process may use, for subjects that pin their own threads.
    pub fn peer(self) -> usize {
        1
    }
}
