//! One-shot kernels on the `cpu` device: closures.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Arguments, BoundArgument, Geometry, KernelLaunchError, Launcher, Origin};
use crate::accelerator::{Properties, cpu_properties};
use crate::error::HandlerResult;
use crate::user_code::{catch_panic, error_text};

type Closure = dyn for<'a> Fn(&mut Arguments<'a>) -> HandlerResult + Send + Sync;

/// A kernel for the `cpu` device: a closure that takes all of its arguments in order.
#[derive(Clone)]
pub struct CpuKernel(Arc<Closure>);

impl CpuKernel {
    /// Creates a kernel that calls `closure` once per launch.
    pub fn new(
        closure: impl for<'a> Fn(&mut Arguments<'a>) -> HandlerResult + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(closure))
    }
}

impl fmt::Debug for CpuKernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CpuKernel")
    }
}

/// Runs each kernel on the thread that launches it.
#[derive(Debug)]
pub struct CpuLauncher {
    properties: Properties,
}

impl CpuLauncher {
    /// Creates a launcher for this machine's CPU.
    #[must_use]
    pub fn new() -> Self {
        Self { properties: cpu_properties() }
    }
}

impl Default for CpuLauncher {
    fn default() -> Self {
        Self::new()
    }
}

impl Launcher for CpuLauncher {
    type Source = CpuKernel;
    type Kernel = CpuKernel;

    fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Returns the kernel itself: rustc has compiled it.
    fn compile(
        &self,
        _name: &str,
        source: &CpuKernel,
    ) -> Result<(CpuKernel, Origin), Box<dyn std::error::Error + Send + Sync>> {
        Ok((source.clone(), Origin::Compiled))
    }

    fn is_built_from(&self, kernel: &CpuKernel, source: &CpuKernel) -> bool {
        Arc::ptr_eq(&kernel.0, &source.0)
    }

    fn launch(
        &self,
        kernel: &CpuKernel,
        geometry: Geometry,
        arguments: Vec<BoundArgument<'_>>,
    ) -> Result<Duration, KernelLaunchError> {
        let given = arguments.len();
        let mut arguments = Arguments::new(arguments, geometry);
        let start = Instant::now();
        let outcome = catch_panic(|| (kernel.0)(&mut arguments));
        let elapsed = start.elapsed();
        match outcome {
            Ok(Ok(())) if arguments.remaining() > 0 => {
                Err(KernelLaunchError::ArgumentCount { takes: given - arguments.remaining(), given })
            }
            Ok(Ok(())) => Ok(elapsed),
            Ok(Err(error)) => Err(KernelLaunchError::Failed { cause: error_text(error) }),
            Err(text) => Err(KernelLaunchError::Panicked { text }),
        }
    }
}
