//! One-shot kernels: compiled, kept by name, launched on buffers, and timed.
//!
//! A one-shot kernel runs once for each launch and is gone: for the work beside ring kernels, such as preparing what they stream
//! over. On `cpu` it is a Rust closure over the device's halves of buffers, called once for a launch; on `cuda` it is CUDA C++ text,
//! run by a grid of threads. All else is the same: names, buffers, timing, history, errors.
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

/// What compiling came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compilation {
    /// Where the kernel came from.
    pub origin: Origin,
    /// How long it took to have it.
    pub elapsed: Duration,
}

/// Compiles, keeps and runs one-shot kernels on one device. Any number of threads may use it.
pub struct Orchestrator<L: Launcher> {
    launcher: L,
    kernels: Mutex<BTreeMap<Arc<str>, Arc<L::Kernel>>>,
    history: Mutex<History>,
}

impl Orchestrator<CpuLauncher> {
    /// One for the `cpu` device.
    #[must_use]
    pub fn cpu() -> Self {
        Self::new(CpuLauncher::new())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<L: Launcher> Orchestrator<L> {
    /// How many launches are remembered, unless [`with_history`](Self::with_history) says otherwise.
    pub const DEFAULT_HISTORY: usize = 256;

    /// One for the device of `launcher`.
    pub fn new(launcher: L) -> Self {
        Self::with_history(launcher, Self::DEFAULT_HISTORY)
    }

    /// As [`new`](Self::new), remembering so many launches; with 0, none.
    pub fn with_history(launcher: L, launches: usize) -> Self {
        Self { launcher, kernels: Mutex::default(), history: Mutex::new(History::new(launches)) }
    }

    /// What it launches with.
    pub fn launcher(&self) -> &L {
        &self.launcher
    }

    /// Makes a kernel and keeps it under `name`. If there is one of that name made of the same source, nothing is done.
    ///
    /// # Errors
    ///
    /// [`OrchestratorError::Compile`]; [`OrchestratorError::NameTaken`] if the name is that of a kernel made of something else.
    pub fn compile(&self, name: &str, source: L::Source) -> Result<Compilation, OrchestratorError> {
        let begun = Instant::now();
        let kept = |elapsed| Compilation { origin: Origin::Registered, elapsed };
        if self.is_kept(&lock(&self.kernels), name, &source)? {
            return Ok(kept(begun.elapsed()));
        }
        let made = self.launcher.compile(name, &source);
        let (kernel, origin) =
            made.map_err(|source| OrchestratorError::Compile { kernel: name.into(), source })?;
        let mut kernels = lock(&self.kernels);
        // Somebody else may have been faster.
        if self.is_kept(&kernels, name, &source)? {
            return Ok(kept(begun.elapsed()));
        }
        kernels.insert(name.into(), Arc::new(kernel));
        Ok(Compilation { origin, elapsed: begun.elapsed() })
    }

    fn is_kept(
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

    /// Forgets a kernel, so that its name is free. Launches that are running end as they would have. False if there is none.
    pub fn forget(&self, name: &str) -> bool {
        lock(&self.kernels).remove(name).is_some()
    }

    /// The names of the kernels, in order.
    #[must_use]
    pub fn kernels(&self) -> Vec<Arc<str>> {
        lock(&self.kernels).keys().cloned().collect()
    }

    /// Runs a kernel once, and returns when it has run.
    ///
    /// Buffers are brought up to date on the device before. Those given with [`Argument::write`] count as newer there from then on,
    /// whatever becomes of the launch.
    ///
    /// # Errors
    ///
    /// [`OrchestratorError`]. Except where there is no such kernel, the launch is in the history with the error's text.
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
        let (at, begun) = (SystemTime::now(), Instant::now());
        let mut launch = Launch::new(Arc::clone(&name), geometry, at);
        let outcome = self.run(&name, &kernel, arguments, &mut launch);
        launch.total = begun.elapsed();
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
        let begun = Instant::now();
        let mut bound = Vec::new();
        for (position, argument) in arguments.into_iter().enumerate() {
            let argument = argument.bind(properties.device, &mut launch.copied_bytes);
            bound
                .push(argument.map_err(|problem| failed(KernelLaunchError::Argument { position, problem }))?);
        }
        launch.prepare_time = begun.elapsed();
        launch.kernel_time = self.launcher.launch(kernel, launch.geometry, bound).map_err(failed)?;
        Ok(())
    }

    /// The launches that are remembered, oldest first.
    #[must_use]
    pub fn history(&self) -> Vec<Launch> {
        lock(&self.history).launches().cloned().collect()
    }

    /// Those of one kernel.
    #[must_use]
    pub fn history_of(&self, kernel: &str) -> Vec<Launch> {
        lock(&self.history).launches().filter(|launch| &*launch.kernel == kernel).cloned().collect()
    }

    /// Forgets them. Their numbers go on.
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
