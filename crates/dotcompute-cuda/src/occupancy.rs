//! Occupancy budget of a device: the blocks that resident ring kernels hold.
//!
//! A resident kernel does not end on its own. A kernel that does not fit beside the resident ones would wait forever. A grid that
//! fits only in part would hang in its first barrier. Launch therefore rejects a ring kernel that exceeds the budget.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The blocks that may be resident on one device.
pub(crate) struct OccupancyBudget {
    capacity: u32,
    reserved: Mutex<u32>,
}

/// Not enough blocks are free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it needs {requested} blocks, but {free} of the device's {capacity} are free; use fewer blocks, or terminate ring kernels (they hold {reserved})"
)]
pub(crate) struct InsufficientBlocks {
    pub(crate) requested: u32,
    pub(crate) free: u32,
    pub(crate) reserved: u32,
    pub(crate) capacity: u32,
}

impl OccupancyBudget {
    /// Creates a budget of `capacity` blocks.
    pub(crate) fn new(capacity: u32) -> Arc<Self> {
        Arc::new(Self { capacity, reserved: Mutex::new(0) })
    }

    fn reserved(&self) -> MutexGuard<'_, u32> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves `requested` blocks, or returns how many are free.
    pub(crate) fn reserve(self: &Arc<Self>, requested: u32) -> Result<Reservation, InsufficientBlocks> {
        let mut reserved = self.reserved();
        let free = self.capacity.saturating_sub(*reserved);
        if requested > free {
            return Err(InsufficientBlocks { requested, free, reserved: *reserved, capacity: self.capacity });
        }
        *reserved += requested;
        Ok(Reservation { budget: Arc::clone(self), blocks: requested })
    }
}

/// Blocks reserved by one ring kernel; released on drop.
pub(crate) struct Reservation {
    budget: Arc<OccupancyBudget>,
    blocks: u32,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.budget.reserved() -= self.blocks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_reservation_reports_the_free_blocks() {
        let budget = OccupancyBudget::new(10);
        let first = budget.reserve(6).unwrap();
        let _second = budget.reserve(2).unwrap();
        let error = budget.reserve(3).err().unwrap();
        assert_eq!(error, InsufficientBlocks { requested: 3, free: 2, reserved: 8, capacity: 10 });
        drop(first);
        assert!(budget.reserve(8).is_ok());
    }
}
