//! State of one ring kernel that depends on its message types: mailbox, output ring, connections.

use std::any::Any;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use dotcompute_ring::PushError;
use dotcompute_ring::mailbox::{self, Receiver, Sender};

use super::any_kernel::AnyKernel;
use super::connections::Connections;
use super::kernel_cell::KernelCell;
use super::output_ring::OutputRing;
use super::wait_graph::MailboxRoom;
use crate::backend::residency::Residency;
use crate::backend::shared_task::SharedTask;
use crate::envelope::Envelope;
use crate::fault::Reason;
use crate::lifecycle::Command;
use crate::message::Message;
use crate::status::Blocked;
use crate::telemetry::KernelStats;

/// What handles, driver and runtime share of one ring kernel, with its message types.
pub(crate) struct TypedCell<I, O> {
    pub(crate) untyped: Arc<KernelCell>,
    pub(crate) input: Sender<Envelope<I, O>>,
    pub(crate) output: OutputRing<O>,
    pub(crate) connections: Arc<Connections<O>>,
    residency: OnceLock<Box<dyn Residency>>,
    /// Of a ring kernel on a device: its residency there. `residency` is then that of its device proxy on the host.
    device_residency: OnceLock<Box<dyn Residency>>,
}

/// Why an envelope was not accepted.
pub(crate) enum PostError<E> {
    Full(E),
    Closed(E),
}

impl<I: Message, O: Message> TypedCell<I, O> {
    pub(crate) fn new(
        cell: KernelCell,
        mailbox: mailbox::Options,
    ) -> Result<NewTypedCell<I, O>, dotcompute_ring::CapacityError> {
        let (input, receiver) = mailbox::channel(mailbox)?;
        let output = OutputRing::new(cell.options.output_capacity)?;
        let typed = Self {
            untyped: Arc::new(cell),
            input,
            output,
            connections: Arc::new(Connections::new()),
            residency: OnceLock::new(),
            device_residency: OnceLock::new(),
        };
        let typed = Arc::new(typed);
        let mailbox: Weak<dyn MailboxRoom> = Arc::downgrade(&typed) as Weak<dyn MailboxRoom>;
        typed.untyped.set_mailbox(mailbox);
        Ok((typed, receiver))
    }

    /// Returns why the ring kernel takes no message at present, if it is running.
    pub(crate) fn blocked(&self) -> Option<Blocked> {
        if self.untyped.lifecycle.get().has_ended() {
            return None;
        }
        self.untyped.waits.blocked(|| self.output.len() as u64)
    }

    /// Called once, by `launch`, before any handle exists.
    pub(crate) fn set_residency(
        &self,
        residency: Box<dyn Residency>,
        device_residency: Option<Box<dyn Residency>>,
    ) {
        let _ = self.residency.set(residency);
        if let Some(device_residency) = device_residency {
            let _ = self.device_residency.set(device_residency);
        }
    }

    /// Returns the task that a waiting caller may poll inline. `None` if the ring kernel has a dedicated thread.
    pub(crate) fn shared_task(&self) -> Option<Arc<SharedTask>> {
        self.residency.get().and_then(|residency| residency.shared_task())
    }

    /// Whether the ring kernel runs on a device, with a device proxy on the host.
    pub(crate) fn is_on_device(&self) -> bool {
        self.device_residency.get().is_some()
    }

    /// Pushes an envelope into the mailbox through `sender`, which must belong to this ring kernel. A dropped message becomes a dead
    /// letter.
    #[inline]
    pub(crate) fn post(
        &self,
        sender: &Sender<Envelope<I, O>>,
        envelope: Envelope<I, O>,
    ) -> Result<(), PostError<Envelope<I, O>>> {
        // SYNC POINT: message (sender). Fills a slot, then wakes the receiver. Pairs with `Inbox::wait_for_message`, which registers,
        // then rechecks.
        let band = mailbox::Band::of(envelope.header.priority.get());
        let pushed = if sender.drops_oldest() {
            sender.push_drop_oldest(band, envelope, |oldest| {
                self.untyped.dead_letter_envelope(oldest, Reason::Evicted, "");
            })
        } else {
            sender.try_push(band, envelope)
        };
        pushed.map_err(PostError::from)
    }
}

impl<E> From<PushError<E>> for PostError<E> {
    fn from(error: PushError<E>) -> Self {
        match error {
            PushError::Full(envelope) => Self::Full(envelope),
            PushError::Closed(envelope) => Self::Closed(envelope),
        }
    }
}

pub(crate) type NewTypedCell<I, O> = (Arc<TypedCell<I, O>>, Receiver<Envelope<I, O>>);

impl<I: Message, O: Message> MailboxRoom for TypedCell<I, O> {
    fn has_room(&self, priority: u8) -> bool {
        self.input.has_free_slot(mailbox::Band::of(priority))
    }

    fn wake_senders(&self) {
        self.input.wake_senders();
    }
}

impl<I: Message, O: Message> AnyKernel for TypedCell<I, O> {
    fn cell(&self) -> &KernelCell {
        &self.untyped
    }

    fn stats(&self) -> KernelStats {
        let cell = &self.untyped;
        let counters = &cell.counters;
        let (queue_time, handle_time) = cell.latencies.summaries();
        let linked = cell.links.counts();
        let linked_done = linked.handled + cell.links.failed.get() + cell.links.unhandled.get();
        let dead_letters_by_reason = counters.dead_letters_by_reason();
        let dead_letters = dead_letters_by_reason.iter().map(|&(_, count)| count).sum();
        let (sent, handled) =
            (self.input.pushed() + linked.received, counters.handled.get() + linked.handled);
        let queued = if cell.context_is_leaked() {
            sent.saturating_sub(handled + dead_letters)
        } else {
            self.input.len() as u64 + linked.received.saturating_sub(linked_done)
        };
        KernelStats {
            kernel: cell.name.to_string(),
            state: cell.lifecycle.get(),
            blocked: self.blocked(),
            sent,
            linked: linked.received,
            handled,
            queued,
            dead_letters,
            dead_letters_by_reason,
            rejected: counters.rejected.get(),
            emitted: counters.emitted.get() + linked.sent,
            undelivered: counters.undelivered(),
            unrouted: counters.unrouted.get(),
            replied: counters.replied.get(),
            unasked_replies: counters.unasked_replies.get(),
            restarts: counters.restarts.get(),
            queue_time,
            handle_time,
        }
    }

    fn downstream(&self) -> Vec<Arc<KernelCell>> {
        self.connections.targets()
    }

    fn close_input(&self) {
        self.input.close();
    }

    fn command(&self, command: Command) {
        // SYNC POINT: command (issuer). Stores the command, then notifies both places in which a driver waits. Pairs with
        // `Inbox::poll_new_command`, `Inbox::wait_for_message` and `KernelCell::poll_command_is`, which register, then recheck.
        self.untyped.lifecycle.set_command(command);
        self.untyped.control.notify_all();
        self.input.wake_receiver();
    }

    fn close_task(&self) {
        if let Some(task) = self.shared_task() {
            task.close();
        }
    }

    fn join(&self, deadline: Instant) -> bool {
        let parts = [self.residency.get(), self.device_residency.get()];
        parts.into_iter().flatten().all(|part| part.join(deadline))
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
