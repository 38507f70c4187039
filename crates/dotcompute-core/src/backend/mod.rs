//! Where ring kernels run.
//!
//! The runtime owns names, states, supervision, routing and books. A [`Backend`] owns the place: it takes a [`LaunchPlan`], acquires
//! every resource the plan needs, and gives back a [`Resident`], the runtime's hold on one resident ring kernel. The CPU
//! backend runs a [`Program::Host`] on a pool or on a thread of its own. A device's backend runs a [`Program::Device`]
//! ([`device_port`]).

use std::time::Duration;

pub(crate) mod cpu;
pub mod device_port;
pub(crate) mod error;
pub(crate) mod launch_plan;
#[cfg(not(feature = "pinning"))]
mod no_affinity;
pub(crate) mod residency;
pub(crate) mod shared_task;

pub use error::{BackendError, BackendKind};
pub use launch_plan::{HostTask, LaunchPlan, Program};
pub use residency::{Residency, Resident};
pub use shared_task::SharedTask;

/// A place where ring kernels run.
///
/// # Contract
///
/// - `launch` takes every resource (threads, device memory, residency on the device) or fails without holding any.
/// - After a launch, nothing a backend does may fail in a way that leaves somebody waiting: a backend that loses its device
///   reports every ring kernel on it as [`Lost`](device::DeviceState::Lost).
/// - A program of a kind that the backend does not run is refused as [`BackendError::Unsupported`].
pub trait Backend: Send + Sync {
    /// Which kind it is.
    fn kind(&self) -> BackendKind;

    /// Makes a ring kernel resident, waiting for its activation.
    ///
    /// # Errors
    ///
    /// [`BackendError`], with no resource held.
    fn launch(&self, plan: LaunchPlan) -> Result<Resident, BackendError>;

    /// Runs `act` with no ring kernel on the device: each leaves at its next message boundary, for which `timeout` is waited, and comes
    /// back afterwards. Where leaving means nothing, `act` is just run.
    ///
    /// # Errors
    ///
    /// [`BackendError::QuiesceTimeout`]; `act` was not run then.
    fn quiesced(&self, _patience: Duration, act: &mut dyn FnMut()) -> Result<(), BackendError> {
        act();
        Ok(())
    }
}
