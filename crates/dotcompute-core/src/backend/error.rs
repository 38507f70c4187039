//! Backend error.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

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
