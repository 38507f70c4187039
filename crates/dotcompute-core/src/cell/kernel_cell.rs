//! Kernel cell.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context as TaskContext, Poll};

use dotcompute_ring::notifier::Notifier;
use dotcompute_ring::reply::ReplySender;

use super::link_accounting::LinkBooks;
use super::state_requests::StateCalls;
use crate::dead_letter::DeadLetters;
use crate::envelope::{Answer, Envelope};
use crate::error::LifecycleError;
use crate::fault::{Fault, Reason};
use crate::lifecycle::{Command, State, StateCell};
use crate::message::{Message, MessageHeader};
use crate::options::KernelOptions;
use crate::telemetry::{Counters, Latencies};

/// A table of ring kernels by name that one may be removed from.
pub(crate) trait Unregister: Send + Sync {
    /// Frees the name of a ring kernel that has ended, unless another one uses it by now.
    fn unregister(&self, cell: &Core);
}

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
    pub(super) activated: AtomicBool,
    /// Held while a lifecycle call looks at the state and issues the command that fits it.
    calls: Mutex<()>,
    registry: Weak<dyn Unregister>,
}

impl Core {
    pub(crate) fn new(
        name: Arc<str>,
        types: (&'static str, &'static str),
        options: KernelOptions,
        dead_letters: Arc<DeadLetters>,
        registry: Weak<dyn Unregister>,
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

    pub(super) fn calls(&self) -> MutexGuard<'_, ()> {
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

    /// Makes an accepted message a dead letter and completes its request, if it is one, with the fault.
    pub(crate) fn dead_letter_envelope<I: Message, O>(
        &self,
        envelope: Envelope<I, O>,
        reason: Reason,
        cause: &str,
    ) {
        let message: Box<dyn Any + Send> = Box::new(envelope.message);
        self.bury(envelope.header, envelope.reply, Some(message), reason, cause.to_owned());
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
            registry.unregister(self);
        }
    }

    pub(super) fn wrong_state(
        &self,
        state: State,
        call: &'static str,
        advice: &'static str,
    ) -> LifecycleError {
        LifecycleError::WrongState { kernel: Arc::clone(&self.name), state, call, advice }
    }
}
