//! What can go wrong with one-shot kernels.

use std::sync::Arc;

use thiserror::Error;

use super::ArgumentError;
use crate::backend::BackendError;

/// What went wrong with a one-shot kernel.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OrchestratorError {
    /// There is no kernel of this name.
    #[error("launching `{kernel}`: there is no kernel of that name, but {}; compile it first", listed(.known))]
    UnknownKernel {
        /// What was asked for.
        kernel: Arc<str>,
        /// The names that there are.
        known: Vec<Arc<str>>,
    },
    /// There is a kernel of this name, made of something else.
    #[error(
        "compiling `{kernel}`: there is a kernel of that name, made of something else; use another name, or `forget` that one"
    )]
    NameTaken {
        /// The name.
        kernel: Arc<str>,
    },
    /// It could not be made.
    #[error("compiling `{kernel}`: {source}")]
    Compile {
        /// The kernel.
        kernel: Arc<str>,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was not run, or not well.
    #[error("launching `{kernel}`: {source}")]
    Launch {
        /// The kernel.
        kernel: Arc<str>,
        /// What went wrong.
        source: KernelLaunchError,
    },
}

/// Why a launch failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelLaunchError {
    /// The device has no such grid or block.
    #[error("the device cannot run {problem}")]
    Geometry {
        /// What was asked for, and what it can.
        problem: String,
    },
    /// An argument is not what it should be, or could not be brought to the device.
    #[error("argument {position}: {problem}")]
    Argument {
        /// Its position, from 0.
        position: usize,
        /// What is wrong with it.
        problem: ArgumentError,
    },
    /// There are more or fewer arguments than the kernel takes.
    #[error("the kernel takes {takes} arguments, and {given} were given")]
    ArgumentCount {
        /// How many it takes.
        takes: usize,
        /// How many there were.
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
        /// What it said.
        text: String,
    },
    /// The device refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Names, for a sentence.
fn listed(names: &[Arc<str>]) -> String {
    if names.is_empty() {
        return String::from("none at all");
    }
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
