//! The [`DevicePort`] of ring kernels on a device, real or emulated.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::Waker;
use std::time::Duration;

use dotcompute_core::backend::BackendError;
use dotcompute_core::backend::device_port::{
    DeviceCommand, DeviceEvent, DeviceMessage, DevicePeer, DevicePort, DeviceProgram, DeviceState, Shape,
};

use crate::device_peer::Peer;
use crate::host_device_channel::HostDeviceChannel;
use crate::protocol::{
    COMMAND_KILL, COMMAND_PAUSE, COMMAND_RUN, COMMAND_STOP, EVENT_FAILED, EVENT_KIND_MASK,
    EVENT_LINKED_FAILED, EVENT_LINKED_SENT, EVENT_REPLIED, EVENT_SENT, EVENT_UNASKED_REPLY, EventHeader,
    InputHeader, LINKED_FLAG, STATE_FAULTED, STATE_LAUNCHED, STATE_OFF_DEVICE, STATE_PAUSED, STATE_RUNNING,
    STATE_STOPPED,
};
use crate::resident_kernel::ResidentKernel;
use crate::watchdog::Watchdog;
use crate::watched_kernel::{Progress, Relaunch as _};

/// The device proxy's port to one ring kernel, over its host-device channel.
pub(crate) struct Port {
    channel: HostDeviceChannel,
    kernel: Arc<ResidentKernel>,
    last_command: Option<DeviceCommand>,
    /// Whether the device completes one message before it starts the next.
    in_order: bool,
    /// Messages completed as of the last [`DeviceEvent::Done`].
    done_seen: u64,
    /// Handler time as of the last [`DeviceEvent::Done`], in nanoseconds.
    handler_ns_seen: u64,
    /// Bytes of a message, and of an output.
    sizes: (usize, usize),
    /// The output of the last event, or its message.
    output: Box<[u8]>,
    watchdog: Arc<Watchdog>,
    /// The waker that was registered last.
    last_waker: Option<Waker>,
}

impl Port {
    /// Creates the port of a ring kernel that has just been launched.
    pub(crate) fn new(
        channel: HostDeviceChannel,
        kernel: Arc<ResidentKernel>,
        program: &DeviceProgram,
        watchdog: Arc<Watchdog>,
    ) -> Self {
        watchdog.add(&kernel.watched);
        let sizes = (program.input.size, program.output.size);
        let output = vec![0; sizes.0.max(sizes.1)].into_boxed_slice();
        let in_order = !matches!(program.shape, Shape::Thread { .. });
        Self {
            channel,
            kernel,
            last_command: None,
            in_order,
            done_seen: 0,
            handler_ns_seen: 0,
            sizes,
            output,
            watchdog,
            last_waker: None,
        }
    }

    /// Has the ring kernel relaunched if it is off the device while messages wait for it. Does not wait.
    fn relaunch_if_needed(&self) {
        // SYNC POINT: idle exit
        // The device leaves when its polls find no message (`Leader::wait`, leader.cuh), and `STATE_OFF_DEVICE` is final. The proxy comes
        // here after each post, and in `register_waker` before it waits; the watchdog wakes it whenever the state is not the registered
        // one. For a message that the device's last polls have missed, the state read here is one of these:
        //
        // - `STATE_OFF_DEVICE`: the relaunch that is requested below waits for the exit of the grid, which no message delays. The new grid
        //   finds the message, because its launch comes after the post. If the ring kernel may not run at present, the proxy or the thread
        //   that quiesces the device requests the relaunch later.
        // - Another state: the store of `STATE_OFF_DEVICE` is not visible yet. The proxy registers the state that it has read. The store
        //   becomes visible, the watchdog finds a state that is not the registered one, and the proxy comes here again.
        //
        // Neither side needs a fence: the proof takes only that each store becomes visible at some time.
        if self.kernel.state() == STATE_OFF_DEVICE
            && self.last_command == Some(DeviceCommand::Run)
            && self.free_slots() < self.channel.messages.capacity()
        {
            self.kernel.relaunch_if_off_device();
        }
    }

    /// Returns the state that a ring kernel off the device would have if it were resident: the one its last command leads to.
    fn state_off_device(&self) -> DeviceState {
        // Also while it holds after a fault: a ring kernel that fails is stopped, and its fault is not acknowledged.
        if self.last_command == Some(DeviceCommand::Stop) {
            return DeviceState::Stopped;
        }
        let control = self.channel.memory.control();
        let faults = control.status.faults.load(Ordering::Acquire);
        if control.host.faults_acknowledged.load(Ordering::Relaxed) != faults {
            return DeviceState::Faulted;
        }
        match self.last_command {
            Some(DeviceCommand::Pause) => DeviceState::Paused,
            Some(_) => DeviceState::Running,
            None => DeviceState::Launched,
        }
    }

    fn done(&mut self, up_to: u64) -> DeviceEvent<'static> {
        self.done_seen = up_to;
        // Relaxed: written before the head of the input ring, which `next_event` has loaded with acquire.
        let total = self.channel.memory.control().device.handler_ns.load(Ordering::Relaxed);
        let since = total.wrapping_sub(std::mem::replace(&mut self.handler_ns_seen, total));
        DeviceEvent::Done { up_to, handler_time: Some(Duration::from_nanos(since)) }
    }

    fn mark_lost(&self, reason: &str) {
        self.kernel.watched.mark_lost(reason);
    }
}

impl DevicePort for Port {
    fn free_slots(&self) -> usize {
        let messages = &self.channel.messages;
        messages.capacity() - (messages.pushed() - messages.popped()) as usize
    }

    fn post(&mut self, message: DeviceMessage<'_>) {
        let header = InputHeader {
            wants_reply: u32::from(message.wants_reply),
            priority: u32::from(message.header.priority.get()),
        };
        if !self.channel.messages.push(header, message.payload) {
            self.mark_lost("its input ring rejected a message although it had a free slot: the device has corrupted the ring");
        }
        self.relaunch_if_needed();
    }

    fn next_event(&mut self) -> Option<DeviceEvent<'_>> {
        // SYNC POINT: input head publish
        // Read before the events: the events of every message below `up_to` are visible after this.
        let up_to = self.channel.messages.popped();
        let next = self.channel.events.next_sequence();
        let settled = match next {
            None => up_to,
            // Every message of the host before `sequence` is completed, and its events come before this one.
            Some(sequence) if sequence & LINKED_FLAG != 0 => up_to.min(sequence & !LINKED_FLAG),
            // Every event of an earlier message has been popped.
            Some(sequence) if self.in_order || sequence >= up_to => up_to.min(sequence),
            Some(_) => self.done_seen,
        };
        // Messages are reported as done before the reply to the next one: the caller that receives it finds them counted.
        if settled > self.done_seen {
            return Some(self.done(settled));
        }
        let EventHeader { sequence, kind, code } = self.channel.events.pop(&mut self.output)?;
        let (message, output) = (&self.output[..self.sizes.0], &self.output[..self.sizes.1]);
        let [_, priority, ..] = kind.to_le_bytes();
        let linked = code.to_le_bytes()[0];
        Some(match kind & EVENT_KIND_MASK {
            EVENT_SENT => DeviceEvent::Sent { sequence, output, linked },
            EVENT_REPLIED => DeviceEvent::Replied { sequence, output },
            EVENT_UNASKED_REPLY => DeviceEvent::UnaskedReply,
            EVENT_FAILED => DeviceEvent::Failed { sequence, code },
            EVENT_LINKED_SENT => DeviceEvent::LinkedSent { priority, output, linked },
            EVENT_LINKED_FAILED => DeviceEvent::LinkedFailed { priority, code, message },
            other => {
                self.mark_lost(&format!(
                    "it sent an event of the invalid kind {other}: the device has corrupted its event ring"
                ));
                return None;
            }
        })
    }

    fn has_event(&self) -> bool {
        !self.channel.events.is_empty() || self.channel.messages.popped() != self.done_seen
    }

    fn state(&self) -> DeviceState {
        if let Some(reason) = self.kernel.watched.lost() {
            return DeviceState::Lost(reason);
        }
        match self.kernel.state() {
            STATE_LAUNCHED => DeviceState::Launched,
            STATE_RUNNING => DeviceState::Running,
            STATE_PAUSED => DeviceState::Paused,
            STATE_FAULTED => DeviceState::Faulted,
            STATE_STOPPED => DeviceState::Stopped,
            STATE_OFF_DEVICE => self.state_off_device(),
            other => DeviceState::Lost(format!(
                "its state has the invalid value {other}: the device has corrupted the control block"
            )),
        }
    }

    fn command(&mut self, command: DeviceCommand) {
        self.last_command = Some(command);
        self.kernel.command(match command {
            DeviceCommand::Run => COMMAND_RUN,
            DeviceCommand::Pause => COMMAND_PAUSE,
            _ => COMMAND_STOP,
        });
        // SYNC POINT: relaunch
        // Pairs with the fence in `ResidentKernel::relaunch`: if a state read after this is `STATE_OFF_DEVICE`, a relaunch that
        // is under way finds the command, and a proxy that has commanded a pause may use the state of the handler.
        fence(Ordering::SeqCst);
        self.relaunch_if_needed();
    }

    fn reset_state(&mut self) -> Result<(), BackendError> {
        self.kernel.grid.reset_state()?;
        let control = self.channel.memory.control();
        let faults = control.status.faults.load(Ordering::Acquire);
        // SYNC POINT: fault acknowledge
        // Release: pairs with the relaxed load and acquire fence in `Leader::wait` (leader.cuh); publishes the reset state.
        control.host.faults_acknowledged.store(faults, Ordering::Release);
        // It may have left the device while it held.
        self.relaunch_if_needed();
        Ok(())
    }

    fn read_state(&mut self) -> Result<Vec<u8>, BackendError> {
        // SYNC POINT: pause
        // The caller has seen `STATE_PAUSED`, `STATE_FAULTED` or `STATE_LAUNCHED` with acquire, so no handler writes the state.
        self.kernel.grid.read_state()
    }

    fn write_state(&mut self, bytes: &[u8]) -> Result<(), BackendError> {
        // SYNC POINT: pause
        // The next `COMMAND_RUN` is stored with release after this. It pairs with the acquire fence that `Leader::wait` (leader.cuh)
        // executes before the first handler runs again.
        self.kernel.grid.write_state(bytes)?;
        Ok(())
    }

    fn peer(&self) -> Option<Arc<dyn DevicePeer>> {
        Some(Arc::new(Peer(Arc::clone(&self.kernel))))
    }

    fn close_links(&mut self) -> Option<u64> {
        self.kernel.links.close()
    }

    fn drain_links(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), BackendError> {
        self.kernel.links.drain(self.sizes.0, each)
    }

    fn is_quiescing(&self) -> bool {
        self.kernel.is_quiescing()
    }

    fn register_waker(&mut self, waker: &Waker, takes_events: bool) {
        // Read before the checks below. A ring kernel that leaves after them has another state than this one, which wakes the task.
        let state = self.kernel.state();
        // A quiesced ring kernel may have left with messages in its ring.
        self.relaunch_if_needed();
        if state == STATE_OFF_DEVICE {
            self.kernel.relaunch_for_links();
        }
        let progress =
            takes_events.then(|| Progress { done: self.done_seen, event: self.channel.events.popped() });
        self.watchdog.register(&self.kernel.watched, &mut self.last_waker, waker, state, progress);
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.kernel.command(COMMAND_KILL);
    }
}
