//! The runtime: launches ring kernels, finds them by name, and ends them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dotcompute_ring::banded;
use dotcompute_ring::fence::Fence;

use crate::backend::{Backend, CpuBackend, LaunchPlan, Program};
use crate::dead_letter::{DeadLetter, DeadLetterInfo, DeadLetters};
use crate::driver::HandlerDriver;
use crate::error::{HandlerResult, LaunchError, LifecycleError, ShutdownError, panic_text};
use crate::handle::KernelHandle;
use crate::intake::Intake;
use crate::kernel::RingKernel;
use crate::lifecycle::{Command, State};
use crate::loops::{LoopContext, LoopDriver, LoopFactory};
use crate::message::Message;
use crate::options::{Backpressure, KernelOptions, Placement};
use crate::shared::{AnyKernel, Core, NewShared, Shared};
use crate::telemetry::KernelStats;

/// How many names an "unknown ring kernel" error lists.
const NAMES_IN_ERRORS: usize = 8;

/// How a runtime is made, where the defaults do not suit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RuntimeOptions {
    /// Threads of the shared pool; started with the first ring kernel placed on it. Default: one per core this process may use.
    pub workers: usize,
    /// Dead letters kept for inspection; older ones make room (all are counted). Default 1024.
    pub dead_letters_kept: usize,
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { workers, dead_letters_kept: 1024 }
    }
}

impl RuntimeOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the number of pool threads (at least one).
    #[must_use]
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = threads;
        self
    }

    /// Sets how many dead letters are kept.
    #[must_use]
    pub fn dead_letters_kept(mut self, letters: usize) -> Self {
        self.dead_letters_kept = letters;
        self
    }
}

/// The names in use.
#[derive(Default)]
pub(crate) struct Registry {
    kernels: Mutex<HashMap<Arc<str>, Arc<dyn AnyKernel>>>,
    closed: AtomicBool,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<dyn AnyKernel>>> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the name, or says why not. A failed ring kernel's name may be taken over.
    fn add(&self, kernel: Arc<dyn AnyKernel>) -> Result<(), LaunchError> {
        let name = Arc::clone(&kernel.core().name);
        let mut kernels = self.lock();
        // Looked at under the lock that `close` takes after setting it: what is added is also shut down.
        if self.closed.load(Ordering::Acquire) {
            return Err(LaunchError::RuntimeClosed { kernel: name });
        }
        if let Some(holder) = kernels.get(&name) {
            let state = holder.core().life.get();
            if !state.has_ended() {
                return Err(LaunchError::DuplicateName { kernel: name, state });
            }
        }
        kernels.insert(name, kernel);
        Ok(())
    }

    /// Frees the name of a ring kernel that has ended, unless another has taken it over.
    pub(crate) fn forget(&self, core: &Core) {
        let mut kernels = self.lock();
        if kernels.get(&core.name).is_some_and(|holder| std::ptr::eq(holder.core(), core)) {
            kernels.remove(&core.name);
        }
    }

    fn all(&self) -> Vec<Arc<dyn AnyKernel>> {
        self.lock().values().cloned().collect()
    }

    fn close(&self) -> Vec<Arc<dyn AnyKernel>> {
        self.closed.store(true, Ordering::Release);
        self.all()
    }
}

/// Owns ring kernels: launches them, knows their names, ends them.
///
/// ```
/// use std::time::Duration;
/// use dotcompute_core::error::HandlerResult;
/// use dotcompute_core::kernel::{Context, RingKernel};
/// use dotcompute_core::options::KernelOptions;
/// use dotcompute_core::runtime::Runtime;
///
/// #[derive(Default)]
/// struct Counter(u64);
///
/// impl RingKernel for Counter {
///     type Input = u64;
///     type Output = u64;
///     fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
///         self.0 += message;
///         ctx.reply(self.0);
///         Ok(())
///     }
/// }
///
/// let runtime = Runtime::new()?;
/// let counter = runtime.launch_with("counter", KernelOptions::new().dedicated(), Counter::default)?;
/// counter.activate()?;
/// counter.tell(40)?;
/// assert_eq!(counter.ask(2)?, 42);
///
/// // Elsewhere, by name:
/// let same = runtime.handle::<u64, u64>("counter")?;
/// assert_eq!(same.ask(0)?, 42);
///
/// runtime.shutdown(Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Runtime {
    registry: Arc<Registry>,
    dead_letters: Arc<DeadLetters>,
    cpu: CpuBackend,
}

impl Runtime {
    /// A runtime with default options. Starts no thread yet.
    ///
    /// # Errors
    ///
    /// None today; backends that must be opened will report here.
    pub fn new() -> Result<Self, LaunchError> {
        Self::with_options(RuntimeOptions::default())
    }

    /// A runtime with these options.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_options(options: RuntimeOptions) -> Result<Self, LaunchError> {
        Ok(Self {
            registry: Arc::default(),
            dead_letters: DeadLetters::new(options.dead_letters_kept),
            cpu: CpuBackend::new(options.workers),
        })
    }

    /// Launches a ring kernel with default options; see [`launch_with`](Self::launch_with).
    ///
    /// # Errors
    ///
    /// As for `launch_with`.
    pub fn launch<K, F>(
        &self,
        name: &str,
        factory: F,
    ) -> Result<KernelHandle<K::Input, K::Output>, LaunchError>
    where
        K: RingKernel,
        F: Fn() -> K + Send + 'static,
    {
        self.launch_with(name, KernelOptions::default(), factory)
    }

    /// Launches a ring kernel in handler form: makes its state with `factory`, its rings and its thread or task. It handles nothing,
    /// and nothing may be sent to it, until it is [activated](KernelHandle::activate). The factory is kept for restarts.
    ///
    /// # Errors
    ///
    /// [`LaunchError`]: the name is empty or taken, a capacity is zero or too large, there is no thread or core for it, the factory
    /// panicked, or the runtime is shut down. No resource is held then.
    pub fn launch_with<K, F>(
        &self,
        name: &str,
        options: KernelOptions,
        factory: F,
    ) -> Result<KernelHandle<K::Input, K::Output>, LaunchError>
    where
        K: RingKernel,
        F: Fn() -> K + Send + 'static,
    {
        let (shared, receiver) = self.reserve::<K::Input, K::Output>(name, options)?;
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&factory));
        let kernel = match made {
            Ok(kernel) => kernel,
            Err(panic) => {
                shared.core.end(State::Terminated);
                return Err(LaunchError::FactoryPanicked { kernel: name.into(), text: panic_text(&*panic) });
            }
        };
        let intake = Intake::new(Arc::clone(&shared), receiver);
        self.make_resident(shared, Program::Host(Box::pin(HandlerDriver::new(intake, kernel, factory))))
    }

    /// Launches a ring kernel in loop form: an async function that receives and sends until it is told to stop. It is first called
    /// at activation, and again by supervision after a panic or an error.
    ///
    /// ```
    /// # use dotcompute_core::options::KernelOptions;
    /// # use dotcompute_core::runtime::Runtime;
    /// # use dotcompute_core::loops::LoopContext;
    /// # let runtime = Runtime::new()?;
    /// let echo = runtime.launch_loop("echo", KernelOptions::new(), |mut ctx: LoopContext<u32, u32>| async move {
    ///     while let Some(message) = ctx.receive_async().await {
    ///         ctx.reply(message);
    ///     }
    ///     Ok(())
    /// })?;
    /// echo.activate()?;
    /// assert_eq!(echo.ask(7)?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`launch_with`](Self::launch_with).
    pub fn launch_loop<I, O, F, R>(
        &self,
        name: &str,
        options: KernelOptions,
        body: F,
    ) -> Result<KernelHandle<I, O>, LaunchError>
    where
        I: Message,
        O: Message,
        F: Fn(LoopContext<I, O>) -> R + Send + 'static,
        R: Future<Output = HandlerResult> + Send + 'static,
    {
        self.launch_boxed_loop(name, options, Box::new(move |ctx| Box::pin(body(ctx))))
    }

    /// Launches a ring kernel in loop form on a thread of its own: a plain function that may block.
    ///
    /// ```
    /// # use dotcompute_core::options::KernelOptions;
    /// # use dotcompute_core::runtime::Runtime;
    /// # use dotcompute_core::loops::LoopContext;
    /// # let runtime = Runtime::new()?;
    /// let options = KernelOptions::new().dedicated();
    /// let echo = runtime.launch_thread_loop("echo", options, |mut ctx: LoopContext<u32, u32>| {
    ///     while let Some(message) = ctx.receive() {
    ///         ctx.reply(message);
    ///     }
    ///     Ok(())
    /// })?;
    /// echo.activate()?;
    /// assert_eq!(echo.ask(7)?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`launch_with`](Self::launch_with), and if the options place it on the pool, where it would block a worker.
    pub fn launch_thread_loop<I, O, F>(
        &self,
        name: &str,
        options: KernelOptions,
        body: F,
    ) -> Result<KernelHandle<I, O>, LaunchError>
    where
        I: Message,
        O: Message,
        F: Fn(LoopContext<I, O>) -> HandlerResult + Send + Sync + 'static,
    {
        if options.placement == Placement::Pool {
            return Err(LaunchError::Options {
                kernel: name.into(),
                problem: "a loop that blocks is placed on the shared pool, where it would keep a worker from all others",
                advice: "use `KernelOptions::dedicated` or `pinned`, or write it as an async loop",
            });
        }
        let body = Arc::new(body);
        self.launch_boxed_loop(
            name,
            options,
            Box::new(move |ctx| {
                let body = Arc::clone(&body);
                Box::pin(async move { body(ctx) })
            }),
        )
    }

    fn launch_boxed_loop<I: Message, O: Message>(
        &self,
        name: &str,
        options: KernelOptions,
        factory: LoopFactory<I, O>,
    ) -> Result<KernelHandle<I, O>, LaunchError> {
        let (shared, receiver) = self.reserve::<I, O>(name, options)?;
        let intake = Intake::new(Arc::clone(&shared), receiver);
        self.make_resident(shared, Program::Host(Box::pin(LoopDriver::new(intake, factory))))
    }

    /// Makes the rings and takes the name.
    fn reserve<I: Message, O: Message>(
        &self,
        name: &str,
        options: KernelOptions,
    ) -> Result<NewShared<I, O>, LaunchError> {
        if name.is_empty() {
            return Err(LaunchError::EmptyName);
        }
        let name: Arc<str> = name.into();
        let overflow = match options.backpressure {
            Backpressure::DropOldest => banded::Overflow::EvictOldest,
            _ => banded::Overflow::Refuse,
        };
        // A thread of its own sleeps rarely and is sent to often: its senders should not pay for a full fence. A task on the pool
        // goes idle at every lull, and a barrier across all threads each time would cost more than the fences.
        let fence = match options.placement {
            Placement::Pool => Fence::Symmetric,
            Placement::Dedicated | Placement::Pinned(_) => Fence::Asymmetric,
        };
        let mailbox = banded::Options { capacity: options.capacity, overflow, fence };
        banded::check_capacity::<crate::envelope::Received<O>>(options.output_capacity)
            .map_err(|source| LaunchError::Capacity { kernel: Arc::clone(&name), ring: "output", source })?;
        let core = Core::new(
            Arc::clone(&name),
            (I::TYPE_NAME, O::TYPE_NAME),
            options,
            Arc::clone(&self.dead_letters),
            Arc::downgrade(&self.registry),
        );
        let (shared, receiver) = Shared::new(core, mailbox).map_err(|source| LaunchError::Capacity {
            kernel: name,
            ring: "input",
            source,
        })?;
        self.registry.add(Arc::clone(&shared) as Arc<dyn AnyKernel>)?;
        Ok((shared, receiver))
    }

    fn make_resident<I: Message, O: Message>(
        &self,
        shared: Arc<Shared<I, O>>,
        program: Program,
    ) -> Result<KernelHandle<I, O>, LaunchError> {
        let core = &shared.core;
        let plan = LaunchPlan { kernel: Arc::clone(&core.name), placement: core.options.placement, program };
        match self.cpu.launch(plan) {
            Ok(residency) => {
                shared.set_residency(residency);
                // Created until now; only a shutdown at this very moment could have changed it.
                let _ = core.life.change(State::Launched, |state| state == State::Created);
                Ok(KernelHandle::new(shared))
            }
            Err(source) => {
                core.end(State::Terminated);
                Err(LaunchError::Backend { kernel: Arc::clone(&core.name), source })
            }
        }
    }

    // ---- finding ----

    /// The ring kernel of this name, if its messages are of these types.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::UnknownKernel`] or [`LifecycleError::WrongType`].
    pub fn handle<I: Message, O: Message>(&self, name: &str) -> Result<KernelHandle<I, O>, LifecycleError> {
        let kernel = self.find(name)?;
        let (actual_in, actual_out) = (kernel.core().input_type, kernel.core().output_type);
        match kernel.into_any().downcast::<Shared<I, O>>() {
            Ok(shared) => Ok(KernelHandle::new(shared)),
            Err(_) => Err(LifecycleError::WrongType {
                kernel: name.into(),
                asked: format!("{} -> {}", I::TYPE_NAME, O::TYPE_NAME),
                actual: format!("{actual_in} -> {actual_out}"),
            }),
        }
    }

    fn find(&self, name: &str) -> Result<Arc<dyn AnyKernel>, LifecycleError> {
        let kernels = self.registry.lock();
        if let Some(kernel) = kernels.get(name) {
            return Ok(Arc::clone(kernel));
        }
        let mut known: Vec<Arc<str>> = kernels.keys().cloned().collect();
        known.sort();
        known.truncate(NAMES_IN_ERRORS);
        Err(LifecycleError::UnknownKernel { kernel: name.to_owned(), known })
    }

    /// The counters and latencies of the ring kernel of this name.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::UnknownKernel`].
    pub fn stats(&self, name: &str) -> Result<KernelStats, LifecycleError> {
        self.find(name).map(|kernel| kernel.stats())
    }

    /// The counters and latencies of every ring kernel that has not terminated, by name.
    #[must_use]
    pub fn all_stats(&self) -> Vec<KernelStats> {
        let mut all: Vec<KernelStats> = self.registry.all().iter().map(|kernel| kernel.stats()).collect();
        all.sort_by(|a, b| a.kernel.cmp(&b.kernel));
        all
    }

    // ---- dead letters ----

    /// How many messages have become dead letters in this runtime so far, outputs that nobody took included.
    #[must_use]
    pub fn dead_letter_count(&self) -> u64 {
        self.dead_letters.total()
    }

    /// The dead letters that are kept, oldest first, without taking them.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetterInfo> {
        self.dead_letters.list()
    }

    /// Takes the dead letters that are kept, oldest first, with their messages.
    #[must_use]
    pub fn take_dead_letters(&self) -> Vec<DeadLetter> {
        self.dead_letters.take()
    }

    // ---- ending ----

    /// Ends every ring kernel, as [`KernelHandle::terminate`] does, and with it the runtime. Those that feed others end first, so
    /// that what travels between them is handled. Waits at most `timeout` for all of them together.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] names those that did not come to an end; their messages became dead letters if they could still be aborted.
    pub fn shutdown(self, timeout: Duration) -> Result<(), ShutdownError> {
        let deadline = Instant::now() + timeout;
        let kernels = in_order_of_flow(self.registry.close());
        let mut stuck = Vec::new();
        for kernel in &kernels {
            let left = deadline.saturating_duration_since(Instant::now());
            if kernel.terminate(left).is_err() {
                stuck.push(kernel.core().name.to_string());
            }
        }
        for kernel in &kernels {
            if let Some(residency) = kernel.residency() {
                let ended = kernel.core().life.get() == State::Terminated;
                if ended && !residency.join(deadline.max(Instant::now() + JOIN_GRACE)) {
                    stuck.push(kernel.core().name.to_string());
                }
            }
        }
        if stuck.is_empty() { Ok(()) } else { Err(ShutdownError { stuck, waited: timeout }) }
    }
}

/// Sorts ring kernels so that each comes before those it feeds. Those in a circle come last, in any order.
fn in_order_of_flow(kernels: Vec<Arc<dyn AnyKernel>>) -> Vec<Arc<dyn AnyKernel>> {
    let mut fed_by: HashMap<Arc<str>, usize> = HashMap::new();
    let feeds: Vec<Vec<Arc<str>>> = kernels
        .iter()
        .map(|kernel| kernel.core().feeds.lock().unwrap_or_else(PoisonError::into_inner).clone())
        .collect();
    for name in feeds.iter().flatten() {
        *fed_by.entry(Arc::clone(name)).or_default() += 1;
    }
    let index_of: HashMap<Arc<str>, usize> =
        kernels.iter().enumerate().map(|(index, kernel)| (Arc::clone(&kernel.core().name), index)).collect();
    let is_fed = |fed_by: &HashMap<Arc<str>, usize>, index: usize| {
        fed_by.get(&kernels[index].core().name).is_some_and(|&count| count > 0)
    };
    let mut order: Vec<usize> = (0..kernels.len()).filter(|&index| !is_fed(&fed_by, index)).collect();
    let mut next = 0;
    while next < order.len() {
        for name in &feeds[order[next]] {
            let Some(count) = fed_by.get_mut(name) else { continue };
            *count -= 1;
            if *count == 0 {
                order.extend(index_of.get(name));
            }
        }
        next += 1;
    }
    let circles: Vec<usize> = (0..kernels.len()).filter(|&index| is_fed(&fed_by, index)).collect();
    order.into_iter().chain(circles).map(|index| Arc::clone(&kernels[index])).collect()
}

/// A thread that has reported its ring kernel's end needs only to return.
const JOIN_GRACE: Duration = Duration::from_millis(200);

impl Drop for Runtime {
    /// Aborts what still lives, without waiting: a program that wants its messages handled calls [`Runtime::shutdown`].
    fn drop(&mut self) {
        for kernel in self.registry.close() {
            kernel.request_end(Command::Abort);
        }
    }
}
