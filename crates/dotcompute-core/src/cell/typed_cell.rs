//! What a ring kernel's handles, its driver and the runtime share.

use std::any::Any;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use dotcompute_ring::PushError;
use dotcompute_ring::mailbox::{self, Receiver, Sender};

use super::any_kernel::AnyKernel;
use super::connections::Routes;
use super::kernel_cell::Core;
use super::output_ring::OutputRing;
use crate::backend::residency::Residency;
use crate::backend::shared_task::SharedTask;
use crate::envelope::Envelope;
use crate::fault::Reason;
use crate::lifecycle::Command;
use crate::message::Message;
use crate::telemetry::KernelStats;

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
            sender.push_drop_oldest(band, envelope, |oldest| {
                self.core.dead_letter_envelope(oldest, Reason::Evicted, "")
            })
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
