//! What a ring kernel's handles, its driver and the runtime share.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::PushError;
use dotcompute_ring::mailbox::{self, Receiver, Sender};
use dotcompute_ring::notifier::Notifier;
use dotcompute_ring::reply::ReplySender;

use crate::backend::{Residency, SharedTask};
use crate::checkpoint::StateCalls;
use crate::dead_letter::{DeadLetters, Reason};
use crate::envelope::{Answer, Envelope};
use crate::error::{Fault, LifecycleError};
use crate::lifecycle::{Command, State, StateCell};
use crate::links::LinkBooks;
use crate::message::{Message, MessageHeader};
use crate::options::KernelOptions;
use crate::outlet::{OutputRing, Routes};
use crate::runtime::Registry;
use crate::telemetry::{Counters, KernelStats, Latencies};

/// The part of a ring kernel that does not depend on its message types.
pub(crate) struct Core {
    pub(crate) name: Arc<str>,
    pub(crate) input_type: &'static str,
    pub(crate) output_type: &'static str,
    pub(crate) options: KernelOptions,
    pub(crate) life: StateCell,
    /// Wakes the driver where it waits for something other than a message.
    pub(crate) control: Notifier,
    pub(crate) counters: Counters,
    pub(crate) latencies: Latencies,
    pub(crate) dead_letters: Arc<DeadLetters>,
    /// Calls for the state of a ring kernel on a device.
    pub(crate) state_calls: StateCalls,
    /// What a ring kernel on a device sends and takes without the host.
    pub(crate) links: LinkBooks,
    /// The names of those it is connected to.
    pub(crate) feeds: Mutex<Vec<Arc<str>>>,
    /// Whether `activate` was ever called with success.
    activated: AtomicBool,
    /// Held while a lifecycle call looks at the state and issues the command that fits it.
    calls: Mutex<()>,
    registry: Weak<Registry>,
}

impl Core {
    pub(crate) fn new(
        name: Arc<str>,
        types: (&'static str, &'static str),
        options: KernelOptions,
        dead_letters: Arc<DeadLetters>,
        registry: Weak<Registry>,
    ) -> Self {
        let (input_type, output_type) = types;
        Self {
            name,
            input_type,
            output_type,
            life: StateCell::new(),
            control: Notifier::new(dotcompute_ring::fence::Fence::Symmetric),
            counters: Counters::default(),
            latencies: Latencies::of(&options),
            options,
            dead_letters,
            state_calls: StateCalls::default(),
            links: LinkBooks::default(),
            feeds: Mutex::new(Vec::new()),
            activated: AtomicBool::new(false),
            calls: Mutex::new(()),
            registry,
        }
    }

    fn calls(&self) -> MutexGuard<'_, ()> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver has come to its pause, and the state says so; unless it has been told something else by now.
    #[cold]
    pub(crate) fn has_paused(&self) {
        if self.life.get() != State::Active {
            return;
        }
        // Those who give commands hold this while they change command and state: a pause that is over is not taken for one.
        let _guard = self.calls();
        if self.life.command() == Command::Pause {
            let _ = self.life.change(State::Deactivated, |state| state == State::Active);
        }
    }

    pub(crate) fn was_activated(&self) -> bool {
        self.activated.load(Ordering::Acquire)
    }

    pub(crate) fn fault(&self, reason: Reason, cause: String) -> Fault {
        Fault { kernel: Arc::clone(&self.name), message_type: self.input_type, reason, cause }
    }

    /// Records a message that was accepted and will never be handled. It is counted before its asker is told, so that
    /// whoever acts on the answer finds it counted.
    pub(crate) fn bury<O>(
        &self,
        header: MessageHeader,
        reply: Option<ReplySender<Answer<O>>>,
        message: Option<Box<dyn Any + Send>>,
        reason: Reason,
        cause: String,
    ) {
        let fault = self.fault(reason, cause);
        self.counters.count_dead(reason);
        self.dead_letters.add(fault.clone(), header, message);
        if let Some(reply) = reply {
            // An asker that has stopped waiting has been told so already.
            let _ = reply.send(Err(Box::new(fault)));
        }
    }

    /// Records an output that nobody would take.
    pub(crate) fn bury_output<O: Send + 'static>(&self, header: MessageHeader, output: O, cause: String) {
        let fault = Fault { message_type: self.output_type, ..self.fault(Reason::Undelivered, cause) };
        self.counters.count_dead(Reason::Undelivered);
        self.dead_letters.add(fault, header, Some(Box::new(output)));
    }

    /// Ready once this command has been given; otherwise the task is woken when another one is.
    pub(crate) fn poll_command_is(&self, command: Command, cx: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            let registered = self.control.register(cx.waker());
            if self.life.command() == command {
                return Poll::Ready(());
            }
            if registered {
                return Poll::Pending;
            }
            std::hint::spin_loop();
        }
    }

    /// Ends the ring kernel's life. A terminated one leaves the registry; a failed one stays there to be inspected.
    pub(crate) fn end(&self, to: State) {
        let _guard = self.calls();
        if self.life.change(to, |state| !state.has_ended()).is_ok()
            && to == State::Terminated
            && let Some(registry) = self.registry.upgrade()
        {
            registry.forget(self);
        }
    }

    fn wrong_state(&self, state: State, call: &'static str, advice: &'static str) -> LifecycleError {
        LifecycleError::WrongState { kernel: Arc::clone(&self.name), state, call, advice }
    }
}

/// A ring kernel as its handles and its driver see it.
pub(crate) struct Shared<I, O> {
    pub(crate) core: Arc<Core>,
    pub(crate) input: Sender<Envelope<I, O>>,
    pub(crate) output: OutputRing<O>,
    pub(crate) routes: Arc<Routes<O>>,
    residency: OnceLock<Box<dyn Residency>>,
    /// Of a ring kernel on a device: the device's part. `residency` is that of its attendant then.
    on_device: OnceLock<Box<dyn Residency>>,
}

/// Why an envelope was not accepted.
pub(crate) enum Unposted<E> {
    Full(E),
    Closed(E),
}

impl<I: Message, O: Message> Shared<I, O> {
    pub(crate) fn new(
        core: Core,
        mailbox: mailbox::Options,
    ) -> Result<NewShared<I, O>, dotcompute_ring::CapacityError> {
        let (input, receiver) = mailbox::channel(mailbox)?;
        let output = OutputRing::new(core.options.output_capacity)?;
        let shared = Self {
            core: Arc::new(core),
            input,
            output,
            routes: Arc::new(Routes::new()),
            residency: OnceLock::new(),
            on_device: OnceLock::new(),
        };
        Ok((Arc::new(shared), receiver))
    }

    /// Called once, by `launch`, before any handle exists.
    pub(crate) fn set_residency(&self, residency: Box<dyn Residency>, on_device: Option<Box<dyn Residency>>) {
        let _ = self.residency.set(residency);
        if let Some(on_device) = on_device {
            let _ = self.on_device.set(on_device);
        }
    }

    /// Where whoever waits for the ring kernel may run it, if it may be run elsewhere than in its place.
    pub(crate) fn shared_task(&self) -> Option<Arc<SharedTask>> {
        self.residency.get().and_then(|residency| residency.shared_task())
    }

    /// Whether it runs on a device, with an attendant here.
    pub(crate) fn is_on_device(&self) -> bool {
        self.on_device.get().is_some()
    }

    /// Puts an envelope into the input ring through `sender`, one of this ring kernel's. What it evicts becomes a dead letter.
    #[inline]
    pub(crate) fn post(
        &self,
        sender: &Sender<Envelope<I, O>>,
        envelope: Envelope<I, O>,
    ) -> Result<(), Unposted<Envelope<I, O>>> {
        let band = mailbox::Band::of(envelope.header.priority.get());
        let pushed = if sender.drops_oldest() {
            sender.push_drop_oldest(band, envelope, |oldest| oldest.bury(&self.core, Reason::Evicted, ""))
        } else {
            sender.try_push(band, envelope)
        };
        pushed.map_err(Unposted::from)
    }
}

impl<E> From<PushError<E>> for Unposted<E> {
    fn from(error: PushError<E>) -> Self {
        match error {
            PushError::Full(envelope) => Self::Full(envelope),
            PushError::Closed(envelope) => Self::Closed(envelope),
        }
    }
}

pub(crate) type NewShared<I, O> = (Arc<Shared<I, O>>, Receiver<Envelope<I, O>>);

/// A ring kernel as the runtime sees it: its message types are forgotten.
pub(crate) trait AnyKernel: Send + Sync {
    fn core(&self) -> &Core;
    fn stats(&self) -> KernelStats;
    fn close_input(&self);
    /// Issues a command to the driver, which looks at the command word; a ring kernel on a device has one on the host.
    fn command(&self, command: Command);
    /// Waits until the resources are back, at most until `deadline`. False if they were not.
    fn join(&self, deadline: Instant) -> bool;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

impl<I: Message, O: Message> AnyKernel for Shared<I, O> {
    fn core(&self) -> &Core {
        &self.core
    }

    fn stats(&self) -> KernelStats {
        let core = &self.core;
        let counters = &core.counters;
        let (queue_time, handle_time) = core.latencies.summaries();
        let linked = core.links.counts();
        let linked_done = linked.handled + core.links.failed.get() + core.links.left.get();
        let dead_letters_by_reason = counters.dead_by_reason();
        KernelStats {
            kernel: core.name.to_string(),
            state: core.life.get(),
            sent: self.input.pushed() + linked.received,
            linked: linked.received,
            handled: counters.handled.get() + linked.handled,
            queued: self.input.len() as u64 + linked.received.saturating_sub(linked_done),
            dead_letters: dead_letters_by_reason.iter().map(|&(_, count)| count).sum(),
            dead_letters_by_reason,
            rejected: counters.rejected.get(),
            emitted: counters.emitted.get() + linked.sent,
            undelivered: counters.undelivered(),
            replied: counters.replied.get(),
            restarts: counters.restarts.get(),
            queue_time,
            handle_time,
        }
    }

    fn close_input(&self) {
        self.input.close();
    }

    fn command(&self, command: Command) {
        self.core.life.set_command(command);
        self.core.control.notify_with_full_fence();
        self.input.wake_receiver();
    }

    fn join(&self, deadline: Instant) -> bool {
        let parts = [self.residency.get(), self.on_device.get()];
        parts.into_iter().flatten().all(|part| part.join(deadline))
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// How long an aborted ring kernel may take to reach a message boundary before it is given up as stuck.
const ABORT_GRACE: Duration = Duration::from_secs(2);

/// The lifecycle calls. Each looks at the state and issues its command under one lock, so that two calls cannot undo each other.
impl dyn AnyKernel + '_ {
    pub(crate) fn activate(&self) -> Result<(), LifecycleError> {
        let core = self.core();
        let _guard = core.calls();
        let change = core.life.change(State::Active, |state| state == State::Launched);
        change.map_err(|state| {
            let advice = match state {
                State::Active => "it needs no activation",
                State::Deactivated => "call `reactivate`",
                _ => "launch another",
            };
            core.wrong_state(state, "activate", advice)
        })?;
        core.activated.store(true, Ordering::Release);
        self.command(Command::Run);
        Ok(())
    }

    pub(crate) fn reactivate(&self) -> Result<(), LifecycleError> {
        let core = self.core();
        let _guard = core.calls();
        let change = core.life.change(State::Active, |state| state == State::Deactivated);
        change.map_err(|state| {
            let advice = match state {
                State::Launched => "call `activate`",
                State::Active => "it is not paused",
                _ => "launch another",
            };
            core.wrong_state(state, "reactivate", advice)
        })?;
        self.command(Command::Run);
        Ok(())
    }

    /// Asks for a pause; the driver changes the state when it gets there.
    pub(crate) fn request_pause(&self) -> Result<(), LifecycleError> {
        let core = self.core();
        let _guard = core.calls();
        match core.life.get() {
            State::Active => {
                self.command(Command::Pause);
                Ok(())
            }
            state => {
                let advice = match state {
                    State::Deactivated => "it is paused already",
                    State::Created | State::Launched => "it was never activated",
                    _ => "it is over",
                };
                Err(core.wrong_state(state, "deactivate", advice))
            }
        }
    }

    pub(crate) fn deactivate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.request_pause()?;
        let state = self.core().life.wait(Some(Instant::now() + timeout), |state| state != State::Active);
        self.deactivated(state, timeout)
    }

    /// What a deactivation came to: the state that was seen, or none in time.
    pub(crate) fn deactivated(&self, state: Option<State>, timeout: Duration) -> Result<(), LifecycleError> {
        let core = self.core();
        match state {
            Some(State::Deactivated) => Ok(()),
            Some(state) => Err(core.wrong_state(state, "deactivate", "it ended before it could pause")),
            None => Err(LifecycleError::Timeout {
                kernel: Arc::clone(&core.name),
                call: "deactivate",
                waited: timeout,
                consequence: "it will pause when its handler returns",
            }),
        }
    }

    /// Closes the input and asks the driver to drain, or to abort. Does nothing to a ring kernel that has ended.
    pub(crate) fn request_end(&self, command: Command) {
        let core = self.core();
        let _guard = core.calls();
        let ending = core.life.change(State::Terminating, |state| !state.has_ended());
        if ending.is_ok() {
            self.close_input();
            self.command(command);
        }
    }

    pub(crate) fn terminate(&self, timeout: Duration) -> Result<(), LifecycleError> {
        self.request_end(Command::Drain);
        let ended = self.core().life.wait(Some(Instant::now() + timeout), State::has_ended);
        if ended.is_some() { Ok(()) } else { self.give_up("terminate", timeout) }
    }

    pub(crate) fn abort(&self) -> Result<(), LifecycleError> {
        self.request_end(Command::Abort);
        let ended = self.core().life.wait(Some(Instant::now() + ABORT_GRACE), State::has_ended);
        if ended.is_some() { Ok(()) } else { self.leave_stuck("abort", ABORT_GRACE) }
    }

    /// After a terminate that ran out of time: what is queued becomes dead letters.
    pub(crate) fn give_up(&self, call: &'static str, waited: Duration) -> Result<(), LifecycleError> {
        self.request_end(Command::Abort);
        let ended = self.core().life.wait(Some(Instant::now() + ABORT_GRACE), State::has_ended);
        if ended.is_none() {
            return self.leave_stuck(call, waited + ABORT_GRACE);
        }
        Err(LifecycleError::Timeout {
            kernel: Arc::clone(&self.core().name),
            call,
            waited,
            consequence: "it was aborted, and what it had not handled is among the dead letters",
        })
    }

    /// A handler that does not return cannot be stopped. Whoever waits for this ring kernel is released.
    fn leave_stuck(&self, call: &'static str, waited: Duration) -> Result<(), LifecycleError> {
        self.core().end(State::Failed);
        Err(LifecycleError::Timeout {
            kernel: Arc::clone(&self.core().name),
            call,
            waited,
            consequence: "its handler does not return; it is now Failed, nobody waits for it any more, and its thread is left behind",
        })
    }
}
