//! The attendant's way to a ring kernel on a device, emulated or real: what the `DevicePort` of both is made of.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::Waker;
use std::time::Duration;

use dotcompute_core::backend::BackendError;
use dotcompute_core::backend::device::{DeviceCommand, DeviceEvent, DeviceMessage, DevicePort, DeviceState};

use crate::exchange::Exchange;
use crate::protocol::{
    COMMAND_KILL, COMMAND_PAUSE, COMMAND_RUN, COMMAND_STOP, EVENT_FAILED, EVENT_REPLIED, EVENT_SENT,
    EventHead, MessageHead, STATE_FAULTED, STATE_IDLE, STATE_LAUNCHED, STATE_PAUSED, STATE_RUNNING,
    STATE_STOPPED,
};
use crate::watch::{Watched, Watcher};

/// What a device can do with a ring kernel that a port cannot do by writing words.
pub(crate) trait Machine: Send {
    /// Makes it resident again after it has left by itself. Never waits for the device.
    fn return_to_device(&mut self) -> Result<(), BackendError>;

    /// Makes the state anew, while the ring kernel holds after a fault.
    fn reset_state(&mut self) -> Result<(), BackendError>;
}

/// A port over the exchange of a ring kernel on a `M`.
pub(crate) struct Port<M: Machine> {
    exchange: Exchange,
    machine: M,
    commanded: Option<DeviceCommand>,
    /// Messages done with as of the last `Done`.
    done_seen: u64,
    handling_seen: u64,
    /// The output of the event that was last taken.
    output: Box<[u8]>,
    watched: Arc<Watched>,
    watcher: Arc<Watcher>,
}

impl<M: Machine> Port<M> {
    /// A port to a ring kernel that has just been launched, with outputs of this size.
    pub(crate) fn new(exchange: Exchange, machine: M, output_size: usize, watcher: Arc<Watcher>) -> Self {
        let watched = Watched::new(Arc::clone(&exchange.words));
        watcher.add(&watched);
        let output = vec![0; output_size].into_boxed_slice();
        Self { exchange, machine, commanded: None, done_seen: 0, handling_seen: 0, output, watched, watcher }
    }

    fn raw_state(&self) -> u32 {
        // Acquire: whoever sees a state sees the events that came before it.
        self.exchange.words.control().device.state.load(Ordering::Acquire)
    }

    fn set_command(&self, command: u32) {
        self.exchange.words.control().host.command.store(command, Ordering::Release);
    }

    /// Has the ring kernel come back if it has left by itself and there is something for it to do.
    ///
    /// The device says that it is idle, and then looks for a message once more; the host posts, and then looks whether it is idle.
    fn wake_if_idle(&mut self) {
        fence(Ordering::SeqCst);
        if self.raw_state() == STATE_IDLE
            && self.commanded == Some(DeviceCommand::Run)
            && let Err(error) = self.machine.return_to_device()
        {
            self.watched.lose(&format!("it could not return to the device: {error}"));
        }
    }

    /// What an idle ring kernel is doing, from where the host stands: it would do as commanded.
    fn idle_state(&self) -> DeviceState {
        match self.commanded {
            Some(DeviceCommand::Stop) => DeviceState::Stopped,
            Some(DeviceCommand::Pause) => DeviceState::Paused,
            _ => DeviceState::Running,
        }
    }
}

impl<M: Machine> DevicePort for Port<M> {
    fn room(&self) -> usize {
        let messages = &self.exchange.messages;
        messages.capacity() - (messages.pushed() - messages.popped()) as usize
    }

    fn post(&mut self, message: DeviceMessage<'_>) {
        let head = MessageHead {
            asked: u32::from(message.asked),
            priority: u32::from(message.header.priority.get()),
        };
        if !self.exchange.messages.push(head, message.payload) {
            self.watched.lose("its ring took no message, though there was room: the device has damaged it");
        }
        self.wake_if_idle();
    }

    fn next_event(&mut self) -> Option<DeviceEvent<'_>> {
        // Read before the events: those of the messages that are done by this have been published.
        let below = self.exchange.messages.popped();
        if let Some(EventHead { ticket, kind, code }) = self.exchange.events.pop(&mut self.output) {
            return Some(match kind {
                EVENT_SENT => DeviceEvent::Sent { ticket, output: &self.output },
                EVENT_REPLIED => DeviceEvent::Replied { ticket, output: &self.output },
                EVENT_FAILED => DeviceEvent::Failed { ticket, code },
                other => {
                    self.watched.lose(&format!(
                        "it sent an event of kind {other}, which is none: its ring is damaged"
                    ));
                    return None;
                }
            });
        }
        if below == self.done_seen {
            return None;
        }
        self.done_seen = below;
        let total = self.exchange.words.control().device.handling_ns.load(Ordering::Relaxed);
        let since = total.wrapping_sub(std::mem::replace(&mut self.handling_seen, total));
        Some(DeviceEvent::Done { below, handling: Some(Duration::from_nanos(since)) })
    }

    fn has_event(&self) -> bool {
        !self.exchange.events.is_empty() || self.exchange.messages.popped() != self.done_seen
    }

    fn state(&self) -> DeviceState {
        if let Some(why) = self.watched.lost() {
            return DeviceState::Lost(why);
        }
        match self.raw_state() {
            STATE_LAUNCHED => DeviceState::Launched,
            STATE_RUNNING => DeviceState::Running,
            STATE_PAUSED => DeviceState::Paused,
            STATE_FAULTED => DeviceState::Faulted,
            STATE_STOPPED => DeviceState::Stopped,
            STATE_IDLE => self.idle_state(),
            other => {
                DeviceState::Lost(format!("its state is {other}, which is none: the device has damaged it"))
            }
        }
    }

    fn command(&mut self, command: DeviceCommand) {
        self.commanded = Some(command);
        self.set_command(match command {
            DeviceCommand::Run => COMMAND_RUN,
            DeviceCommand::Pause => COMMAND_PAUSE,
            _ => COMMAND_STOP,
        });
        if self.room() < self.exchange.messages.capacity() {
            self.wake_if_idle();
        }
    }

    fn reset_state(&mut self) -> Result<(), BackendError> {
        self.machine.reset_state()?;
        let control = self.exchange.words.control();
        let faults = control.device.faults.load(Ordering::Acquire);
        // Release: the device that sees it sees the state made anew.
        control.host.faults_judged.store(faults, Ordering::Release);
        Ok(())
    }

    fn listen(&mut self, waker: &Waker) {
        let event = self.exchange.events.popped();
        self.watcher.listen(&self.watched, waker, self.raw_state(), self.done_seen, event);
    }
}

impl<M: Machine> Drop for Port<M> {
    fn drop(&mut self) {
        self.set_command(COMMAND_KILL);
    }
}
