//! Talking to a ring kernel: `tell`, `ask`, `receive`, and its life.
//!
//! Every call has up to four forms. The plain one waits as the ring kernel's [`Backpressure`] says;
//! `try_…` never waits; `…_timeout` waits so long; `…_async` gives a future that any executor can run. Dropping such a future gives
//! up the call.

use std::sync::Arc;

use dotcompute_ring::mailbox::Sender;
use dotcompute_ring::wait::WaitStrategy;

use crate::backend::shared_task::SharedTask;
use crate::cell::any_kernel::AnyKernel;
use crate::cell::typed_cell::Shared;
use crate::envelope::Envelope;
pub use crate::envelope::Received;
use crate::lifecycle::State;
use crate::message::{Message, Priority};
use crate::telemetry::{KernelStats, Sampler};
use spare_slot::SpareSlot;

mod ask;
mod ask_outcome;
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

pub use pending_ask::PendingAsk;

/// A ring kernel's address: typed, cheap to clone, usable from any thread and any executor.
///
/// Handles do not keep a ring kernel alive: one that has ended answers every call with an error that says so.
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
///         ctx.reply(message * 2);
///         Ok(())
///     }
/// }
///
/// let runtime = Runtime::new()?;
/// let double = runtime.launch("double", || Double)?;
/// double.activate()?;
/// assert_eq!(double.ask(21)?, 42);
/// // Told instead of asked, it puts its answer on its output ring.
/// double.tell(4)?;
/// assert_eq!(double.receive()?, 8);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct KernelHandle<I, O> {
    shared: Arc<Shared<I, O>>,
    /// This handle's producer end, with its own cache of where the consumer is.
    input: Sender<Envelope<I, O>>,
    priority: Priority,
    wait: WaitStrategy,
    sampler: Sampler,
    /// A reply slot for the next ask, so that asking allocates nothing.
    spare: SpareSlot<O>,
    /// Where asks through this handle may run the ring kernel themselves, if they are to.
    shared_task: Option<Arc<SharedTask>>,
    /// Whether what runs there is the attendant of a device: no user code, to be run again until the answer is there.
    attends: bool,
}

impl<I, O> Clone for KernelHandle<I, O> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            input: self.input.clone(),
            priority: self.priority,
            wait: self.wait,
            sampler: self.sampler.clone(),
            spare: SpareSlot::empty(),
            shared_task: self.shared_task.clone(),
            attends: self.attends,
        }
    }
}

impl<I, O> std::fmt::Debug for KernelHandle<I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let core = &self.shared.core;
        f.debug_struct("KernelHandle")
            .field("kernel", &core.name)
            .field("state", &core.life.get())
            .field("input", &core.input_type)
            .field("output", &core.output_type)
            .finish_non_exhaustive()
    }
}

const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    // Handles go to any thread and any executor, whatever their messages: those need not be `Sync`.
    is_send_and_sync::<KernelHandle<std::cell::Cell<u8>, std::cell::Cell<u8>>>();
};

impl<I: Message, O: Message> KernelHandle<I, O> {
    pub(crate) fn new(shared: Arc<Shared<I, O>>) -> Self {
        let input = shared.input.clone();
        let wait = shared.core.options.wait;
        let sampler = Sampler::new(shared.core.options.telemetry);
        let attends = shared.is_on_device();
        let shared_task = if attends { shared.shared_task() } else { None };
        let spare = SpareSlot::empty();
        Self { shared, input, priority: Priority::default(), wait, sampler, spare, shared_task, attends }
    }

    /// The ring kernel's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.core.name
    }

    /// The ring kernel's state.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.core.life.get()
    }

    /// What has happened in the ring kernel so far. Reading stops nothing.
    #[must_use]
    pub fn stats(&self) -> KernelStats {
        self.shared.stats()
    }

    /// A handle to the same ring kernel whose messages have this priority.
    #[must_use]
    pub fn with_priority(&self, priority: impl Into<Priority>) -> Self {
        Self { priority: priority.into(), ..self.clone() }
    }

    /// A handle to the same ring kernel that waits in this way for answers, outputs and room.
    #[must_use]
    pub fn with_wait(&self, wait: WaitStrategy) -> Self {
        Self { wait, ..self.clone() }
    }

    /// A handle to the same ring kernel whose [`ask`](Self::ask) and [`ask_async`](Self::ask_async) handle the message on the calling
    /// thread, if the ring kernel is idle at that moment: no other thread is woken, and nothing travels to another core and back.
    ///
    /// Messages are still handled one after another and in order, panics and errors still end at the message boundary, and the
    /// books are kept as ever; only the thread is another. A ring kernel that is busy, or on a thread of its own, is asked as usual.
    ///
    /// It is not the default because the caller then waits in the handler itself: one that never returns keeps its asker, which
    /// [`abort`](Self::abort) would otherwise release. Asks with a timeout never run a handler, since they could not leave it in time.
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
        Self { shared_task: self.shared.shared_task(), ..self.clone() }
    }
}
