//! The trait that a backend implements to compile and run one-shot kernels.

use std::time::Duration;

use super::{BoundArgument, Geometry, KernelLaunchError};
use crate::accelerator::Properties;

/// Where a compiled kernel came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It was already registered under its name.
    Registered,
    /// An earlier process compiled it; it was loaded from the disk cache.
    DiskCache,
    /// It was compiled now.
    Compiled,
}

/// Compiles and runs kernels on one device. The orchestrator adds names, arguments, timing and history.
pub trait Launcher: Send + Sync {
    /// Source of a kernel.
    type Source;
    /// A kernel that can be launched.
    type Kernel: Send + Sync;

    /// Returns the properties of the device.
    fn properties(&self) -> &Properties;

    /// Compiles a kernel. Errors call it `name`.
    ///
    /// # Errors
    ///
    /// The compiler's error.
    fn compile(
        &self,
        name: &str,
        source: &Self::Source,
    ) -> Result<(Self::Kernel, Origin), Box<dyn std::error::Error + Send + Sync>>;

    /// Returns whether the kernel was compiled from exactly this source.
    fn is_built_from(&self, kernel: &Self::Kernel, source: &Self::Source) -> bool;

    /// Runs the kernel to its end and returns how long it ran. The buffers are on this device and up to date there.
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
