//! Conversion of driver errors to [`BackendError`].

use dotcompute_core::backend::{BackendError, BackendKind, DeviceResource};

use crate::driver::DriverError;
use crate::occupancy::NoRoom;

/// Returns a [`BackendError::Device`] of the CUDA backend: `doing` names the operation, `problem` what went wrong.
pub(super) fn device_error(doing: &str, problem: &dyn std::fmt::Display) -> BackendError {
    BackendError::Device { backend: BackendKind::Cuda, doing: doing.to_owned(), problem: problem.to_string() }
}

/// Returns the error of a launch for which the device has no room, or that failed otherwise.
pub(super) fn launch_error(doing: &str, error: &DriverError) -> BackendError {
    match error {
        DriverError::NoHardwareQueue { capacity, .. } => BackendError::NoRoom {
            backend: BackendKind::Cuda,
            resource: DeviceResource::HardwareQueues,
            requested: 1,
            free: 0,
            capacity: *capacity,
            problem: error.to_string(),
        },
        other => device_error(doing, other),
    }
}

/// Returns the error of a launch that exceeds a budget.
pub(super) fn no_room(error: NoRoom) -> BackendError {
    error.into_backend_error(BackendKind::Cuda)
}
