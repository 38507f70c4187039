//! Errors of one-shot kernels.

use std::sync::Arc;

use thiserror::Error;

use super::ArgumentError;
use crate::backend::BackendError;

/// An error of a call to an orchestrator.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OrchestratorError {
    /// No kernel has this name.
    #[error("launching `{kernel}`: unknown kernel; compile it first, or use one of: {}", listed(.known))]
    UnknownKernel {
        /// The name requested.
        kernel: Arc<str>,
        /// The names of the compiled kernels.
        known: Vec<Arc<str>>,
    },
    /// The name belongs to a kernel with another source.
    #[error(
        "compiling `{kernel}`: a kernel of that name has another source; use another name, or call `forget` first"
    )]
    NameTaken {
        /// The name.
        kernel: Arc<str>,
    },
    /// The kernel did not compile.
    #[error("compiling `{kernel}`: {source}")]
    Compile {
        /// The kernel.
        kernel: Arc<str>,
        /// The compiler's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The launch failed.
    #[error("launching `{kernel}`: {source}")]
    Launch {
        /// The kernel.
        kernel: Arc<str>,
        /// The error of the launch.
        source: KernelLaunchError,
    },
}

/// An error of one launch.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelLaunchError {
    /// The geometry exceeds the device's limits.
    #[error("the device cannot run {problem}")]
    Geometry {
        /// The value requested and the limit.
        problem: String,
    },
    /// An argument does not match, or could not be copied to the device.
    #[error("argument {position}: {problem}")]
    Argument {
        /// Its position, from 0.
        position: usize,
        /// The error of the argument.
        problem: ArgumentError,
    },
    /// The number of arguments differs from the kernel's.
    #[error("expected {takes} arguments, got {given}")]
    ArgumentCount {
        /// The number that the kernel takes.
        takes: usize,
        /// The number that the caller passed.
        given: usize,
    },
    /// The kernel returned an error.
    #[error("the kernel failed: {cause}")]
    Failed {
        /// The error's text.
        cause: String,
    },
    /// The kernel panicked.
    #[error("the kernel panicked: {text}")]
    Panicked {
        /// The panic message.
        text: String,
    },
    /// The backend reported an error.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Formats names for an error text.
fn listed(names: &[Arc<str>]) -> String {
    if names.is_empty() {
        return String::from("(none)");
    }
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
