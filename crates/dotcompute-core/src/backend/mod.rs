//! Where ring kernels run.
//!
//! The runtime owns names, states, supervision, routing and books. A [`Backend`] owns the place: it takes a [`LaunchPlan`], acquires
//! every resource the plan needs, and gives back a [`Resident`], the runtime's hold on one resident ring kernel. The CPU
//! backend runs a [`Program::Host`] on a pool or on a thread of its own. A device's backend runs a [`Program::Device`]
//! ([`device_port`]).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::options::Placement;
use device_port::{DevicePort, DeviceProgram};

mod cpu;
pub mod device_port;
#[cfg(not(feature = "pinning"))]
mod no_affinity;
mod shared_task;

pub(crate) use cpu::CpuBackend;
pub use shared_task::SharedTask;

/// The kinds of backend there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendKind {
    /// Threads of this process.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// The code of a GPU, on threads of this process.
    Emulated,
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Emulated => "emulated",
        })
    }
}

/// Why a backend could not do what was asked of it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The backend cannot work on this machine.
    #[error("the {backend} backend is not available: {missing}; {advice}")]
    Unavailable {
        /// Which backend.
        backend: BackendKind,
        /// The library, driver or device that is missing.
        missing: String,
        /// What to install or set.
        advice: String,
    },
    /// A thread could not be started.
    #[error("starting a thread for it failed: {source}; raise the limit on threads, or place it on the pool")]
    Thread {
        /// What the operating system says.
        source: std::io::Error,
    },
    /// The core to run on does not exist or may not be used.
    #[error(
        "core {requested} cannot be used: this process may run on {usable} cores, numbered from 0; choose one of those"
    )]
    NoSuchCore {
        /// The number asked for.
        requested: usize,
        /// How many there are.
        usable: usize,
    },
    /// The plan does not suit this backend.
    #[error("the {backend} backend cannot run it: {problem}")]
    Unsupported {
        /// Which backend.
        backend: BackendKind,
        /// Why not.
        problem: String,
    },
    /// Ring kernels did not leave the device in time.
    #[error(
        "bringing all ring kernels off the device: {} had not come to a message boundary after {waited:?}; wait longer, or abort them",
        .kernels.join(", ")
    )]
    QuiesceTimeout {
        /// Their names.
        kernels: Vec<String>,
        /// How long was waited.
        waited: Duration,
    },
    /// The device refused for a reason of its own.
    #[error("the {backend} backend, while {doing}: {problem}")]
    Device {
        /// Which backend.
        backend: BackendKind,
        /// What was being done.
        doing: String,
        /// What went wrong, and what would fit.
        problem: String,
    },
}

/// A ring kernel about to become resident.
pub struct LaunchPlan {
    /// Its name, for threads, logs and errors.
    pub kernel: Arc<str>,
    /// Where on the backend.
    pub placement: Placement,
    /// What it runs.
    pub program: Program,
}

/// What a ring kernel runs.
#[non_exhaustive]
pub enum Program {
    /// A task for the host: to be polled until it is ready, from the moment of launch on. It waits for activation by itself,
    /// catches the panics of user code, and looks for commands whenever it is polled.
    Host(HostTask),
    /// A handler for a device: it handles nothing before its first command.
    Device(Box<DeviceProgram>),
}

/// A ring kernel that runs on the host, as a task.
pub type HostTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A ring kernel that has been made resident.
pub struct Resident {
    /// The runtime's hold on it.
    pub residency: Box<dyn Residency>,
    /// The way to a [`Program::Device`]; none for a program of the host, which looks after itself.
    pub port: Option<Box<dyn DevicePort>>,
}

/// The runtime's hold on one resident ring kernel.
pub trait Residency: Send + Sync {
    /// Where whoever waits for the ring kernel may run it; none if it runs only in a place of its own.
    fn shared_task(&self) -> Option<Arc<SharedTask>> {
        None
    }

    /// Waits until the backend has taken its resources back after the end, at most until `deadline`. False if it had not.
    fn join(&self, deadline: Instant) -> bool;
}

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
