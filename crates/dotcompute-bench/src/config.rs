//! The amounts of work and the cores of a run: the same for all subjects.

use crate::clock::Clock;
use crate::cores::Cores;

/// Capacity of every bounded queue and mailbox of the benches that move messages, where it is configurable.
pub const CAPACITY: usize = 1024;

/// Batch size of subjects with batch operations.
pub const BATCH: usize = 64;

/// The configuration of one run.
#[derive(Clone)]
pub struct BenchConfig {
    pub clock: Clock,
    pub cores: Cores,
    /// Push-pop pairs on one thread.
    pub pairs: u64,
    /// Messages between threads; a multiple of [`BATCH`].
    pub stream: u64,
    /// Asks in the timed pass, and as many in the pass without clock reads.
    pub asks: u64,
    /// One-way messages to a kernel.
    pub tells: u64,
    /// Number of idle kernels.
    pub kernels: u64,
}

impl BenchConfig {
    pub fn full(clock: Clock, cores: Cores) -> Self {
        let (pairs, stream) = (2_000_000, 64 * 50_000);
        BenchConfig { clock, cores, pairs, stream, asks: 100_000, tells: 300_000, kernels: 100_000 }
    }

    /// Returns amounts that suffice to test every subject, but not to measure.
    pub fn quick(clock: Clock, cores: Cores) -> Self {
        BenchConfig {
            clock,
            cores,
            pairs: 20_000,
            stream: 64 * 500,
            asks: 2_000,
            tells: 20_000,
            kernels: 2_000,
        }
    }
}
