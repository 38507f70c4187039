//! The runtime: launches ring kernels, finds them by name, and ends them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, BackendError};
use crate::cell::current::CurrentKernel;
use crate::cell::typed_cell::TypedCell;
use crate::dead_letter::{DeadLetter, DeadLetterInfo, DeadLetters};
use crate::error::{LaunchError, LifecycleError, ShutdownError};
use crate::handle::KernelHandle;
use crate::message::Message;
use crate::telemetry::KernelStats;

mod ending;
mod failed;
mod launch;
mod registry;

use registry::Registry;

/// Options of a runtime.
#[derive(Clone)]
#[non_exhaustive]
pub struct RuntimeOptions {
    /// Threads of the shared pool, which starts with the first ring kernel placed on it. Default: one per available core.
    pub workers: usize,
    /// Handlers on the shared pool that may block at a time, each of which occupies a thread of its own meanwhile. Default 256.
    pub max_blocked_handlers: usize,
    /// Number of dead letters stored for inspection. The oldest are dropped first; all are counted. Default 1024.
    pub dead_letter_capacity: usize,
    /// Number of failed ring kernels whose counters stay available in [`Runtime::stats`] and [`Runtime::all_stats`]. The oldest are dropped
    /// first. Their rings and states are freed when their last handles are dropped. Default 256.
    pub failed_kernel_capacity: usize,
    /// Backend for ring kernels on a device. Default: none.
    pub device: Option<Arc<dyn Backend>>,
}

impl fmt::Debug for RuntimeOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, max_blocked_handlers, dead_letter_capacity, failed_kernel_capacity, device } =
            self;
        f.debug_struct("RuntimeOptions")
            .field("workers", workers)
            .field("max_blocked_handlers", max_blocked_handlers)
            .field("dead_letter_capacity", dead_letter_capacity)
            .field("failed_kernel_capacity", failed_kernel_capacity)
            .field("device", &device.as_ref().map(|device| device.kind()))
            .finish()
    }
}

impl Default for RuntimeOptions {
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            workers,
            max_blocked_handlers: 256,
            dead_letter_capacity: 1024,
            failed_kernel_capacity: 256,
            device: None,
        }
    }
}

impl RuntimeOptions {
    /// Returns the default options.
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

    /// Sets how many handlers on the shared pool may block at a time.
    ///
    /// A handler that asks, tells into a full mailbox or receives blocks its worker, and another thread takes over the worker's duty. A
    /// call beyond this limit returns an error instead. Ring kernels that block often belong on a dedicated thread.
    #[must_use]
    pub fn max_blocked_handlers(mut self, handlers: usize) -> Self {
        self.max_blocked_handlers = handlers;
        self
    }

    /// Sets how many dead letters are stored.
    #[must_use]
    pub fn dead_letter_capacity(mut self, letters: usize) -> Self {
        self.dead_letter_capacity = letters;
        self
    }

    /// Sets how many failed ring kernels keep their counters.
    #[must_use]
    pub fn failed_kernel_capacity(mut self, kernels: usize) -> Self {
        self.failed_kernel_capacity = kernels;
        self
    }

    /// Sets the backend for ring kernels on a device.
    #[must_use]
    pub fn device(mut self, backend: Arc<dyn Backend>) -> Self {
        self.device = Some(backend);
        self
    }
}

/// Owns ring kernels: launches them, finds them by name, and ends them.
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
    device: Option<Arc<dyn Backend>>,
}

impl Runtime {
    /// Creates a runtime with default options. Starts no thread yet.
    ///
    /// # Errors
    ///
    /// None at present; a backend that can fail to open would report here.
    pub fn new() -> Result<Self, LaunchError> {
        Self::with_options(RuntimeOptions::default())
    }

    /// Creates a runtime with these options.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_options(options: RuntimeOptions) -> Result<Self, LaunchError> {
        Ok(Self {
            registry: Arc::new(Registry::new(options.failed_kernel_capacity)),
            dead_letters: DeadLetters::new(options.dead_letter_capacity),
            cpu: CpuBackend::new(options.workers, options.max_blocked_handlers),
            device: options.device,
        })
    }

    // ---- finding ----

    /// Returns a handle to the ring kernel of this name, if its message types match.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::UnknownKernel`] or [`LifecycleError::WrongType`]; [`LifecycleError::WrongState`] if the ring kernel has failed and no
    /// handle to it is left.
    pub fn handle<I: Message, O: Message>(&self, name: &str) -> Result<KernelHandle<I, O>, LifecycleError> {
        let kernel = self.registry.find(name)?;
        let (actual_in, actual_out) = (kernel.cell().input_type, kernel.cell().output_type);
        match kernel.into_any().downcast::<TypedCell<I, O>>() {
            Ok(cell) => Ok(KernelHandle::new(cell)),
            Err(_) => Err(LifecycleError::WrongType {
                kernel: name.into(),
                requested: format!("{} -> {}", I::TYPE_NAME, O::TYPE_NAME),
                actual: format!("{actual_in} -> {actual_out}"),
            }),
        }
    }

    /// Returns the counters and latencies of the ring kernel of this name.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::UnknownKernel`].
    pub fn stats(&self, name: &str) -> Result<KernelStats, LifecycleError> {
        self.registry.stats(name)
    }

    /// Returns the counters and latencies of every ring kernel that has not terminated, sorted by name. Of the failed
    /// ones, the latest [`failed_kernel_capacity`](RuntimeOptions::failed_kernel_capacity).
    #[must_use]
    pub fn all_stats(&self) -> Vec<KernelStats> {
        let mut all = self.registry.all_stats();
        all.sort_unstable_by(|a, b| a.kernel.cmp(&b.kernel));
        all
    }

    // ---- dead letters ----

    /// Returns how many messages have become dead letters in this runtime, undelivered outputs included.
    #[must_use]
    pub fn dead_letter_count(&self) -> u64 {
        self.dead_letters.total()
    }

    /// Lists the stored dead letters, oldest first, without taking them.
    #[must_use]
    pub fn dead_letters(&self) -> Vec<DeadLetterInfo> {
        self.dead_letters.list()
    }

    /// Takes the stored dead letters, oldest first, with their messages.
    #[must_use]
    pub fn take_dead_letters(&self) -> Vec<DeadLetter> {
        self.dead_letters.take()
    }

    // ---- the device ----

    /// Runs `act` while no ring kernel of this runtime is on its device, so that `act` may make any driver call. A call that waits for the
    /// whole device, or frees memory, would otherwise wait for ring kernels that do not end.
    ///
    /// Each ring kernel leaves at its next message boundary, preserves its state, and is relaunched afterwards. Messages sent meanwhile are
    /// queued. Ring kernels on the host are not affected.
    ///
    /// Inside `act`, the same thread may call `quiesced` again, launch and connect ring kernels, and use the memory of the device: the device is
    /// quiet already. A ring kernel that is launched there starts off the device. A reply of a ring kernel on the device does not arrive before
    /// `act` returns. Other threads that quiesce the device, also to launch or connect a ring kernel, wait until `act` has returned.
    ///
    /// # Errors
    ///
    /// [`BackendError::QuiesceTimeout`] if some did not reach a message boundary within `timeout`; [`BackendError::QuiescedElsewhere`] if another
    /// thread was still inside `act` then; [`BackendError::QuiesceInHandler`], at once, in the handler of a ring kernel. `act` was not run then.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use dotcompute_core::runtime::Runtime;
    /// let runtime = Runtime::new()?;
    /// let freed = runtime.quiesced(Duration::from_secs(5), || "free device memory here")?;
    /// # let _ = freed;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn quiesced<T>(&self, timeout: Duration, act: impl FnOnce() -> T) -> Result<T, BackendError> {
        if CurrentKernel::is_any() {
            return Err(BackendError::QuiesceInHandler);
        }
        let Some(device) = &self.device else { return Ok(act()) };
        let (mut act, mut result) = (Some(act), None);
        device.quiesced(timeout, &mut || result = act.take().map(|act| act()))?;
        result.ok_or_else(|| BackendError::Unsupported {
            backend: device.kind(),
            problem: String::from(
                "`quiesced` returned `Ok` without running the closure; this is a bug in the backend",
            ),
        })
    }

    // ---- ending ----

    /// Ends every ring kernel like [`KernelHandle::terminate`], and then the runtime. Each is told to end once the ring kernels that are
    /// connected to it have ended, so that messages between ring kernels are handled; those connected in a cycle follow together. After
    /// `timeout`, the remaining ones are aborted together. Those whose handlers do not return within a further 0.2 s are then `Failed`, and
    /// their callers are released.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] names the ring kernels that did not end within `timeout`. Their unhandled messages are dead letters.
    pub fn shutdown(self, timeout: Duration) -> Result<(), ShutdownError> {
        ending::shut_down(&self.registry, timeout)
    }
}

impl Drop for Runtime {
    /// Aborts the remaining ring kernels without waiting. To have their messages handled, call [`Runtime::shutdown`].
    ///
    /// Idle ring kernels have ended when this returns, also if every worker is in a handler that does not return. A ring kernel whose
    /// handler is running ends when the handler returns; after one second it is `Failed`, and its callers are released.
    fn drop(&mut self) {
        ending::abort_all(self.registry.close());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::cell::any_kernel::AnyKernel;
    use crate::error::HandlerResult;
    use crate::kernel::{Context, RingKernel};

    struct Forward;

    impl RingKernel for Forward {
        type Input = u64;
        type Output = u64;
        fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
            ctx.send(message);
            Ok(())
        }
    }

    /// Each holds the other's mailbox in its connection, which the driver has taken over only if it has sent an output.
    #[test]
    fn ring_kernels_connected_in_a_circle_are_freed_when_they_have_ended() {
        const LIMIT: Duration = Duration::from_secs(60);
        for sends in [false, true] {
            let runtime = Runtime::new().unwrap();
            let handles = ["a", "b"].map(|name| runtime.launch(name, || Forward).unwrap());
            let cells: Vec<Weak<dyn AnyKernel>> =
                ["a", "b"].iter().map(|name| Arc::downgrade(&runtime.registry.find(name).unwrap())).collect();
            handles[0].connect(&handles[1]).unwrap();
            handles[1].connect(&handles[0]).unwrap();
            for handle in &handles {
                handle.activate().unwrap();
                if sends {
                    handle.tell(1).unwrap();
                }
            }
            for handle in &handles {
                handle.terminate(LIMIT).unwrap();
            }
            drop(handles);
            let start = std::time::Instant::now();
            // A worker drops the driver just after the end.
            while cells.iter().any(|cell| cell.strong_count() > 0) {
                assert!(start.elapsed() < LIMIT, "they keep each other");
                std::thread::yield_now();
            }
        }
    }
}
