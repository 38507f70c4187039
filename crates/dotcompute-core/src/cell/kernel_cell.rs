//! State of one ring kernel that does not depend on its message types.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use dotcompute_ring::fence::Fence;
use dotcompute_ring::reply::ReplySender;
use dotcompute_ring::wait::WaitStrategy;
use dotcompute_ring::wait_list::{WaitList, WaitToken};

use super::handler_pace::HandlerPace;
use super::link_accounting::LinkAccounting;
use super::state_requests::StateRequestQueue;
use super::wait_graph::{MailboxRoom, WaitNode, WaitingKernel};
use crate::backend::worker_pool::block_parked;
use crate::dead_letter::DeadLetters;
use crate::envelope::{Envelope, ReplyResult};
use crate::error::LifecycleError;
use crate::fault::{Fault, Reason};
use crate::lifecycle::{Command, State, StateCell, StateWaiter};
use crate::message::{Message, MessageHeader};
use crate::options::KernelOptions;
use crate::telemetry::{Counters, Latencies};

/// Is told of the end of every ring kernel; implemented by the runtime's registry.
pub(crate) trait EndObserver: Send + Sync {
    /// The ring kernel is in this ended state. Called again when the handler of a failed one returns later.
    fn ended(&self, cell: &KernelCell, state: State);
}

/// The part of a ring kernel that does not depend on its message types. Handles, driver and runtime share it.
pub(crate) struct KernelCell {
    pub(crate) name: Arc<str>,
    pub(crate) input_type: &'static str,
    pub(crate) output_type: &'static str,
    pub(crate) options: KernelOptions,
    pub(crate) lifecycle: StateCell,
    /// Wakes the tasks that wait for a command: the driver, and the future of a loop that receives, which may have a waker of its own.
    pub(crate) control: WaitList,
    pub(crate) counters: Counters,
    pub(crate) latencies: Latencies,
    pub(crate) pace: HandlerPace,
    pub(crate) dead_letters: Arc<DeadLetters>,
    /// Checkpoint and restore requests for a ring kernel on a device.
    pub(crate) state_requests: StateRequestQueue,
    /// Counts of messages that a ring kernel on a device sends and receives without the host.
    pub(crate) links: LinkAccounting,
    /// What this ring kernel waits for.
    pub(crate) waits: WaitNode,
    /// Whether a loop has ended without its context, which then still holds its messages.
    context_is_leaked: AtomicBool,
    /// Whether `activate` has succeeded once.
    pub(super) activated: AtomicBool,
    /// Held while a lifecycle call reads the state and issues the matching command.
    lifecycle_lock: Mutex<()>,
    registry: Weak<dyn EndObserver>,
    /// The mailbox of this ring kernel. Set at once after the creation.
    mailbox: OnceLock<Weak<dyn MailboxRoom>>,
}

impl WaitingKernel for KernelCell {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn waits(&self) -> &WaitNode {
        &self.waits
    }

    fn has_ended(&self) -> bool {
        self.lifecycle.get().has_ended()
    }

    fn mailbox(&self) -> Option<Arc<dyn MailboxRoom>> {
        self.mailbox.get()?.upgrade()
    }
}

impl KernelCell {
    pub(crate) fn new(
        name: Arc<str>,
        types: (&'static str, &'static str),
        options: KernelOptions,
        dead_letters: Arc<DeadLetters>,
        registry: Weak<dyn EndObserver>,
    ) -> Self {
        let (input_type, output_type) = types;
        Self {
            name,
            input_type,
            output_type,
            lifecycle: StateCell::new(),
            control: WaitList::new(Fence::Symmetric),
            counters: Counters::default(),
            latencies: Latencies::of(&options),
            pace: HandlerPace::default(),
            options,
            dead_letters,
            state_requests: StateRequestQueue::default(),
            links: LinkAccounting::default(),
            waits: WaitNode::default(),
            context_is_leaked: AtomicBool::new(false),
            activated: AtomicBool::new(false),
            lifecycle_lock: Mutex::new(()),
            registry,
            mailbox: OnceLock::new(),
        }
    }

    pub(super) fn set_mailbox(&self, mailbox: Weak<dyn MailboxRoom>) {
        // An error means that it is set already.
        let _ = self.mailbox.set(mailbox);
    }

    pub(super) fn lifecycle_lock(&self) -> MutexGuard<'_, ()> {
        self.lifecycle_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters `Deactivated` on behalf of the driver, which has reached its pause. Does nothing if another command was issued meanwhile.
    #[cold]
    pub(crate) fn confirm_paused(&self) {
        if self.lifecycle.get() != State::Active {
            return;
        }
        // SYNC POINT: pause-confirmation (driver). Lifecycle calls hold this lock while they change command and state, so a pause that was
        // revoked is not confirmed. Pairs with `AnyKernel::request_pause` and `AnyKernel::reactivate`.
        let _guard = self.lifecycle_lock();
        if self.lifecycle.command() == Command::Pause {
            let _ = self.lifecycle.transition(State::Deactivated, |state| state == State::Active);
        }
    }

    pub(crate) fn was_activated(&self) -> bool {
        // Acquire: pairs with the release store in `AnyKernel::activate`.
        self.activated.load(Ordering::Acquire)
    }

    /// Notes that a loop has ended without its context.
    pub(crate) fn leaked_context(&self) {
        // Release: pairs with the acquire load in `context_is_leaked`; the counters of the loop are visible.
        self.context_is_leaked.store(true, Ordering::Release);
    }

    /// Whether all messages that are neither handled nor dead letters are held by a leaked context.
    pub(super) fn context_is_leaked(&self) -> bool {
        self.context_is_leaked.load(Ordering::Acquire)
    }

    pub(crate) fn fault(&self, reason: Reason, cause: String) -> Fault {
        Fault { kernel: Arc::clone(&self.name), message_type: self.input_type, reason, cause }
    }

    /// Turns an accepted message that will never be handled into a dead letter, and completes its request with the fault.
    ///
    /// Counts before it completes the request: a caller that has the error also finds it in the stats.
    pub(crate) fn dead_letter<O>(
        &self,
        header: MessageHeader,
        reply: Option<ReplySender<ReplyResult<O>>>,
        message: Option<Box<dyn Any + Send>>,
        reason: Reason,
        cause: String,
    ) {
        let Some(reply) = reply else {
            self.dead_letters.add(self.fault(reason, cause), header, message);
            self.counters.count_dead_letter(reason);
            return;
        };
        let fault = self.count_dead_letter(header, message, reason, cause);
        // An error means that the caller no longer waits; its own call has already returned an error.
        let _ = reply.send(Err(Box::new(fault)));
    }

    /// Like [`dead_letter`](Self::dead_letter), but leaves it to the caller to complete the request with the returned fault.
    pub(crate) fn count_dead_letter(
        &self,
        header: MessageHeader,
        message: Option<Box<dyn Any + Send>>,
        reason: Reason,
        cause: String,
    ) -> Fault {
        let fault = self.fault(reason, cause);
        // Added before it is counted: a reader that sees the count also finds the dead letter.
        self.dead_letters.add(fault.clone(), header, message);
        self.counters.count_dead_letter(reason);
        fault
    }

    /// Turns an accepted message that is still in its envelope into a dead letter.
    pub(crate) fn dead_letter_envelope<I: Message, O>(
        &self,
        envelope: Envelope<I, O>,
        reason: Reason,
        cause: &str,
    ) {
        let message: Box<dyn Any + Send> = Box::new(envelope.message);
        self.dead_letter(envelope.header, envelope.reply, Some(message), reason, cause.to_owned());
    }

    /// Turns an output that no destination accepts into a dead letter.
    pub(crate) fn dead_letter_output<O: Send + 'static>(
        &self,
        header: MessageHeader,
        output: O,
        cause: String,
    ) {
        let fault = Fault { message_type: self.output_type, ..self.fault(Reason::Undelivered, cause) };
        self.dead_letters.add(fault, header, Some(Box::new(output)));
        self.counters.count_dead_letter(Reason::Undelivered);
    }

    /// Waits until `done` holds for the state. Returns `None` if the deadline passes first. A worker of the pool hands its duty over
    /// meanwhile: the ring kernel may need a worker to get there.
    pub(crate) fn wait_for_state(&self, deadline: Instant, done: impl Fn(State) -> bool) -> Option<State> {
        let mut waiter = StateWaiter::new(&self.lifecycle);
        block_parked(WaitStrategy::Adaptive, Some(deadline), |cx| waiter.poll(cx, &done))
    }

    /// Ready once this command is issued. Until then, the task is woken when any command is issued.
    pub(crate) fn poll_command_is(
        &self,
        command: Command,
        token: &mut WaitToken,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        // SYNC POINT: command (waiter). Registers, then rechecks. Pairs with `TypedCell::command`, which stores the command, then notifies.
        self.control.register(token, cx.waker());
        if self.lifecycle.command() == command { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Enters an ended state, unless it has ended. The ring kernel leaves the registry, which keeps the counters of a failed one.
    pub(crate) fn end(&self, to: State) {
        self.end_then(to, || ());
    }

    /// Like [`end`](Self::end), and calls `complete_requests` when the state is visible, before the waiters for the end are woken.
    pub(crate) fn end_then(&self, to: State, complete_requests: impl FnOnce()) {
        let entered = {
            let _guard = self.lifecycle_lock();
            let entered = self.lifecycle.enter_ended(to);
            if let Some(registry) = self.registry.upgrade() {
                // Also the second time: the handler of a ring kernel that was declared failed has returned, and its counters are final.
                registry.ended(self, entered.map_or_else(|state| state, |_| to));
            }
            entered.is_ok()
        };
        complete_requests();
        if entered {
            self.lifecycle.settle();
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
