//! Device proxy: the host task that represents a ring kernel on a device. It posts messages, polls events and does the accounting.
//!
//! It runs no user code, so a caller may run it inline ([`SharedTask`](crate::backend::SharedTask)): a caller that waits for a reply polls
//! the device itself, without a thread hop.

mod events;
mod links;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::WaitStrategy;
use futures_timer::Delay;

use crate::backend::device_port::{AfterFault, DeviceCommand, DeviceMessage, DevicePort, DeviceState};
use crate::cell::state_requests::StateRequest;
use crate::fault::Reason;
use crate::kernel::inbox::{InFlight, Inbox, InboxEvent};
use crate::kernel::poll_step::{POLL_BUDGET, PollStep};
use crate::lifecycle::State;
use crate::message::record::DeviceRecord;
use crate::supervision::{Decision, Supervision, Supervisor};

/// Returns what a device must do by itself after a fault, so that this supervision has the same effect as on the host.
pub(crate) fn after_fault(supervision: Supervision) -> AfterFault {
    match supervision {
        Supervision::Resume => AfterFault::Continue,
        _ => AfterFault::Hold,
    }
}

/// Longest wait for the device when the runtime is dropped. A handler that does not return is given up then.
const LEAVE_LIMIT: Duration = Duration::from_millis(500);

/// Time between two looks at the device during that wait.
const LEAVE_POLL: Duration = Duration::from_micros(50);

/// A message that was posted to the device and is not completed.
struct Posted<I, O> {
    /// `None` once its handler has reported an error: it is a dead letter then.
    in_flight: Option<InFlight<O>>,
    /// For the dead letter that it becomes if the device does not handle it.
    message: I,
}

/// What the proxy does at present.
enum Phase {
    /// Posting messages and polling events.
    Serving,
    /// Waiting until the device pauses.
    Pausing,
    /// Waiting until the device pauses, to read or write the state and continue.
    PausingForState,
    /// Waiting before a restart. `None` if the restart is due.
    BackingOff(Option<Delay>),
    /// Waiting until the device has stopped, to end with this result.
    Stopping { to: State, reason: Reason, cause: Cow<'static, str> },
}

/// The future of one ring kernel on a device.
pub(crate) struct DeviceProxy<I: DeviceRecord, O: DeviceRecord> {
    inbox: Inbox<I, O>,
    /// `None` once the ring kernel has ended.
    port: Option<Box<dyn DevicePort>>,
    posted: VecDeque<Posted<I, O>>,
    /// Sequence number of the first posted message.
    first_sequence: u64,
    last_command: Option<DeviceCommand>,
    phase: Phase,
    supervisor: Supervisor,
    /// Texts of the faults of its handler.
    faults: Arc<[String]>,
    /// Time until the next check of conditions that wake no task.
    recheck_timer: Option<Delay>,
}

// Nothing in a device proxy is pinned.
impl<I: DeviceRecord, O: DeviceRecord> Unpin for DeviceProxy<I, O> {}

impl<I: DeviceRecord, O: DeviceRecord> DeviceProxy<I, O> {
    pub(crate) fn new(inbox: Inbox<I, O>, port: Box<dyn DevicePort>, faults: Arc<[String]>) -> Self {
        let supervisor = Supervisor::new(inbox.cell.untyped.options.supervision);
        Self {
            inbox,
            port: Some(port),
            posted: VecDeque::new(),
            first_sequence: 0,
            last_command: None,
            phase: Phase::Serving,
            supervisor,
            faults,
            recheck_timer: None,
        }
    }

    fn step(&mut self, cx: &mut TaskContext<'_>) -> PollStep {
        let router = &mut self.inbox.ctx.router;
        let outputs_blocked =
            router.has_backlog() && router.poll_flush(&self.inbox.ctx.cell, cx).is_pending();
        let Some(port) = &self.port else { return PollStep::Done };
        // Read the state before the events: events that precede a state are then processed before the state is acted upon.
        let state = port.state();
        // While blocked on output, the proxy leaves events in the ring, and thereby the device delays further messages. It polls events
        // nevertheless if the device is to reach a message boundary: a handler that waits for event slots would never reach one.
        let polls_events = !outputs_blocked || !matches!(self.phase, Phase::Serving) || port.is_quiescing();
        if polls_events {
            match self.take_event() {
                Ok(true) => return PollStep::Continue,
                Ok(false) => {}
                Err(problem) => return self.fail_lost(&problem),
            }
        }
        match (state, &self.phase) {
            (DeviceState::Lost(problem), _) => self.fail_lost(&problem),
            (DeviceState::Stopped, Phase::Stopping { .. }) => self.stopped(cx),
            (DeviceState::Stopped, _) => self.fail_lost("it left the device without a command"),
            // A kernel in `Faulted` has had its state rebuilt by now. It need not run to pause.
            (DeviceState::Paused | DeviceState::Faulted, Phase::Pausing) => {
                self.phase = Phase::Serving;
                PollStep::Continue
            }
            (DeviceState::Paused | DeviceState::Faulted, Phase::PausingForState) => {
                self.serve_state_requests();
                self.phase = Phase::Serving;
                if self.inbox.is_activated() {
                    self.command(DeviceCommand::Run);
                }
                PollStep::Continue
            }
            (state, Phase::PausingForState) => {
                if self.inbox.is_aborted() || self.inbox.poll_abort(cx).is_ready() {
                    self.phase = Phase::Serving;
                    return PollStep::Continue;
                }
                self.register_and_recheck(&state, polls_events, cx)
            }
            (state, Phase::Serving) => self.step_serving(state, outputs_blocked, polls_events, cx),
            (state, Phase::Pausing) => {
                // A termination does not wait for the pause.
                if self.inbox.poll_new_command(cx).is_ready() {
                    self.phase = Phase::Serving;
                    return PollStep::Continue;
                }
                self.register_and_recheck(&state, polls_events, cx)
            }
            (_, Phase::BackingOff(_)) => self.poll_backoff(cx),
            (state, Phase::Stopping { .. }) => self.register_and_recheck(&state, polls_events, cx),
        }
    }

    fn step_serving(
        &mut self,
        state: DeviceState,
        outputs_blocked: bool,
        polls_events: bool,
        cx: &mut TaskContext<'_>,
    ) -> PollStep {
        if self.has_state_requests() && !self.inbox.is_aborted() {
            if self.last_command == Some(DeviceCommand::Run) {
                self.command(DeviceCommand::Pause);
                self.phase = Phase::PausingForState;
            } else {
                // Paused by the runtime, or not activated yet: no message is being handled.
                self.serve_state_requests();
            }
            return PollStep::Continue;
        }
        let mut links_are_done = false;
        let draining = self.inbox.is_draining();
        if draining {
            links_are_done = self.close_links() == Some(0);
            // Posted and linked messages are handled first, also if the ring kernel is paused.
            if !self.posted.is_empty() || !links_are_done {
                self.ensure_running();
            }
            if !links_are_done && self.poll_recheck_timer(cx) {
                return PollStep::Continue;
            }
        }
        let has_free_slots = self.port.as_ref().is_some_and(|port| port.free_slots() > 0);
        let next = if has_free_slots && !outputs_blocked {
            self.inbox.poll_next(WaitStrategy::Park, cx)
        } else {
            self.inbox.poll_next_command(cx)
        };
        match next {
            Poll::Ready(InboxEvent::Message(message)) => {
                self.post(message);
                return PollStep::Continue;
            }
            Poll::Ready(InboxEvent::Activated) => {
                self.command(DeviceCommand::Run);
                return PollStep::Continue;
            }
            Poll::Ready(InboxEvent::Deactivated) => {
                self.command(DeviceCommand::Pause);
                self.phase = Phase::Pausing;
                return PollStep::Continue;
            }
            Poll::Ready(InboxEvent::Aborted) => return self.stop(State::Terminated, Reason::Aborted, ""),
            // `Drain` was issued after the check above: close the links first.
            Poll::Ready(InboxEvent::Drained) if !draining => return PollStep::Continue,
            Poll::Ready(InboxEvent::Drained)
                if self.posted.is_empty() && !outputs_blocked && links_are_done =>
            {
                return self.stop(State::Terminated, Reason::Aborted, "");
            }
            Poll::Ready(InboxEvent::Drained) if self.inbox.poll_new_command(cx).is_ready() => {
                return PollStep::Continue;
            }
            Poll::Ready(InboxEvent::Drained) | Poll::Pending => {}
        }
        self.register_and_recheck(&state, polls_events, cx)
    }

    fn has_state_requests(&self) -> bool {
        self.inbox.cell.untyped.state_requests.are_pending()
    }

    /// Serves checkpoint and restore requests, between two messages.
    #[cold]
    fn serve_state_requests(&mut self) {
        let Some(port) = &mut self.port else { return };
        for StateRequest { write, reply } in self.inbox.cell.untyped.state_requests.take() {
            let result = match write {
                None => port.read_state(),
                Some(bytes) => port.write_state(&bytes).map(|()| Vec::new()),
            };
            // An error means that the caller no longer waits; its own call has already returned an error.
            let _ = reply.send(result.map_err(|error| error.to_string()));
        }
    }

    fn post(&mut self, message: I) {
        self.ensure_running();
        let Some(in_flight) = self.inbox.suspend_current() else { return };
        let sequence = self.first_sequence + self.posted.len() as u64;
        if let Some(port) = &mut self.port {
            let wants_reply = in_flight.current.reply.is_some();
            let header = in_flight.current.header;
            port.post(DeviceMessage { sequence, header, wants_reply, payload: message.as_record_bytes() });
        }
        self.posted.push_back(Posted { in_flight: Some(in_flight), message });
    }

    fn ensure_running(&mut self) {
        if self.last_command != Some(DeviceCommand::Run) {
            self.command(DeviceCommand::Run);
        }
    }

    fn command(&mut self, command: DeviceCommand) {
        self.last_command = Some(command);
        if let Some(port) = &mut self.port {
            port.command(command);
        }
    }

    /// The handler has reported an error: applies the supervision policy.
    #[cold]
    fn apply_supervision(&mut self, cause: &str) {
        if matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        match self.supervisor.on_fault(Instant::now()) {
            Decision::Resume => self.inbox.complete_failed(),
            // Completed once the device has stopped: a caller that has the error then also finds the ended state.
            Decision::Fail => {
                self.stop(State::Failed, Reason::KernelFailed, cause);
            }
            Decision::RestartAfter(pause) => {
                self.inbox.cell.untyped.counters.restarts.increment_single_writer();
                self.inbox.complete_failed();
                self.phase = Phase::BackingOff((!pause.is_zero()).then(|| Delay::new(pause)));
            }
        }
    }

    /// Rebuilds the state once the backoff has passed and the device holds. An abort ends the backoff early.
    #[cold]
    fn poll_backoff(&mut self, cx: &mut TaskContext<'_>) -> PollStep {
        if self.inbox.is_aborted() {
            return self.stop(State::Terminated, Reason::Aborted, "");
        }
        let Phase::BackingOff(delay) = &mut self.phase else { return PollStep::Continue };
        if let Some(delay) = delay
            && Pin::new(delay).poll(cx).is_pending()
        {
            return if self.inbox.poll_abort(cx).is_pending() {
                PollStep::Pending
            } else {
                PollStep::Continue
            };
        }
        let state = self.port.as_ref().map(|port| port.state());
        if let Some(state @ (DeviceState::Running | DeviceState::Launched | DeviceState::Paused)) = state {
            // The last batch is not finished.
            return self.register_and_recheck(&state, true, cx);
        }
        let reset = self.port.as_mut().map_or(Ok(()), |port| port.reset_state());
        if let Err(error) = reset {
            return self.stop(State::Failed, Reason::KernelFailed, &error.to_string());
        }
        self.phase = Phase::Serving;
        // The device holds after a reset, whatever its last command was.
        self.last_command = None;
        if self.inbox.is_activated() {
            self.command(DeviceCommand::Run);
        }
        PollStep::Continue
    }

    /// Commands the device to stop, and to end with this result.
    fn stop(&mut self, to: State, reason: Reason, cause: &str) -> PollStep {
        self.command(DeviceCommand::Stop);
        self.close_links();
        self.phase = Phase::Stopping { to, reason, cause: Cow::Owned(cause.to_owned()) };
        PollStep::Continue
    }

    fn stopped(&mut self, cx: &mut TaskContext<'_>) -> PollStep {
        // A ring kernel ends only after every link to it is closed: no peer may send to an ended one.
        if self.close_links().is_none() {
            return if self.poll_recheck_timer(cx) { PollStep::Continue } else { PollStep::Pending };
        }
        let Phase::Stopping { to, reason, cause } = std::mem::replace(&mut self.phase, Phase::Serving) else {
            return PollStep::Continue;
        };
        self.end(to, reason, &cause)
    }

    #[cold]
    fn fail_lost(&mut self, problem: &str) -> PollStep {
        self.end(State::Failed, Reason::KernelFailed, problem)
    }

    fn end(&mut self, to: State, reason: Reason, cause: &str) -> PollStep {
        self.inbox.cell.untyped.state_requests.close();
        self.settle_link_accounting(reason, cause);
        // Drop the port first: a caller that sees the ended state may rely on the device's resources being free.
        self.port = None;
        self.dead_letter_posted(reason, cause);
        self.inbox.end(to, reason, cause);
        PollStep::Done
    }

    /// Stops the ring kernel on its device and closes the links to it, at most for [`LEAVE_LIMIT`]: its linked messages are counted next, so
    /// no peer may send to it any more. The devices confirm both by themselves, without a worker.
    fn leave_device(&mut self) {
        if self.port.is_none() {
            return;
        }
        self.command(DeviceCommand::Stop);
        let deadline = Instant::now() + LEAVE_LIMIT;
        while Instant::now() < deadline {
            let state = self.port.as_ref().map(|port| port.state());
            let has_left = matches!(state, Some(DeviceState::Stopped | DeviceState::Lost(_)));
            if self.close_links().is_some() && has_left {
                return;
            }
            std::thread::sleep(LEAVE_POLL);
        }
    }

    /// Turns messages that the device has not handled into dead letters.
    fn dead_letter_posted(&mut self, reason: Reason, cause: &str) {
        for Posted { in_flight, message } in self.posted.drain(..) {
            if let Some(InFlight { current, .. }) = in_flight {
                self.inbox.fail(current, Some(Box::new(message)), reason, cause);
            }
        }
    }

    /// Registers the task's waker, then rechecks: returns `Continue` if something has happened meanwhile.
    ///
    /// SYNC POINT: state-request (device proxy) and device-event (device proxy). Pairs with `KernelHandle::request_state`, which enqueues,
    /// then notifies, and with the backend, which wakes the waker of `DevicePort::register_waker` after each change.
    fn register_and_recheck(
        &mut self,
        known: &DeviceState,
        polls_events: bool,
        cx: &mut TaskContext<'_>,
    ) -> PollStep {
        let Some(port) = &mut self.port else { return PollStep::Done };
        port.register_waker(cx.waker(), polls_events);
        let polls_events = polls_events || port.is_quiescing();
        let changed = (polls_events && port.has_event()) || port.state() != *known;
        let has_requests = matches!(self.phase, Phase::Serving) && self.has_state_requests();
        if changed || has_requests { PollStep::Continue } else { PollStep::Pending }
    }
}

impl<I: DeviceRecord, O: DeviceRecord> Future for DeviceProxy<I, O> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let proxy = self.get_mut();
        for _ in 0..POLL_BUDGET {
            match proxy.step(cx) {
                PollStep::Continue => {}
                PollStep::Pending => return Poll::Pending,
                PollStep::Done => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<I: DeviceRecord, O: DeviceRecord> Drop for DeviceProxy<I, O> {
    /// No `end` before this only if the runtime is dropped while the ring kernel is alive.
    fn drop(&mut self) {
        self.inbox.cell.untyped.state_requests.close();
        self.leave_device();
        self.settle_link_accounting(Reason::Aborted, "the runtime was dropped");
        self.port = None;
        self.dead_letter_posted(Reason::Aborted, "the runtime was dropped");
    }
}
