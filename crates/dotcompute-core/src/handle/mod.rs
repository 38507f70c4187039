//! The caller's side of a ring kernel: `tell`, `ask`, `receive`, `connect` and the lifecycle calls.
//!
//! A call has up to four forms. The plain form waits as the ring kernel's [`Backpressure`](crate::options::Backpressure) says, `try_…`
//! never waits, `…_timeout` waits at most the given time, and `…_async` returns a future that runs on any executor. Dropping such a future
//! cancels the call. A timeout of [`Duration::MAX`](std::time::Duration::MAX) is without a limit.

use std::sync::Arc;
use std::time::Duration;

use dotcompute_ring::mailbox::Sender;
use dotcompute_ring::wait::WaitStrategy;

use crate::backend::shared_task::SharedTask;
use crate::cell::any_kernel::AnyKernel;
use crate::cell::typed_cell::TypedCell;
use crate::envelope::Envelope;
pub use crate::envelope::Received;
use crate::lifecycle::State;
use crate::message::{Message, Priority};
use crate::options::InlineAsks;
use crate::status::Status;
use crate::telemetry::{KernelStats, Sampler};
use spare_slot::SpareSlot;

mod ask;
mod ask_outcome;
mod async_call;
mod checkpoint;
mod connect;
mod lifecycle;
mod pending_ask;
mod receive;
mod send;
mod spare_slot;
mod tell;
mod timeout;
mod wait_limit;

pub use connect::Connection;
pub use pending_ask::PendingAsk;

/// The address of a ring kernel: typed, cheap to clone, usable from any thread and any executor.
///
/// A handle does not keep its ring kernel alive. Calls on a ring kernel that has ended return an error that says so.
///
/// ```
/// use dotcompute_core::error::HandlerResult;
/// use dotcompute_core::kernel::{Context, RingKernel};
/// use dotcompute_core::runtime::Runtime;
///
/// struct Double;
/// impl RingKernel for Double {
///     type Input = u64;
///     type Output = u64;
///     fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
///         if ctx.was_asked() {
///             ctx.reply(message * 2);
///         } else {
///             ctx.send(message * 2);
///         }
///         Ok(())
///     }
/// }
///
/// let runtime = Runtime::new()?;
/// let double = runtime.launch("double", || Double)?;
/// double.activate()?;
/// assert_eq!(double.ask(21)?, 42);
/// // What a handler sends goes to the output ring.
/// double.tell(4)?;
/// assert_eq!(double.receive()?, 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct KernelHandle<I, O> {
    cell: Arc<TypedCell<I, O>>,
    /// The producing end of the mailbox for this handle, with its own cached `head`.
    input: Sender<Envelope<I, O>>,
    priority: Priority,
    wait: WaitStrategy,
    sampler: Sampler,
    /// Caches a reply slot for the next ask, so that `ask` does not allocate.
    spare: SpareSlot<O>,
    /// The task that asks through this handle may poll on the calling thread, as `inline_asks` says. `None` if they may not.
    shared_task: Option<Arc<SharedTask>>,
    inline_asks: InlineAsks,
    /// Whether that task is a device proxy: it runs no user code, and a waiting caller polls it until the reply arrives.
    polls_device: bool,
}

impl<I, O> Clone for KernelHandle<I, O> {
    fn clone(&self) -> Self {
        Self {
            cell: Arc::clone(&self.cell),
            input: self.input.clone(),
            priority: self.priority,
            wait: self.wait,
            sampler: self.sampler.clone(),
            spare: SpareSlot::empty(),
            shared_task: self.shared_task.clone(),
            inline_asks: self.inline_asks,
            polls_device: self.polls_device,
        }
    }
}

impl<I, O> std::fmt::Debug for KernelHandle<I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cell = &self.cell.untyped;
        f.debug_struct("KernelHandle")
            .field("kernel", &cell.name)
            .field("state", &cell.lifecycle.get())
            .field("input", &cell.input_type)
            .field("output", &cell.output_type)
            .finish_non_exhaustive()
    }
}

// For every message type, also those that are not `Sync`: handles move between threads and executors, and futures between workers.
const _: () = {
    const fn is_send<T: Send>(_: &T) {}
    const fn is_send_and_sync<T: Send + Sync>() {}
    const fn handles<I: Message, O: Message>() {
        is_send_and_sync::<KernelHandle<I, O>>();
        is_send_and_sync::<PendingAsk<I, O, Arc<KernelHandle<I, O>>>>();
    }
    fn futures<I: Message, O: Message>(handle: &KernelHandle<I, O>, [first, second, third, fourth]: [I; 4]) {
        is_send(&handle.tell_async(first));
        is_send(&handle.ask_async(second));
        is_send(&handle.ask_timeout_async(third, Duration::ZERO));
        is_send(&KernelHandle::begin_ask(handle, fourth));
        is_send(&handle.receive_async());
        is_send(&handle.deactivate_async(Duration::ZERO));
        is_send(&handle.terminate_async(Duration::ZERO));
    }
    handles::<u8, u8>();
    let _ = futures::<u8, u8>;
};

impl<I: Message, O: Message> KernelHandle<I, O> {
    pub(crate) fn new(cell: Arc<TypedCell<I, O>>) -> Self {
        let input = cell.input.clone();
        let wait = cell.untyped.options.wait;
        let sampler = Sampler::new(cell.untyped.options.telemetry);
        let polls_device = cell.is_on_device();
        let inline_asks = if polls_device { InlineAsks::Always } else { cell.untyped.options.inline_asks };
        let shared_task = if inline_asks == InlineAsks::Never { None } else { cell.shared_task() };
        let spare = SpareSlot::empty();
        let priority = Priority::default();
        Self { cell, input, priority, wait, sampler, spare, shared_task, inline_asks, polls_device }
    }

    /// Returns the name of the ring kernel.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.cell.untyped.name
    }

    /// Returns the state of the ring kernel.
    #[must_use]
    pub fn state(&self) -> State {
        self.cell.untyped.lifecycle.get()
    }

    /// Returns the state of the ring kernel, and what keeps it from taking its next message, to be displayed.
    #[must_use]
    pub fn status(&self) -> Status {
        Status { state: self.state(), blocked: self.cell.blocked() }
    }

    /// Returns the counters and latencies of the ring kernel. Reading them does not stop it.
    #[must_use]
    pub fn stats(&self) -> KernelStats {
        self.cell.stats()
    }

    /// Returns a handle to the same ring kernel whose messages have this priority.
    #[must_use]
    pub fn with_priority(&self, priority: impl Into<Priority>) -> Self {
        Self { priority: priority.into(), ..self.clone() }
    }

    /// Returns a handle to the same ring kernel that waits for replies, outputs and free slots with this strategy.
    #[must_use]
    pub fn with_wait(&self, wait: WaitStrategy) -> Self {
        Self { wait, ..self.clone() }
    }

    /// Returns a handle whose [`ask`](Self::ask) and [`ask_async`](Self::ask_async) run the handler on the calling thread whenever the
    /// ring kernel is idle, as [`InlineAsks::Always`] does. By default they do so only if the handler was short so far.
    ///
    /// ```
    /// # use dotcompute_core::error::HandlerResult;
    /// # use dotcompute_core::kernel::{Context, RingKernel};
    /// # use dotcompute_core::runtime::Runtime;
    /// # struct Double;
    /// # impl RingKernel for Double {
    /// #     type Input = u64;
    /// #     type Output = u64;
    /// #     fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
    /// #         ctx.reply(message * 2);
    /// #         Ok(())
    /// #     }
    /// # }
    /// let runtime = Runtime::new()?;
    /// let double = runtime.launch("double", || Double)?;
    /// double.activate()?;
    /// let double = double.with_inline_asks();
    /// assert_eq!(double.ask(21)?, 42);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_inline_asks(&self) -> Self {
        Self { shared_task: self.cell.shared_task(), inline_asks: InlineAsks::Always, ..self.clone() }
    }
}
