//! Talking to a ring kernel: `tell`, `ask`, `receive`, and its life.
//!
//! Every call has up to four forms. The plain one waits as the ring kernel's [`Backpressure`] says;
//! `try_…` never waits; `…_timeout` waits so long; `…_async` gives a future that any executor can run. Dropping such a future gives
//! up the call.

use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::mailbox::Sender;
use dotcompute_ring::wait::{WaitStrategy, spin_then_park};
use futures_lite::FutureExt;
use futures_timer::Delay;

use crate::backend::SharedTask;
use crate::envelope::Envelope;
pub use crate::envelope::Received;
use crate::error::{LifecycleError, ReceiveError, Refusal, TellError};
use crate::lifecycle::{State, Watch};
use crate::message::{Message, MessageHeader, Priority};
use crate::options::Backpressure;
use crate::outlet::{KernelOutlet, ReaderPlace};
use crate::shared::{AnyKernel, Shared};
use crate::telemetry::{KernelStats, Sampler};

mod ask;
mod post;
mod state;

pub use ask::PendingAsk;
use ask::SpareSlot;
use post::Patience;

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

    // ---- tell ----

    /// Sends a message and does not wait for it to be handled.
    ///
    /// # Errors
    ///
    /// [`TellError`] with the message in it: the ring kernel was never activated, has ended, or has no room and its backpressure is
    /// `Reject` (or `BlockFor`, and the time is up).
    #[inline]
    pub fn tell(&self, message: I) -> Result<(), TellError<I>> {
        self.send(self.envelope(message, None), self.patience())
            .map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    /// As [`tell`](Self::tell), but never waits, whatever the backpressure.
    ///
    /// # Errors
    ///
    /// As for `tell`; a full ring is [`Refusal::Full`].
    #[inline]
    pub fn try_tell(&self, message: I) -> Result<(), TellError<I>> {
        self.send(self.envelope(message, None), Patience::None)
            .map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    /// As [`tell`](Self::tell), waiting at most `timeout` for room, whatever the backpressure.
    ///
    /// # Errors
    ///
    /// As for `tell`; no room in time is [`Refusal::TimedOut`].
    pub fn tell_timeout(&self, message: I, timeout: Duration) -> Result<(), TellError<I>> {
        let sent = self.send(self.envelope(message, None), Patience::For(timeout));
        sent.map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    /// As [`tell`](Self::tell), for async code.
    ///
    /// # Errors
    ///
    /// As for `tell`. If the future is dropped before it is ready, the message is dropped with it and was not sent.
    pub async fn tell_async(&self, message: I) -> Result<(), TellError<I>> {
        let sent = self.send_async(self.envelope(message, None), self.patience()).await;
        sent.map_err(|(reason, unsent)| self.tell_error(reason, unsent))
    }

    #[inline]
    fn envelope(&self, message: I, reply: Option<crate::envelope::Asker<O>>) -> Envelope<I, O> {
        let header = MessageHeader::new().with_priority(self.priority);
        Envelope { header, stamp: self.sampler.stamp(), reply, message }
    }

    #[inline]
    fn patience(&self) -> Patience {
        match self.shared.core.options.backpressure {
            Backpressure::Block => Patience::Endless,
            Backpressure::BlockFor(time) => Patience::For(time),
            Backpressure::Reject | Backpressure::DropOldest => Patience::None,
        }
    }

    #[cold]
    fn tell_error(&self, reason: Refusal, unsent: Envelope<I, O>) -> TellError<I> {
        TellError {
            kernel: Arc::clone(&self.shared.core.name),
            message_type: I::TYPE_NAME,
            reason,
            message: unsent.message,
        }
    }

    // ---- receive ----

    /// Waits for the next output of the ring kernel.
    ///
    /// Outputs of a connected ring kernel go where it is connected to and cannot be received.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`] if the ring kernel has ended and its outputs have all been received, or was never activated.
    pub fn receive(&self) -> Result<O, ReceiveError> {
        self.receive_envelope(None).map(|received| received.message)
    }

    /// As [`receive`](Self::receive), but never waits.
    ///
    /// # Errors
    ///
    /// As for `receive`, and [`ReceiveError::Empty`].
    pub fn try_receive(&self) -> Result<O, ReceiveError> {
        if let Some(received) = self.shared.output.try_receive() {
            return Ok(received.message);
        }
        let state = self.state();
        // Looked at once more after the state: an output put in just before the end is not missed.
        match self.shared.output.try_receive() {
            Some(received) => Ok(received.message),
            None if state.has_ended() || state <= State::Launched => Err(self.nothing_to_come(state)),
            None => Err(ReceiveError::Empty { kernel: Arc::clone(&self.shared.core.name) }),
        }
    }

    /// As [`receive`](Self::receive), waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for `receive`, and [`ReceiveError::TimedOut`].
    pub fn receive_timeout(&self, timeout: Duration) -> Result<O, ReceiveError> {
        self.receive_envelope(Some(timeout)).map(|received| received.message)
    }

    /// As [`receive`](Self::receive) or, with a timeout, [`receive_timeout`](Self::receive_timeout): the output with its header,
    /// whose `correlation_id` is the id of the message that caused it.
    ///
    /// # Errors
    ///
    /// As for those.
    pub fn receive_envelope(&self, timeout: Option<Duration>) -> Result<Received<O>, ReceiveError> {
        let mut place = ReaderPlace::new(&self.shared);
        let deadline = timeout.map(|time| Instant::now() + time);
        let look = |cx: Option<&mut Context<'_>>| {
            let spins = cx.is_none();
            match place.look(cx) {
                // On a device it comes as soon as somebody fetches it.
                Poll::Pending if spins && self.attends => {
                    self.attend();
                    place.look(None)
                }
                looked => looked,
            }
        };
        match spin_then_park(self.wait, deadline, look) {
            Some(Ok(received)) => Ok(received),
            Some(Err(state)) => Err(self.nothing_to_come(state)),
            None => Err(self.nothing_came(timeout.unwrap_or_default())),
        }
    }

    /// As [`receive`](Self::receive), for async code. A dropped future has received nothing.
    ///
    /// # Errors
    ///
    /// As for `receive`.
    pub async fn receive_async(&self) -> Result<O, ReceiveError> {
        let mut place = ReaderPlace::new(&self.shared);
        match std::future::poll_fn(|cx| place.poll(cx)).await {
            Ok(received) => Ok(received.message),
            Err(state) => Err(self.nothing_to_come(state)),
        }
    }

    fn nothing_to_come(&self, state: State) -> ReceiveError {
        let kernel = Arc::clone(&self.shared.core.name);
        if state <= State::Launched {
            ReceiveError::NotActivated { kernel, state }
        } else {
            ReceiveError::Ended { kernel, state }
        }
    }

    fn nothing_came(&self, waited: Duration) -> ReceiveError {
        ReceiveError::TimedOut { kernel: Arc::clone(&self.shared.core.name), waited, state: self.state() }
    }

    // ---- connecting ----

    /// Makes `to` take what this ring kernel sends, with no hop through the program.
    ///
    /// Connected to several, it sends a clone to each (fan-out); several may be connected to one (fan-in). Each output has
    /// the priority of the message that caused it. A full `to` holds this ring kernel up, unless `to` rejects or drops.
    /// What was sent before is still in the output ring.
    ///
    /// Two ring kernels on one device are connected there: outputs reach `to` through the device's memory, and the host sees neither
    /// them nor their headers (up to eight such connections each way in a ring kernel's life; further ones, and those to a `to` that
    /// rejects or drops, go by way of the host). For that both are brought to a message boundary once.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`] if either has ended, if both are the same, or if their device cannot connect them now.
    pub fn connect<P: Message>(&self, to: &KernelHandle<O, P>) -> Result<(), LifecycleError>
    where
        O: Clone,
    {
        let (here, there) = (&self.shared.core, &to.shared.core);
        if Arc::ptr_eq(here, there) {
            return Err(LifecycleError::SelfConnection { kernel: Arc::clone(&here.name) });
        }
        for core in [here, there] {
            let state = core.life.get();
            if state >= State::Terminating {
                let kernel = Arc::clone(&core.name);
                return Err(LifecycleError::WrongState {
                    kernel,
                    state,
                    call: "connect",
                    advice: "launch another",
                });
            }
        }
        let link = self.link(to)?;
        here.feeds.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&there.name));
        self.shared.routes.add(Box::new(KernelOutlet::new(Arc::clone(&to.shared))), link);
        Ok(())
    }

    /// Connects the two on their device, if they are on one and can be.
    fn link<P: Message>(&self, to: &KernelHandle<O, P>) -> Result<Option<u8>, LifecycleError> {
        let (here, there) = (&self.shared.core, &to.shared.core);
        let Some(peer) = here.links.peer() else { return Ok(None) };
        let link = match there.links.peer() {
            Some(other) if there.options.backpressure == Backpressure::Block => peer.link(&*other),
            _ => Ok(None),
        };
        let link = link.map_err(|error| LifecycleError::Link {
            kernel: Arc::clone(&here.name),
            to: Arc::clone(&there.name),
            problem: error.to_string(),
        })?;
        if link.is_none() {
            peer.copy_to_host();
        }
        Ok(link)
    }

    // ---- life ----

    fn erased(&self) -> &(dyn AnyKernel + 'static) {
        &*self.shared
    }

    /// Starts processing. Every resource was taken at launch, so this cannot run short of anything.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::WrongState`] if the ring kernel is not `Launched`.
    pub fn activate(&self) -> Result<(), LifecycleError> {
        self.erased().activate()
    }

    /// Pauses the ring kernel at its next message boundary and waits for that, at most `timeout`. State and queued messages are
    /// kept; messages sent meanwhile queue up.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`] if it is not `Active`, or did not come to a message boundary in time (it will still pause there).
    pub fn deactivate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.erased().deactivate(timeout)
    }

    /// As [`deactivate`](Self::deactivate), for async code.
    ///
    /// # Errors
    ///
    /// As for `deactivate`.
    pub async fn deactivate_async(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.erased().request_pause()?;
        let state = self.state_when(Some(timeout), |state| state != State::Active).await;
        self.erased().deactivated(state, timeout)
    }

    /// Resumes a paused ring kernel.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::WrongState`] if it is not `Deactivated`.
    pub fn reactivate(&self) -> Result<(), LifecycleError> {
        self.erased().reactivate()
    }

    /// Ends the ring kernel: nothing more is accepted, everything accepted is handled (also if it is paused), then its resources are
    /// released. Waits for that, at most `timeout`. Does nothing to one that has ended.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::Timeout`] if it took longer: it is then aborted, and what it had not handled becomes dead letters.
    pub fn terminate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.erased().terminate(timeout)
    }

    /// As [`terminate`](Self::terminate), for async code.
    ///
    /// # Errors
    ///
    /// As for `terminate`.
    pub async fn terminate_async(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.erased().request_end(crate::lifecycle::Command::Drain);
        match self.state_when(Some(timeout), State::has_ended).await {
            Some(_) => Ok(()),
            None => self.erased().give_up("terminate", timeout),
        }
    }

    /// Ends the ring kernel at its next message boundary: what is queued becomes dead letters, and their askers get an error.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::Timeout`] if a handler does not return: the ring kernel is then `Failed` and nobody waits for it any more.
    pub fn abort(&self) -> Result<(), LifecycleError> {
        self.erased().abort()
    }

    /// Waits until the ring kernel has ended, by whatever cause, at most `timeout`; then gives its state.
    #[must_use]
    pub fn wait_ended(&self, timeout: Duration) -> State {
        let ended = self.shared.core.life.wait(Some(Instant::now() + timeout), State::has_ended);
        ended.unwrap_or_else(|| self.state())
    }

    async fn state_when(&self, timeout: Option<Duration>, done: impl Fn(State) -> bool) -> Option<State> {
        let mut watch = Watch::new(&self.shared.core.life);
        within(timeout, std::future::poll_fn(|cx| watch.poll(cx, &done))).await
    }
}

/// What a future gives, unless `timeout` is over first.
pub(crate) async fn within<T>(timeout: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match timeout {
        None => Some(future.await),
        Some(timeout) => {
            let late = async {
                Delay::new(timeout).await;
                None
            };
            async { Some(future.await) }.or(late).await
        }
    }
}
