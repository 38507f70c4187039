//! Kinds of backend, and the errors of backends.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// The kinds of backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BackendKind {
    /// Threads of this process.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
    /// GPU code that runs on threads of this process.
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

/// What a device can be short of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceResource {
    /// Blocks that are resident at once; each takes a multiprocessor.
    Blocks,
    /// Grids that run at once.
    Grids,
    /// Hardware queues, of which each ring kernel needs one.
    HardwareQueues,
}

/// Why a backend could not do what was requested.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The backend does not work on this machine.
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
        /// The error of the operating system.
        source: std::io::Error,
    },
    /// The requested core does not exist, or this process may not use it.
    #[error(
        "core {requested} is not available: this process may run on {usable} cores, numbered from 0; choose one of those"
    )]
    NoSuchCore {
        /// The requested number.
        requested: usize,
        /// How many cores the process may use.
        usable: usize,
    },
    /// The backend does not support this plan.
    #[error("the {backend} backend cannot run it: {problem}")]
    Unsupported {
        /// Which backend.
        backend: BackendKind,
        /// Why not.
        problem: String,
    },
    /// The device has no room for it beside what is resident. It would wait forever, so it was not launched.
    #[error("the {backend} backend has no room for it: {problem}")]
    NoRoom {
        /// Which backend.
        backend: BackendKind,
        /// What the device is short of.
        resource: DeviceResource,
        /// How many it needs.
        requested: u32,
        /// How many are free.
        free: u32,
        /// How many ring kernels may take on this device.
        capacity: u32,
        /// The numbers in words, and what would fit.
        problem: String,
    },
    /// Ring kernels did not leave the device in time.
    #[error(
        "quiescing the device: {} did not reach a message boundary within {waited:?}; wait longer, or abort them",
        .kernels.join(", ")
    )]
    QuiesceTimeout {
        /// Their names.
        kernels: Vec<String>,
        /// The time waited.
        waited: Duration,
    },
    /// Another thread held the device quiet for too long.
    #[error(
        "quiescing the device: another thread has kept it quiet for {waited:?}; wait longer, or let the closure of that thread return"
    )]
    QuiescedElsewhere {
        /// The time waited.
        waited: Duration,
    },
    /// Handlers of ring kernels do not return and keep the device: nothing that needs the whole device can be done.
    #[error(
        "quiescing the device: the handler of {} does not return, and keeps the device until this process ends; end the process, or have the \
         backend kill hung ring kernels, which ends everything in the CUDA context",
        .kernels.join(", ")
    )]
    HungKernels {
        /// The names of the ring kernels.
        kernels: Vec<String>,
    },
    /// A handler has asked to quiesce the device.
    #[error(
        "quiescing the device: the call comes from the handler of a ring kernel, which ring kernels on the device may need to reach a message \
         boundary; call it from another thread"
    )]
    QuiesceInHandler,
    /// The device reported an error.
    #[error("the {backend} backend, while {doing}: {problem}")]
    Device {
        /// Which backend.
        backend: BackendKind,
        /// What was being done.
        doing: String,
        /// What went wrong, and what would work.
        problem: String,
    },
}
