//! One-shot kernels: compiled, registered by name, launched on buffers, and timed.
//!
//! A one-shot kernel runs once per launch and ends. It is for work beside ring kernels, such as preparing the data that they stream over.
//! On `cpu` it is a Rust closure over the device copies of buffers, called once per launch. On `cuda` it is CUDA C++ source, run by a
//! grid of threads. Names, buffers, timing, history and errors are the same on both.
//!
//! ```
//! use dotcompute_core::memory::{CpuMemory, UnifiedBuffer};
//! use dotcompute_core::orchestrator::{Argument, CpuKernel, Geometry, Orchestrator};
//!
//! let orchestrator = Orchestrator::cpu();
//! orchestrator.compile("axpy", CpuKernel::new(|arguments| {
//!     let factor = arguments.value::<f32>()?;
//!     let (x, y) = (arguments.read::<f32>()?, arguments.write::<f32>()?);
//!     y.iter_mut().zip(x).for_each(|(y, x)| *y += factor * x);
//!     Ok(())
//! }))?;
//!
//! let memory = CpuMemory::new();
//! let mut x = UnifiedBuffer::from_slice(memory.clone(), &[1.0_f32, 2.0])?;
//! let mut y = UnifiedBuffer::from_slice(memory, &[10.0_f32, 10.0])?;
//! let arguments = [Argument::value(3.0_f32), Argument::read(&mut x), Argument::write(&mut y)];
//! let launch = orchestrator.launch("axpy", Geometry::linear(2, 256), arguments)?;
//! assert_eq!(y.host()?, [13.0, 16.0]);
//! println!("{}: {:?} in the kernel, {:?} in all", launch.kernel, launch.kernel_time, launch.total);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

mod argument;
mod cpu_launcher;
mod error;
mod history;
mod launch_geometry;
mod launcher;

pub use argument::{Argument, ArgumentError, Arguments, BoundArgument, BoundBuffer, BoundValue, Element};
pub use cpu_launcher::{CpuKernel, CpuLauncher};
pub use error::{KernelLaunchError, OrchestratorError};
use history::History;
pub use history::Launch;
pub use launch_geometry::Geometry;
pub use launcher::{Launcher, Origin};

/// Result of compiling a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compilation {
    /// Where the kernel came from.
    pub origin: Origin,
    /// Duration of the call.
    pub elapsed: Duration,
}

/// Compiles, registers and runs one-shot kernels on one device. Any number of threads may share it.
pub struct Orchestrator<L: Launcher> {
    launcher: L,
    kernels: Mutex<BTreeMap<Arc<str>, Arc<L::Kernel>>>,
    history: Mutex<History>,
}

impl Orchestrator<CpuLauncher> {
    /// Creates an orchestrator for the `cpu` device.
    #[must_use]
    pub fn cpu() -> Self {
        Self::new(CpuLauncher::new())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<L: Launcher> Orchestrator<L> {
    /// Number of launches in the history, unless [`with_history`](Self::with_history) sets another.
    pub const DEFAULT_HISTORY: usize = 256;

    /// Creates an orchestrator for the device of `launcher`.
    pub fn new(launcher: L) -> Self {
        Self::with_history(launcher, Self::DEFAULT_HISTORY)
    }

    /// As [`new`](Self::new), with a history of the last `launches` launches; 0 turns it off.
    pub fn with_history(launcher: L, launches: usize) -> Self {
        Self { launcher, kernels: Mutex::default(), history: Mutex::new(History::new(launches)) }
    }

    /// Returns the launcher.
    pub fn launcher(&self) -> &L {
        &self.launcher
    }

    /// Compiles a kernel and registers it under `name`. Does nothing if a kernel with the same source has that name.
    ///
    /// # Errors
    ///
    /// [`OrchestratorError::Compile`]; [`OrchestratorError::NameTaken`] if a kernel with another source has that name.
    pub fn compile(&self, name: &str, source: L::Source) -> Result<Compilation, OrchestratorError> {
        let start = Instant::now();
        let registered = |elapsed| Compilation { origin: Origin::Registered, elapsed };
        if self.is_registered(&lock(&self.kernels), name, &source)? {
            return Ok(registered(start.elapsed()));
        }
        let compiled = self.launcher.compile(name, &source);
        let (kernel, origin) =
            compiled.map_err(|source| OrchestratorError::Compile { kernel: name.into(), source })?;
        let mut kernels = lock(&self.kernels);
        // Another thread may have registered the name meanwhile.
        if self.is_registered(&kernels, name, &source)? {
            return Ok(registered(start.elapsed()));
        }
        kernels.insert(name.into(), Arc::new(kernel));
        Ok(Compilation { origin, elapsed: start.elapsed() })
    }

    fn is_registered(
        &self,
        kernels: &BTreeMap<Arc<str>, Arc<L::Kernel>>,
        name: &str,
        source: &L::Source,
    ) -> Result<bool, OrchestratorError> {
        match kernels.get(name) {
            None => Ok(false),
            Some(kernel) if self.launcher.is_built_from(kernel, source) => Ok(true),
            Some(_) => Err(OrchestratorError::NameTaken { kernel: name.into() }),
        }
    }

    /// Removes a kernel, which frees its name; returns whether there was one. Launches in progress are unaffected.
    pub fn forget(&self, name: &str) -> bool {
        lock(&self.kernels).remove(name).is_some()
    }

    /// Returns the names of the kernels, sorted.
    #[must_use]
    pub fn kernels(&self) -> Vec<Arc<str>> {
        lock(&self.kernels).keys().cloned().collect()
    }

    /// Runs a kernel once, and returns when it has ended.
    ///
    /// Buffers are brought up to date on the device first. Buffers passed with [`Argument::write`] are dirty on the device afterwards, even
    /// if the launch fails.
    ///
    /// # Errors
    ///
    /// [`OrchestratorError`]. The history records the failed launch with the error's text, unless the kernel is unknown.
    pub fn launch<'a>(
        &self,
        name: &str,
        geometry: Geometry,
        arguments: impl IntoIterator<Item = Argument<'a>>,
    ) -> Result<Launch, OrchestratorError> {
        let found =
            lock(&self.kernels).get_key_value(name).map(|(name, kernel)| (name.clone(), kernel.clone()));
        let (name, kernel) = found
            .ok_or_else(|| OrchestratorError::UnknownKernel { kernel: name.into(), known: self.kernels() })?;
        let (at, start) = (SystemTime::now(), Instant::now());
        let mut launch = Launch::new(Arc::clone(&name), geometry, at);
        let outcome = self.run(&name, &kernel, arguments, &mut launch);
        launch.total = start.elapsed();
        launch.error = outcome.as_ref().err().map(ToString::to_string);
        lock(&self.history).add(&mut launch);
        outcome.map(|()| launch)
    }

    fn run<'a>(
        &self,
        name: &Arc<str>,
        kernel: &L::Kernel,
        arguments: impl IntoIterator<Item = Argument<'a>>,
        launch: &mut Launch,
    ) -> Result<(), OrchestratorError> {
        let properties = self.launcher.properties();
        let failed = |problem| OrchestratorError::Launch { kernel: Arc::clone(name), source: problem };
        launch
            .geometry
            .check(properties)
            .map_err(|problem| failed(KernelLaunchError::Geometry { problem }))?;
        let start = Instant::now();
        let mut bound = Vec::new();
        for (position, argument) in arguments.into_iter().enumerate() {
            let argument = argument.bind(properties.device, &mut launch.copied_bytes);
            bound
                .push(argument.map_err(|problem| failed(KernelLaunchError::Argument { position, problem }))?);
        }
        launch.prepare_time = start.elapsed();
        launch.kernel_time = self.launcher.launch(kernel, launch.geometry, bound).map_err(failed)?;
        Ok(())
    }

    /// Returns the recorded launches, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Launch> {
        lock(&self.history).launches().cloned().collect()
    }

    /// Returns the recorded launches of one kernel, oldest first.
    #[must_use]
    pub fn history_of(&self, kernel: &str) -> Vec<Launch> {
        lock(&self.history).launches().filter(|launch| &*launch.kernel == kernel).cloned().collect()
    }

    /// Clears the history. Sequence numbers continue.
    pub fn clear_history(&self) {
        lock(&self.history).clear();
    }
}

impl<L: Launcher> fmt::Debug for Orchestrator<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator")
            .field("device", &self.launcher.properties().device)
            .field("kernels", &self.kernels())
            .finish_non_exhaustive()
    }
}
