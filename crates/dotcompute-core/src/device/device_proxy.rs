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
use crate::cell::state_requests::StateCall;
use crate::fault::Reason;
use crate::kernel::inbox::{InHand, Intake, Next};
use crate::kernel::poll_step::{After, TURN};
use crate::lifecycle::State;
use crate::message::record::DeviceRecord;
use crate::message::{MessageHeader, Priority};
use crate::supervision::{Supervision, Supervisor, Verdict};

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
    in_hand: Option<InHand<O>>,
    /// For the dead letter that it becomes if the device never comes to it.
    message: I,
}

/// What the attendant is about.
enum Phase {
    /// Posting messages and taking events.
    Attending,
    /// Waiting until the device pauses.
    Pausing,
    /// Waiting until the device pauses, to read or write the state and go on.
    Stilling,
    /// Waiting before a restart; none if it is due.
    BackingOff(Option<Delay>),
    /// Waiting until the device has stopped, to end like this.
    Stopping { to: State, reason: Reason, cause: Cow<'static, str> },
}

/// The task of one ring kernel on a device.
pub(crate) struct Attendant<I: DeviceRecord, O: DeviceRecord> {
    intake: Intake<I, O>,
    /// None once it has ended.
    port: Option<Box<dyn DevicePort>>,
    posted: VecDeque<Posted<I, O>>,
    /// The ticket of the first of them.
    first: u64,
    commanded: Option<DeviceCommand>,
    phase: Phase,
    supervisor: Supervisor,
    /// Until the next look at what wakes nobody.
    again: Option<Delay>,
}

// Nothing in an attendant is pinned.
impl<I: DeviceRecord, O: DeviceRecord> Unpin for Attendant<I, O> {}

impl<I: DeviceRecord, O: DeviceRecord> Attendant<I, O> {
    pub(crate) fn new(intake: Intake<I, O>, port: Box<dyn DevicePort>) -> Self {
        let supervisor = Supervisor::new(intake.shared.core.options.supervision);
        Self {
            intake,
            port: Some(port),
            posted: VecDeque::new(),
            first: 0,
            commanded: None,
            phase: Phase::Attending,
            supervisor,
            again: None,
        }
    }

    fn step(&mut self, cx: &mut TaskContext<'_>) -> After {
        let outlets = &mut self.intake.ctx.outlets;
        let held_up = outlets.is_backed_up() && outlets.poll_flush(&self.intake.ctx.core, cx).is_pending();
        let Some(port) = &self.port else { return After::End };
        // Looked at before the events: those that led to the state are taken before it is acted upon.
        let state = port.state();
        // Held up by its outputs, it leaves the events where they are, and the device holds its messages back: unless the device is to
        // come to a message boundary, which it does not while a handler waits for room.
        let takes_events = !held_up || !matches!(self.phase, Phase::Attending) || port.is_quiescing();
        if takes_events {
            match self.take_event() {
                Ok(true) => return After::GoOn,
                Ok(false) => {}
                Err(problem) => return self.lose(&problem),
            }
        }
        match (state, &self.phase) {
            (DeviceState::Lost(problem), _) => self.lose(&problem),
            (DeviceState::Stopped, Phase::Stopping { .. }) => self.stopped(cx),
            (DeviceState::Stopped, _) => self.lose("it left the device without a command"),
            // One that held after a fault has had its state made anew by now, and need not run to pause.
            (DeviceState::Paused | DeviceState::Faulted, Phase::Pausing) => {
                self.phase = Phase::Attending;
                After::GoOn
            }
            (DeviceState::Paused | DeviceState::Faulted, Phase::Stilling) => {
                self.serve_state_calls();
                self.phase = Phase::Attending;
                if self.intake.is_activated() {
                    self.command(DeviceCommand::Run);
                }
                After::GoOn
            }
            (state, Phase::Stilling) => {
                if self.intake.is_aborted() || self.intake.poll_abort(cx).is_ready() {
                    self.phase = Phase::Attending;
                    return After::GoOn;
                }
                self.register_waker(&state, takes_events, cx)
            }
            (state, Phase::Attending) => self.attend(state, held_up, takes_events, cx),
            (state, Phase::Pausing) => {
                // An end does not wait for the pause.
                if self.intake.poll_new_command(cx).is_ready() {
                    self.phase = Phase::Attending;
                    return After::GoOn;
                }
                self.register_waker(&state, takes_events, cx)
            }
            (_, Phase::BackingOff(_)) => self.back_off(cx),
            (state, Phase::Stopping { .. }) => self.register_waker(&state, takes_events, cx),
        }
    }

    fn attend(
        &mut self,
        state: DeviceState,
        held_up: bool,
        takes_events: bool,
        cx: &mut TaskContext<'_>,
    ) -> After {
        if self.has_state_calls() && !self.intake.is_aborted() {
            if self.commanded == Some(DeviceCommand::Run) {
                self.command(DeviceCommand::Pause);
                self.phase = Phase::Stilling;
            } else {
                // Paused by the runtime, or not begun: there is no message in hand.
                self.serve_state_calls();
            }
            return After::GoOn;
        }
        let mut links_are_done = false;
        let drains = self.intake.is_draining();
        if drains {
            links_are_done = self.close_links() == Some(0);
            // What was posted or linked is handled first, also by one that is paused.
            if !self.posted.is_empty() || !links_are_done {
                self.ensure_running();
            }
            if !links_are_done && self.look_again_soon(cx) {
                return After::GoOn;
            }
        }
        let has_room = self.port.as_ref().is_some_and(|port| port.free_slots() > 0);
        let next = if has_room && !held_up {
            self.intake.poll_next(WaitStrategy::Park, cx)
        } else {
            self.intake.poll_next_command(cx)
        };
        match next {
            Poll::Ready(Next::Message(message)) => {
                self.post(message);
                return After::GoOn;
            }
            Poll::Ready(Next::Activated) => {
                self.command(DeviceCommand::Run);
                return After::GoOn;
            }
            Poll::Ready(Next::Deactivated) => {
                self.command(DeviceCommand::Pause);
                self.phase = Phase::Pausing;
                return After::GoOn;
            }
            Poll::Ready(Next::Aborted) => return self.stop(State::Terminated, Reason::Aborted, ""),
            // Told to since the look above: its links come first.
            Poll::Ready(Next::Drained) if !drains => return After::GoOn,
            Poll::Ready(Next::Drained) if self.posted.is_empty() && !held_up && links_are_done => {
                return self.stop(State::Terminated, Reason::Aborted, "");
            }
            Poll::Ready(Next::Drained) if self.intake.poll_new_command(cx).is_ready() => return After::GoOn,
            Poll::Ready(Next::Drained) | Poll::Pending => {}
        }
        self.register_waker(&state, takes_events, cx)
    }

    fn has_state_calls(&self) -> bool {
        self.intake.shared.core.state_calls.are_pending()
    }

    /// Reads and writes the state as was asked, between two messages.
    #[cold]
    fn serve_state_calls(&mut self) {
        let Some(port) = &mut self.port else { return };
        for StateCall { write, reply } in self.intake.shared.core.state_calls.take() {
            let answer = match write {
                None => port.read_state(),
                Some(bytes) => port.write_state(&bytes).map(|()| Vec::new()),
            };
            // Who has stopped waiting has been told so.
            let _ = reply.send(answer.map_err(|error| error.to_string()));
        }
    }

    fn post(&mut self, message: I) {
        self.ensure_running();
        let Some(in_hand) = self.intake.set_aside() else { return };
        let sequence = self.first + self.posted.len() as u64;
        if let Some(port) = &mut self.port {
            let wants_reply = in_hand.current.reply.is_some();
            let header = in_hand.current.header;
            port.post(DeviceMessage { sequence, header, wants_reply, payload: message.as_record_bytes() });
        }
        self.posted.push_back(Posted { in_hand: Some(in_hand), message });
    }

    fn ensure_running(&mut self) {
        if self.commanded != Some(DeviceCommand::Run) {
            self.command(DeviceCommand::Run);
        }
    }

    fn command(&mut self, command: DeviceCommand) {
        self.commanded = Some(command);
        if let Some(port) = &mut self.port {
            port.command(command);
        }
    }

    /// Takes one event, if there is one. The error says what a device has done that cannot be.
    fn take_event(&mut self) -> Result<bool, String> {
        let Some(event) = self.port.as_mut().and_then(|port| port.next_event()) else { return Ok(false) };
        match event {
            DeviceEvent::Sent { sequence, output, linked } => {
                let (output, posted) = find(&mut self.posted, self.first, sequence, output)?;
                with_in_hand(&mut self.intake, posted, |intake| intake.ctx.send_beside(output, linked));
            }
            DeviceEvent::LinkedSent { priority, output, linked } => {
                let header = MessageHeader::new().with_priority(Priority::new(priority));
                let (output, ctx) = (record::<O>(output)?, &mut self.intake.ctx);
                ctx.outlets.send_beside(&ctx.core, header, output, linked);
            }
            DeviceEvent::LinkedFailed { priority, code, message } => {
                let header = MessageHeader::new().with_priority(Priority::new(priority));
                let message = record::<I>(message)?;
                let core = &self.intake.shared.core;
                core.links.failed.bump();
                core.bury::<O>(header, None, Some(Box::new(message)), Reason::HandlerErrored, returned(code));
                self.judge(&returned(code));
            }
            DeviceEvent::Replied { sequence, output } => {
                let (output, posted) = find(&mut self.posted, self.first, sequence, output)?;
                with_in_hand(&mut self.intake, posted, |intake| intake.ctx.reply(output));
            }
            DeviceEvent::Failed { sequence, code } => {
                let posted = index(&self.posted, self.first, sequence)?;
                if let Some(in_hand) = self.posted[posted].in_hand.take() {
                    self.intake.take_up(in_hand);
                    self.intake.finish_badly(Reason::HandlerErrored, &returned(code));
                    self.judge(&returned(code));
                }
            }
            DeviceEvent::Done { up_to, handler_time } => self.settle(up_to, handler_time)?,
        }
        Ok(true)
    }

    /// Finishes the messages below this ticket.
    fn settle(&mut self, up_to: u64, handler_time: Option<Duration>) -> Result<(), String> {
        let count = up_to.checked_sub(self.first).filter(|&count| count <= self.posted.len() as u64);
        let Some(count) = count else {
            let (first, posted) = (self.first, self.posted.len());
            return Err(format!("it reported {up_to} messages as done, of {posted} from number {first} on"));
        };
        for done in self.posted.drain(..count as usize) {
            if let Some(in_hand) = done.in_hand {
                self.intake.take_up(in_hand);
                // The device knows only the sum.
                self.intake.finish_after(handler_time.map(|handler_time| handler_time / count as u32));
            }
        }
        self.first = up_to;
        Ok(())
    }

    /// The handler has reported an error: decides how to go on.
    #[cold]
    fn judge(&mut self, cause: &str) {
        if matches!(self.phase, Phase::Stopping { .. }) {
            return;
        }
        match self.supervisor.judge(Instant::now()) {
            Verdict::Resume => {}
            Verdict::Fail => {
                self.stop(State::Failed, Reason::KernelFailed, cause);
            }
            Verdict::RestartAfter(pause) => {
                self.intake.shared.core.counters.restarts.bump_exclusively();
                self.phase = Phase::BackingOff((!pause.is_zero()).then(|| Delay::new(pause)));
            }
        }
    }

    /// Makes the state anew once the backoff is over and the device holds. An abort cuts the backoff short.
    #[cold]
    fn back_off(&mut self, cx: &mut TaskContext<'_>) -> After {
        if self.intake.is_aborted() {
            return self.stop(State::Terminated, Reason::Aborted, "");
        }
        let Phase::BackingOff(delay) = &mut self.phase else { return After::GoOn };
        if let Some(delay) = delay
            && Pin::new(delay).poll(cx).is_pending()
        {
            return if self.intake.poll_abort(cx).is_pending() { After::Wait } else { After::GoOn };
        }
        let state = self.port.as_ref().map(|port| port.state());
        if let Some(state @ (DeviceState::Running | DeviceState::Launched | DeviceState::Paused)) = state {
            // Its last batch is not over yet.
            return self.register_waker(&state, true, cx);
        }
        let reset = self.port.as_mut().map_or(Ok(()), |port| port.reset_state());
        if let Err(error) = reset {
            return self.stop(State::Failed, Reason::KernelFailed, &error.to_string());
        }
        self.phase = Phase::Attending;
        // Whatever it was commanded before, it holds now.
        self.commanded = None;
        if self.intake.is_activated() {
            self.command(DeviceCommand::Run);
        }
        After::GoOn
    }

    /// Has the device stop, to end like this.
    fn stop(&mut self, to: State, reason: Reason, cause: &str) -> After {
        self.command(DeviceCommand::Stop);
        self.close_links();
        self.phase = Phase::Stopping { to, reason, cause: Cow::Owned(cause.to_owned()) };
        After::GoOn
    }

    fn stopped(&mut self, cx: &mut TaskContext<'_>) -> After {
        // Nobody may send to one that has ended.
        if self.close_links().is_none() {
            return if self.look_again_soon(cx) { After::GoOn } else { After::Wait };
        }
        let Phase::Stopping { to, reason, cause } = std::mem::replace(&mut self.phase, Phase::Attending)
        else {
            return After::GoOn;
        };
        self.end(to, reason, &cause)
    }

    #[cold]
    fn lose(&mut self, problem: &str) -> After {
        self.end(State::Failed, Reason::KernelFailed, problem)
    }

    fn end(&mut self, to: State, reason: Reason, cause: &str) -> After {
        self.intake.shared.core.state_calls.close();
        self.close_link_books(reason, cause);
        // The device goes first: who sees the ring kernel ended may rely on its resources being free.
        self.port = None;
        self.bury_posted(reason, cause);
        self.intake.end(to, reason, cause);
        After::End
    }

    /// What the device never came to becomes dead letters.
    fn bury_posted(&mut self, reason: Reason, cause: &str) {
        for Posted { in_hand, message } in self.posted.drain(..) {
            if let Some(InHand { current, .. }) = in_hand {
                let core = &self.intake.shared.core;
                core.bury(current.header, current.reply, Some(Box::new(message)), reason, cause.to_owned());
            }
        }
    }

    /// Waits for the device, unless it has something to say already.
    fn register_waker(&mut self, known: &DeviceState, takes_events: bool, cx: &mut TaskContext<'_>) -> After {
        let Some(port) = &mut self.port else { return After::End };
        port.register_waker(cx.waker(), takes_events);
        let takes_events = takes_events || port.is_quiescing();
        let changed = (takes_events && port.has_event()) || port.state() != *known;
        let called = matches!(self.phase, Phase::Attending) && self.has_state_calls();
        if changed || called { After::GoOn } else { After::Wait }
    }
}

/// The place of a message among those posted.
fn index<I, O>(posted: &VecDeque<Posted<I, O>>, first: u64, sequence: u64) -> Result<usize, String> {
    let index = sequence.checked_sub(first).filter(|&index| index < posted.len() as u64);
    index.map(|index| index as usize).ok_or_else(|| {
        format!("it reported on message {sequence}, of {} from number {first} on", posted.len())
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
    first: u64,
    sequence: u64,
    bytes: &[u8],
) -> Result<(O, &'a mut Posted<I, O>), String> {
    let index = index(posted, first, sequence)?;
    Ok((record(bytes)?, &mut posted[index]))
}

fn with_in_hand<I: DeviceRecord, O: DeviceRecord>(
    intake: &mut Intake<I, O>,
    posted: &mut Posted<I, O>,
    act: impl FnOnce(&mut Intake<I, O>),
) {
    if let Some(in_hand) = posted.in_hand.take() {
        intake.take_up(in_hand);
        act(intake);
        posted.in_hand = intake.set_aside();
    }
}

impl<I: DeviceRecord, O: DeviceRecord> Future for Attendant<I, O> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let attendant = self.get_mut();
        for _ in 0..TURN {
            match attendant.step(cx) {
                After::GoOn => {}
                After::Wait => return Poll::Pending,
                After::End => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<I: DeviceRecord, O: DeviceRecord> Drop for Attendant<I, O> {
    /// Reached without an end only when the runtime is dropped with the ring kernel alive.
    fn drop(&mut self) {
        self.intake.shared.core.state_calls.close();
        self.close_link_books(Reason::Aborted, "the runtime was dropped");
        self.port = None;
        self.bury_posted(Reason::Aborted, "the runtime was dropped");
    }
}
