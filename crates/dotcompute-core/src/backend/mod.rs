//! Backends: where ring kernels run.
//!
//! The runtime owns names, states, supervision, routing and accounting. A [`Backend`] owns execution: it takes a [`LaunchPlan`], acquires
//! every resource that the plan needs, and returns a [`Resident`]. The CPU backend runs a [`Program::Host`] on a pool or a dedicated
//! thread. A device's backend runs a [`Program::Device`] ([`device_port`]). A new backend starts with the trait [`Backend`].

use std::time::Duration;

pub(crate) mod cpu;
pub mod device_port;
pub(crate) mod error;
pub(crate) mod launch_plan;
#[cfg(not(feature = "pinning"))]
mod no_affinity;
pub(crate) mod residency;
pub(crate) mod shared_task;
pub(crate) mod worker_pool;

pub use error::{BackendError, BackendKind, DeviceResource};
pub use launch_plan::{HostTask, LaunchPlan, Program};
pub use residency::{Residency, Resident};
pub use shared_task::SharedTask;

/// Launches ring kernels on one kind of device.
///
/// # Contract
///
/// - `launch` acquires every resource (threads, device memory, residency on the device), or fails without holding any.
/// - After a launch, no failure of the backend leaves a caller waiting: a backend that loses its device reports every ring kernel on it as
///   [`Lost`](device_port::DeviceState::Lost).
/// - A program of a kind that the backend does not run is rejected with [`BackendError::Unsupported`].
pub trait Backend: Send + Sync {
    /// Returns the kind of backend.
    fn kind(&self) -> BackendKind;

    /// Makes a ring kernel resident. It then waits for its activation.
    ///
    /// # Errors
    ///
    /// [`BackendError`], with no resource held.
    fn launch(&self, plan: LaunchPlan) -> Result<Resident, BackendError>;

    /// Runs `act` while no ring kernel is on the device. Each leaves at its next message boundary, within `timeout`, and is relaunched
    /// afterwards. A backend whose ring kernels do not occupy a device just runs `act`. The calling thread may call this again inside `act`,
    /// and launch ring kernels, which start off the device.
    ///
    /// # Errors
    ///
    /// [`BackendError::QuiesceTimeout`], or [`BackendError::QuiescedElsewhere`] while another thread is inside `act`; `act` was not run then.
    fn quiesced(&self, _timeout: Duration, act: &mut dyn FnMut()) -> Result<(), BackendError> {
        act();
        Ok(())
    }
}
