//! The attendant's way to a ring kernel on a device, emulated or real: what the `DevicePort` of both is made of.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::Waker;
use std::time::Duration;

use dotcompute_core::backend::BackendError;
use dotcompute_core::backend::device_port::{
    DeviceCommand, DeviceEvent, DeviceMessage, DevicePeer, DevicePort, DeviceProgram, DeviceState, Shape,
};

use crate::exchange::Exchange;
use crate::links::Peer;
use crate::protocol::{
    COMMAND_KILL, COMMAND_PAUSE, COMMAND_RUN, COMMAND_STOP, EVENT_FAILED, EVENT_KIND_MASK,
    EVENT_LINKED_FAILED, EVENT_LINKED_SENT, EVENT_REPLIED, EVENT_SENT, EventHead, LINKED_TICKET, MessageHead,
    STATE_FAULTED, STATE_IDLE, STATE_LAUNCHED, STATE_PAUSED, STATE_RUNNING, STATE_STOPPED,
};
use crate::tenant::Tenant;
use crate::watch::{Progress, Watcher};

/// A port over the exchange of a ring kernel.
pub(crate) struct Port {
    exchange: Exchange,
    tenant: Arc<Tenant>,
    commanded: Option<DeviceCommand>,
    /// Whether one message is done with before the next is begun.
    in_order: bool,
    /// Messages done with as of the last `Done`.
    done_seen: u64,
    handling_seen: u64,
    /// Of a message and of an output.
    sizes: (usize, usize),
    /// The output of the event that was last taken, or its message.
    output: Box<[u8]>,
    watcher: Arc<Watcher>,
}

impl Port {
    /// A port to a ring kernel that has just been launched.
    pub(crate) fn new(
        exchange: Exchange,
        tenant: Arc<Tenant>,
        program: &DeviceProgram,
        watcher: Arc<Watcher>,
    ) -> Self {
        watcher.add(&tenant.watched);
        let sizes = (program.input.size, program.output.size);
        let output = vec![0; sizes.0.max(sizes.1)].into_boxed_slice();
        let in_order = !matches!(program.shape, Shape::Thread { .. });
        Self {
            exchange,
            tenant,
            commanded: None,
            in_order,
            done_seen: 0,
            handling_seen: 0,
            sizes,
            output,
            watcher,
        }
    }

    /// Has the ring kernel come back if it is away and there is something for it to do.
    ///
    /// The device says that it is away, and then looks for a message once more; the host posts, and then looks whether it is away.
    fn return_if_needed(&self) {
        fence(Ordering::SeqCst);
        if self.tenant.state() == STATE_IDLE
            && self.commanded == Some(DeviceCommand::Run)
            && self.free_slots() < self.exchange.messages.capacity()
        {
            self.tenant.return_if_away();
        }
    }

    /// What a ring kernel that is away is doing, from where the runtime stands: it would do as commanded.
    fn state_away(&self) -> DeviceState {
        let control = self.exchange.words.control();
        let faults = control.device.faults.load(Ordering::Acquire);
        if control.host.faults_judged.load(Ordering::Relaxed) != faults {
            return DeviceState::Faulted;
        }
        match self.commanded {
            Some(DeviceCommand::Stop) => DeviceState::Stopped,
            Some(DeviceCommand::Pause) => DeviceState::Paused,
            Some(_) => DeviceState::Running,
            None => DeviceState::Launched,
        }
    }

    fn done(&mut self, up_to: u64) -> DeviceEvent<'static> {
        self.done_seen = up_to;
        let total = self.exchange.words.control().device.handling_ns.load(Ordering::Relaxed);
        let since = total.wrapping_sub(std::mem::replace(&mut self.handling_seen, total));
        DeviceEvent::Done { up_to, handler_time: Some(Duration::from_nanos(since)) }
    }

    fn lose(&self, why: &str) {
        self.tenant.watched.lose(why);
    }
}

impl DevicePort for Port {
    fn free_slots(&self) -> usize {
        let messages = &self.exchange.messages;
        messages.capacity() - (messages.pushed() - messages.popped()) as usize
    }

    fn post(&mut self, message: DeviceMessage<'_>) {
        let head = MessageHead {
            wants_reply: u32::from(message.wants_reply),
            priority: u32::from(message.header.priority.get()),
        };
        if !self.exchange.messages.push(head, message.payload) {
            self.lose("its ring took no message, though there was room: the device has damaged it");
        }
        self.return_if_needed();
    }

    fn next_event(&mut self) -> Option<DeviceEvent<'_>> {
        // Read before the events: those of the messages that are done by this have been published.
        let up_to = self.exchange.messages.popped();
        let next = self.exchange.events.next_ticket();
        let settled = match next {
            None => up_to,
            // Every message of the host's before it has been done with, and its events lie before this one.
            Some(sequence) if sequence & LINKED_TICKET != 0 => up_to.min(sequence & !LINKED_TICKET),
            // Every event of a message before it has been taken.
            Some(sequence) if self.in_order || sequence >= up_to => up_to.min(sequence),
            Some(_) => self.done_seen,
        };
        // Messages are done with before the next one's answer is out: who gets that finds them counted.
        if settled > self.done_seen {
            return Some(self.done(settled));
        }
        let EventHead { sequence, kind, code } = self.exchange.events.pop(&mut self.output)?;
        let (message, output) = (&self.output[..self.sizes.0], &self.output[..self.sizes.1]);
        let [_, priority, ..] = kind.to_le_bytes();
        let linked = code.to_le_bytes()[0];
        Some(match kind & EVENT_KIND_MASK {
            EVENT_SENT => DeviceEvent::Sent { sequence, output, linked },
            EVENT_REPLIED => DeviceEvent::Replied { sequence, output },
            EVENT_FAILED => DeviceEvent::Failed { sequence, code },
            EVENT_LINKED_SENT => DeviceEvent::LinkedSent { priority, output, linked },
            EVENT_LINKED_FAILED => DeviceEvent::LinkedFailed { priority, code, message },
            other => {
                self.lose(&format!("it sent an event of kind {other}, which is none: its ring is damaged"));
                return None;
            }
        })
    }

    fn has_event(&self) -> bool {
        !self.exchange.events.is_empty() || self.exchange.messages.popped() != self.done_seen
    }

    fn state(&self) -> DeviceState {
        if let Some(why) = self.tenant.watched.lost() {
            return DeviceState::Lost(why);
        }
        match self.tenant.state() {
            STATE_LAUNCHED => DeviceState::Launched,
            STATE_RUNNING => DeviceState::Running,
            STATE_PAUSED => DeviceState::Paused,
            STATE_FAULTED => DeviceState::Faulted,
            STATE_STOPPED => DeviceState::Stopped,
            STATE_IDLE => self.state_away(),
            other => {
                DeviceState::Lost(format!("its state is {other}, which is none: the device has damaged it"))
            }
        }
    }

    fn command(&mut self, command: DeviceCommand) {
        self.commanded = Some(command);
        self.tenant.command(match command {
            DeviceCommand::Run => COMMAND_RUN,
            DeviceCommand::Pause => COMMAND_PAUSE,
            _ => COMMAND_STOP,
        });
        self.return_if_needed();
    }

    fn reset_state(&mut self) -> Result<(), BackendError> {
        self.tenant.stage.reset_state()?;
        let control = self.exchange.words.control();
        let faults = control.device.faults.load(Ordering::Acquire);
        // Release: the device that sees it sees the state made anew.
        control.host.faults_judged.store(faults, Ordering::Release);
        Ok(())
    }

    fn read_state(&mut self) -> Result<Vec<u8>, BackendError> {
        self.tenant.stage.read_state()
    }

    fn write_state(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        self.tenant.stage.write_state(bytes)?;
        // The command that lets the device go on is stored after this, and published by a release.
        Ok(())
    }

    fn peer(&self) -> Option<Arc<dyn DevicePeer>> {
        Some(Arc::new(Peer(Arc::clone(&self.tenant))))
    }

    fn close_links(&mut self) -> Option<u64> {
        self.tenant.links.close()
    }

    fn drain_links(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), BackendError> {
        self.tenant.links.take(self.sizes.0, each)
    }

    fn is_quiescing(&self) -> bool {
        self.tenant.is_to_leave()
    }

    fn register_waker(&mut self, waker: &Waker, takes_events: bool) {
        // Read before the looks below: one that leaves after them is in another state than this, which wakes.
        let state = self.tenant.state();
        // Asked to make way, it may have left with messages in its ring.
        self.return_if_needed();
        self.tenant.return_for_links();
        let progress =
            takes_events.then(|| Progress { done: self.done_seen, event: self.exchange.events.popped() });
        self.watcher.listen(&self.tenant.watched, waker, state, progress);
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.tenant.command(COMMAND_KILL);
    }
}
