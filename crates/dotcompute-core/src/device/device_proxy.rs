//! Attending to a ring kernel on a device: the task on the host that posts its messages, takes its events and keeps its books.
//!
//! It runs no user code, so that askers may run it in a worker's place at any time ([`SharedTask`](crate::backend::SharedTask)): whoever waits for an
//! answer polls the device himself, and no hop lies between.

mod links;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::WaitStrategy;
use futures_timer::Delay;

use crate::backend::device_port::{
    AfterFault, DeviceCommand, DeviceEvent, DeviceMessage, DevicePort, DeviceState,
};
use crate::cell::state_requests::StateRequest;
use crate::fault::Reason;
use crate::kernel::inbox::{InFlight, Inbox, InboxEvent};
use crate::kernel::poll_step::{POLL_BUDGET, PollStep};
use crate::lifecycle::State;
use crate::message::record::DeviceRecord;
use crate::message::{MessageHeader, Priority};
use crate::supervision::{Decision, Supervision, Supervisor};

/// What a device has to do by itself after a fault, for this supervision to come out as it does on the host.
pub(crate) fn after_fault(supervision: Supervision) -> AfterFault {
    match supervision {
        Supervision::Resume => AfterFault::Continue,
        _ => AfterFault::Hold,
    }
}

/// A message that was posted and is not done with.
struct Posted<I, O> {
    /// None once its handler has reported an error: it is a dead letter then.
    in_flight: Option<InFlight<O>>,
    /// For the dead letter that it becomes if the device never comes to it.
    message: I,
}

/// What the attendant is about.
enum Phase {
    /// Posting messages and taking events.
    Serving,
    /// Waiting until the device pauses.
    Pausing,
    /// Waiting until the device pauses, to read or write the state and go on.
    PausingForState,
    /// Waiting before a restart; none if it is due.
    BackingOff(Option<Delay>),
    /// Waiting until the device has stopped, to end like this.
    Stopping { to: State, reason: Reason, cause: Cow<'static, str> },
}

/// The task of one ring kernel on a device.
pub(crate) struct DeviceProxy<I: DeviceRecord, O: DeviceRecord> {
    inbox: Inbox<I, O>,
    /// None once it has ended.
    port: Option<Box<dyn DevicePort>>,
    posted: VecDeque<Posted<I, O>>,
    /// The ticket of the first of them.
    first_sequence: u64,
    last_command: Option<DeviceCommand>,
    phase: Phase,
    supervisor: Supervisor,
    /// Until the next look at what wakes nobody.
    recheck_timer: Option<Delay>,
}

// Nothing in an attendant is pinned.
impl<I: DeviceRecord, O: DeviceRecord> Unpin for DeviceProxy<I, O> {}

impl<I: DeviceRecord, O: DeviceRecord> DeviceProxy<I, O> {
    pub(crate) fn new(inbox: Inbox<I, O>, port: Box<dyn DevicePort>) -> Self {
        let supervisor = Supervisor::new(inbox.cell.untyped.options.supervision);
        Self {
            inbox,
            port: Some(port),
            posted: VecDeque::new(),
            first_sequence: 0,
            last_command: None,
            phase: Phase::Serving,
            supervisor,
            recheck_timer: None,
        }
    }

    fn step(&mut self, cx: &mut TaskContext<'_>) -> PollStep {
        let router = &mut self.inbox.ctx.router;
        let outputs_blocked =
            router.has_backlog() && router.poll_flush(&self.inbox.ctx.cell, cx).is_pending();
        let Some(port) = &self.port else { return PollStep::Done };
        // Looked at before the events: those that led to the state are taken before it is acted upon.
        let state = port.state();
        // Held up by its outputs, it leaves the events where they are, and the device holds its messages back: unless the device is to
        // come to a message boundary, which it does not while a handler waits for room.
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
            // One that held after a fault has had its state made anew by now, and need not run to pause.
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
                // An end does not wait for the pause.
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
                // Paused by the runtime, or not begun: there is no message in hand.
                self.serve_state_requests();
            }
            return PollStep::Continue;
        }
        let mut links_are_done = false;
        let draining = self.inbox.is_draining();
        if draining {
            links_are_done = self.close_links() == Some(0);
            // What was posted or linked is handled first, also by one that is paused.
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
            // Told to since the look above: its links come first.
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

    /// Reads and writes the state as was asked, between two messages.
    #[cold]
    fn serve_state_requests(&mut self) {
        let Some(port) = &mut self.port else { return };
        for StateRequest { write, reply } in self.inbox.cell.untyped.state_requests.take() {
            let result = match write {
                None => port.read_state(),
                Some(bytes) => port.write_state(&bytes).map(|()| Vec::new()),
            };
            // Who has stopped waiting has been told so.
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

    /// Takes one event, if there is one. The error says what a device has done that cannot be.
    fn take_event(&mut self) -> Result<bool, String> {
        let Some(event) = self.port.as_mut().and_then(|port| port.next_event()) else { return Ok(false) };
        match event {
            DeviceEvent::Sent { sequence, output, linked } => {
                let (output, posted) = find(&mut self.posted, self.first_sequence, sequence, output)?;
                with_in_flight(&mut self.inbox, posted, |inbox| inbox.ctx.send_except_linked(output, linked));
            }
            DeviceEvent::LinkedSent { priority, output, linked } => {
                let header = MessageHeader::new().with_priority(Priority::new(priority));
                let (output, ctx) = (record::<O>(output)?, &mut self.inbox.ctx);
                ctx.router.send_except_linked(&ctx.cell, header, output, linked);
            }
            DeviceEvent::LinkedFailed { priority, code, message } => {
                let header = MessageHeader::new().with_priority(Priority::new(priority));
                let message = record::<I>(message)?;
                let cell = &self.inbox.cell.untyped;
                cell.links.failed.increment();
                cell.dead_letter::<O>(
                    header,
                    None,
                    Some(Box::new(message)),
                    Reason::HandlerErrored,
                    returned(code),
                );
                self.apply_supervision(&returned(code));
            }
            DeviceEvent::Replied { sequence, output } => {
                let (output, posted) = find(&mut self.posted, self.first_sequence, sequence, output)?;
                with_in_flight(&mut self.inbox, posted, |inbox| inbox.ctx.reply(output));
            }
            DeviceEvent::Failed { sequence, code } => {
                let posted = posted_index(&self.posted, self.first_sequence, sequence)?;
                if let Some(in_flight) = self.posted[posted].in_flight.take() {
                    self.inbox.resume_current(in_flight);
                    self.inbox.fail_current(Reason::HandlerErrored, &returned(code));
                    self.apply_supervision(&returned(code));
                }
            }
            DeviceEvent::Done { up_to, handler_time } => self.complete_up_to(up_to, handler_time)?,
        }
        Ok(true)
    }

    /// Finishes the messages below this ticket.
    fn complete_up_to(&mut self, up_to: u64, handler_time: Option<Duration>) -> Result<(), String> {
        let count = up_to.checked_sub(self.first_sequence).filter(|&count| count <= self.posted.len() as u64);
        let Some(count) = count else {
            let (first_sequence, posted) = (self.first_sequence, self.posted.len());
            return Err(format!(
                "it reported {up_to} messages as done, of {posted} from number {first_sequence} on"
            ));
        };
        for done in self.posted.drain(..count as usize) {
            if let Some(in_flight) = done.in_flight {
                self.inbox.resume_current(in_flight);
                // The device knows only the sum.
                self.inbox.complete_after(handler_time.map(|handler_time| handler_time / count as u32));
            }
        }
        self.first_sequence = up_to;
        Ok(())
    }

    /// The handler has reported an error: decides how to go on.
    #[cold]
    fn apply_supervision(&mut self, cause: &str) {
        if matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        match self.supervisor.on_fault(Instant::now()) {
            Decision::Resume => {}
            Decision::Fail => {
                self.stop(State::Failed, Reason::KernelFailed, cause);
            }
            Decision::RestartAfter(pause) => {
                self.inbox.cell.untyped.counters.restarts.increment_single_writer();
                self.phase = Phase::BackingOff((!pause.is_zero()).then(|| Delay::new(pause)));
            }
        }
    }

    /// Makes the state anew once the backoff is over and the device holds. An abort cuts the backoff short.
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
            // Its last batch is not over yet.
            return self.register_and_recheck(&state, true, cx);
        }
        let reset = self.port.as_mut().map_or(Ok(()), |port| port.reset_state());
        if let Err(error) = reset {
            return self.stop(State::Failed, Reason::KernelFailed, &error.to_string());
        }
        self.phase = Phase::Serving;
        // Whatever it was commanded before, it holds now.
        self.last_command = None;
        if self.inbox.is_activated() {
            self.command(DeviceCommand::Run);
        }
        PollStep::Continue
    }

    /// Has the device stop, to end like this.
    fn stop(&mut self, to: State, reason: Reason, cause: &str) -> PollStep {
        self.command(DeviceCommand::Stop);
        self.close_links();
        self.phase = Phase::Stopping { to, reason, cause: Cow::Owned(cause.to_owned()) };
        PollStep::Continue
    }

    fn stopped(&mut self, cx: &mut TaskContext<'_>) -> PollStep {
        // Nobody may send to one that has ended.
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
        // The device goes first: who sees the ring kernel ended may rely on its resources being free.
        self.port = None;
        self.dead_letter_posted(reason, cause);
        self.inbox.end(to, reason, cause);
        PollStep::Done
    }

    /// What the device never came to becomes dead letters.
    fn dead_letter_posted(&mut self, reason: Reason, cause: &str) {
        for Posted { in_flight, message } in self.posted.drain(..) {
            if let Some(InFlight { current, .. }) = in_flight {
                let cell = &self.inbox.cell.untyped;
                cell.dead_letter(
                    current.header,
                    current.reply,
                    Some(Box::new(message)),
                    reason,
                    cause.to_owned(),
                );
            }
        }
    }

    /// Waits for the device, unless it has something to say already.
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

/// The place of a message among those posted.
fn posted_index<I, O>(
    posted: &VecDeque<Posted<I, O>>,
    first_sequence: u64,
    sequence: u64,
) -> Result<usize, String> {
    let posted_index =
        sequence.checked_sub(first_sequence).filter(|&posted_index| posted_index < posted.len() as u64);
    posted_index.map(|posted_index| posted_index as usize).ok_or_else(|| {
        format!("it reported on message {sequence}, of {} from number {first_sequence} on", posted.len())
    })
}

fn returned(code: i32) -> String {
    format!("the device's handler returned {code}")
}

fn record<T: DeviceRecord>(bytes: &[u8]) -> Result<T, String> {
    T::from_record_bytes(bytes).ok_or_else(|| {
        format!("it gave {} bytes as a `{}`, which has another size", bytes.len(), T::TYPE_NAME)
    })
}

/// An output, and the message that caused it.
fn find<'a, I, O: DeviceRecord>(
    posted: &'a mut VecDeque<Posted<I, O>>,
    first_sequence: u64,
    sequence: u64,
    bytes: &[u8],
) -> Result<(O, &'a mut Posted<I, O>), String> {
    let posted_index = posted_index(posted, first_sequence, sequence)?;
    Ok((record(bytes)?, &mut posted[posted_index]))
}

fn with_in_flight<I: DeviceRecord, O: DeviceRecord>(
    inbox: &mut Inbox<I, O>,
    posted: &mut Posted<I, O>,
    act: impl FnOnce(&mut Inbox<I, O>),
) {
    if let Some(in_flight) = posted.in_flight.take() {
        inbox.resume_current(in_flight);
        act(inbox);
        posted.in_flight = inbox.suspend_current();
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
    /// Reached without an end only when the runtime is dropped with the ring kernel alive.
    fn drop(&mut self) {
        self.inbox.cell.untyped.state_requests.close();
        self.settle_link_accounting(Reason::Aborted, "the runtime was dropped");
        self.port = None;
        self.dead_letter_posted(Reason::Aborted, "the runtime was dropped");
    }
}
