//! How much each bench does and where: the same for all subjects.

use crate::clock::Clock;
use crate::cores::Cores;

/// Places for messages in every bounded queue and mailbox of the benches that move messages, wherever it can be set.
pub const CAPACITY: usize = 1024;

/// Messages moved together where a subject can.
pub const BATCH: usize = 64;

/// The amounts and the tools of one run.
#[derive(Clone)]
pub struct BenchConfig {
    pub clock: Clock,
    pub cores: Cores,
    /// Pushes and pops on one thread.
    pub pairs: u64,
    /// Messages from thread to thread; a multiple of [`BATCH`].
    pub stream: u64,
    /// Questions, and as many again without a clock.
    pub asks: u64,
    /// Messages told to a kernel.
    pub tells: u64,
    /// Idle kernels.
    pub kernels: u64,
}

impl BenchConfig {
    pub fn full(clock: Clock, cores: Cores) -> Self {
        let (pairs, stream) = (2_000_000, 64 * 50_000);
        BenchConfig { clock, cores, pairs, stream, asks: 100_000, tells: 300_000, kernels: 100_000 }
    }

    /// Enough to see that every subject works; too little for a figure.
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
