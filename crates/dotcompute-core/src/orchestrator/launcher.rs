//! The trait that a backend implements to compile and run one-shot kernels.

use std::time::Duration;

use super::{BoundArgument, Geometry, KernelLaunchError};
use crate::accelerator::Properties;

/// Where a kernel came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It was there under its name already.
    Registered,
    /// It had been compiled by an earlier process, and was kept on disk.
    DiskCache,
    /// It was compiled.
    Compiled,
}

/// What an orchestrator needs of a device. It makes kernels and runs them; names, arguments, timing and history are not its concern.
pub trait Launcher: Send + Sync {
    /// What a kernel is made of.
    type Source;
    /// A kernel that can be launched.
    type Kernel: Send + Sync;

    /// The device.
    fn properties(&self) -> &Properties;

    /// Makes a kernel, which errors call `name`.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    fn compile(
        &self,
        name: &str,
        source: &Self::Source,
    ) -> Result<(Self::Kernel, Origin), Box<dyn std::error::Error + Send + Sync>>;

    /// Whether it is just this that the kernel was made of.
    fn is_built_from(&self, kernel: &Self::Kernel, source: &Self::Source) -> bool;

    /// Runs the kernel, and returns when it has run and how long it took. The buffers are of this device, and up to date there.
    ///
    /// # Errors
    ///
    /// [`KernelLaunchError`].
    fn launch(
        &self,
        kernel: &Self::Kernel,
        geometry: Geometry,
        arguments: Vec<BoundArgument<'_>>,
    ) -> Result<Duration, KernelLaunchError>;
}
