//! The failed ring kernels of a runtime: the counters of the latest ones, without their memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use crate::cell::any_kernel::AnyKernel;
use crate::cell::kernel_cell::KernelCell;
use crate::telemetry::KernelStats;

/// Identifies a ring kernel while it exists.
pub(super) fn address(cell: &KernelCell) -> usize {
    std::ptr::from_ref(cell).addr()
}

/// What is known of a failed ring kernel.
pub(super) struct FailedKernel {
    /// Exists as long as a handle or a running handler does.
    kernel: Weak<dyn AnyKernel>,
    address: usize,
    stats: KernelStats,
    /// Number of the failure.
    sequence: u64,
}

impl FailedKernel {
    /// Returns the ring kernel, if a handle or a running handler keeps it.
    pub(super) fn kernel(&self) -> Option<Arc<dyn AnyKernel>> {
        self.kernel.upgrade()
    }

    /// Returns the counters. They are final, unless its handler is still running.
    pub(super) fn stats(&self) -> KernelStats {
        self.kernel().map_or_else(|| self.stats.clone(), |kernel| kernel.stats())
    }
}

/// The latest failed ring kernels by name. A name has one entry: that of its last failure.
pub(super) struct FailedKernels {
    capacity: usize,
    by_name: HashMap<Arc<str>, FailedKernel>,
    /// Failures in order. Those of replaced entries are skipped.
    order: VecDeque<(u64, Arc<str>)>,
    next_sequence: u64,
}

impl FailedKernels {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, by_name: HashMap::new(), order: VecDeque::new(), next_sequence: 0 }
    }

    pub(super) fn get(&self, name: &str) -> Option<&FailedKernel> {
        self.by_name.get(name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &FailedKernel> {
        self.by_name.values()
    }

    /// Adds a ring kernel with its counters. Beyond the capacity, the oldest failure is forgotten.
    pub(super) fn add(&mut self, kernel: &Arc<dyn AnyKernel>, stats: KernelStats) {
        let name = Arc::clone(&kernel.cell().name);
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.order.push_back((sequence, Arc::clone(&name)));
        let address = address(kernel.cell());
        self.by_name.insert(name, FailedKernel { kernel: Arc::downgrade(kernel), address, stats, sequence });
        while self.order.len() > self.capacity {
            if let Some((sequence, name)) = self.order.pop_front()
                && self.by_name.get(&name).is_some_and(|failed| failed.sequence == sequence)
            {
                self.by_name.remove(&name);
            }
        }
    }

    /// Updates the counters of a ring kernel whose handler has returned after the failure.
    pub(super) fn update(&mut self, cell: &KernelCell, stats: KernelStats) {
        if let Some(failed) = self.by_name.get_mut(&cell.name)
            && failed.address == address(cell)
        {
            failed.stats = stats;
        }
    }

    /// Forgets the ring kernel of this name: another one uses the name now.
    pub(super) fn forget(&mut self, name: &str) {
        self.by_name.remove(name);
    }
}
