//! Budgets of a device: the blocks and grids that resident ring kernels hold.
//!
//! A resident kernel does not end on its own. A kernel that does not fit beside the resident ones would wait forever. A grid that
//! fits only in part would hang in its first barrier. Launch therefore rejects a ring kernel that exceeds a budget.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dotcompute_core::backend::{BackendError, BackendKind, DeviceResource};

use crate::Architecture;

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Blocks that are resident at once.
    Blocks,
    /// Grids that run at once.
    Grids,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocks => "blocks",
            Self::Grids => "grids",
        })
    }
}

impl Unit {
    fn advice(self) -> &'static str {
        match self {
            Self::Blocks => "use fewer blocks, or terminate ring kernels",
            Self::Grids => "terminate ring kernels, or let one do the work of several",
        }
    }
}

/// What may be resident on one device.
pub(crate) struct OccupancyBudget {
    unit: Unit,
    capacity: u32,
    reserved: Mutex<u32>,
}

/// Not enough is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it needs {requested} {unit}, but {free} of the device's {capacity} are free; {} (they hold {reserved})",
    .unit.advice()
)]
pub(crate) struct NoRoom {
    pub(crate) unit: Unit,
    pub(crate) requested: u32,
    pub(crate) free: u32,
    pub(crate) reserved: u32,
    pub(crate) capacity: u32,
}

impl NoRoom {
    /// Converts the error for users of a backend.
    pub(crate) fn into_backend_error(self, backend: BackendKind) -> BackendError {
        let resource = match self.unit {
            Unit::Blocks => DeviceResource::Blocks,
            Unit::Grids => DeviceResource::Grids,
        };
        let Self { requested, free, capacity, .. } = self;
        BackendError::NoRoom { backend, resource, requested, free, capacity, problem: self.to_string() }
    }
}

impl OccupancyBudget {
    /// Creates a budget of `capacity` units.
    pub(crate) fn new(unit: Unit, capacity: u32) -> Arc<Self> {
        Arc::new(Self { unit, capacity, reserved: Mutex::new(0) })
    }

    /// Creates the budget of grids for ring kernels. One grid is left to other work on the device, which would otherwise never run.
    pub(crate) fn of_grids(architecture: Architecture) -> Arc<Self> {
        Self::new(Unit::Grids, architecture.resident_grids() - 1)
    }

    fn reserved(&self) -> MutexGuard<'_, u32> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves `requested` units, or returns how many are free.
    pub(crate) fn reserve(self: &Arc<Self>, requested: u32) -> Result<Reservation, NoRoom> {
        let mut reserved = self.reserved();
        let (unit, capacity) = (self.unit, self.capacity);
        let free = capacity.saturating_sub(*reserved);
        if requested > free {
            return Err(NoRoom { unit, requested, free, reserved: *reserved, capacity });
        }
        *reserved += requested;
        Ok(Reservation { budget: Arc::clone(self), units: requested })
    }
}

/// Units reserved by one ring kernel; released on drop.
pub(crate) struct Reservation {
    budget: Arc<OccupancyBudget>,
    units: u32,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        *self.budget.reserved() -= self.units;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_reservation_reports_the_free_blocks() {
        let budget = OccupancyBudget::new(Unit::Blocks, 10);
        let first = budget.reserve(6).unwrap();
        let _second = budget.reserve(2).unwrap();
        let error = budget.reserve(3).err().unwrap();
        assert_eq!(error, NoRoom { unit: Unit::Blocks, requested: 3, free: 2, reserved: 8, capacity: 10 });
        assert!(error.to_string().contains("needs 3 blocks, but 2 of the device's 10 are free"), "{error}");
        drop(first);
        assert!(budget.reserve(8).is_ok());
    }

    /// An H200 has 132 multiprocessors and runs 128 grids at once.
    #[test]
    fn grids_are_admitted_up_to_the_number_that_the_device_runs_at_once() {
        let hopper = OccupancyBudget::of_grids(Architecture { major: 9, minor: 0 });
        let admitted: Vec<Reservation> = std::iter::from_fn(|| hopper.reserve(1).ok()).collect();
        assert_eq!(admitted.len(), 127, "128, one of them for other work");
        let error = hopper.reserve(1).err().unwrap().to_string();
        assert!(error.contains("0 of the device's 127 are free") && error.contains("terminate"), "{error}");
        let small = OccupancyBudget::of_grids(Architecture { major: 6, minor: 2 });
        assert_eq!(std::iter::from_fn(|| small.reserve(1).ok()).collect::<Vec<_>>().len(), 15);
    }
}
