//! What a mailbox holds, under its lock: messages, and who waits for what.

use std::collections::VecDeque;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::counters::{Counters, now};
use super::timeout_timer::Timer;
use super::priority_queue::{Levels, Order};
use super::mailbox::Mailbox;
use super::task_resume::Sleeper;
use super::waiter::{self, Kind, State, Status};

/// An ask, and the output at which it waits for its answer.
pub(super) type AskAt = (Py<PyAny>, Option<Py<Mailbox>>);

/// What happens to a message for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backpressure {
    Block,
    Reject,
    DropOldest,
}

impl Backpressure {
    pub(super) fn parse(name: &str) -> PyResult<Self> {
        match name {
            "block" => Ok(Backpressure::Block),
            "reject" => Ok(Backpressure::Reject),
            "drop_oldest" => Ok(Backpressure::DropOldest),
            _ => Err(PyValueError::new_err(format!(
                "backpressure '{name}' is none of block, reject, drop_oldest"
            ))),
        }
    }
}

/// What those who wait are told when their time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterTime {
    /// `QueueTimeoutError`, and for a message without room `QueueFullError`.
    RaiseFull,
    /// `QueueTimeoutError` for both.
    RaiseTimeout,
    /// `None` for a message, `False` for room.
    Return,
}

impl AfterTime {
    pub(super) fn parse(name: &str) -> PyResult<Self> {
        match name {
            "full" => Ok(AfterTime::RaiseFull),
            "timeout" => Ok(AfterTime::RaiseTimeout),
            "return" => Ok(AfterTime::Return),
            _ => Err(PyValueError::new_err(format!("'{name}' is none of full, timeout, return"))),
        }
    }
}

/// A message that waits to be taken.
pub(super) struct Entry {
    pub(super) message: Py<PyAny>,
    pub(super) level: u8,
    /// When it was accepted; 0 where nobody counts.
    pub(super) since: u64,
    /// Who waits for its answer.
    pub(super) ask: Option<Py<PyAny>>,
}

/// What the lock protects.
pub(super) struct Inner {
    pub(super) kernel: String,
    pub(super) capacity: usize,
    pub(super) backpressure: Backpressure,
    pub(super) timeout_behavior: AfterTime,
    pub(super) queue: Levels<Entry>,
    /// Who waits for a message, in order of arrival.
    pub(super) getters: VecDeque<Py<PyAny>>,
    /// Who waits for room.
    pub(super) putters: VecDeque<Py<PyAny>>,
    /// Who waits for an answer whose message the ring kernel has not taken yet, and has taken. At outputs only.
    pub(super) asks_sent: VecDeque<Py<PyAny>>,
    pub(super) asks_taken: VecDeque<Py<PyAny>>,
    /// The ring kernel has taken a message while somebody waited for the answer to the one before: it takes several, and answers then.
    pub(super) takes_batches: bool,
    /// Messages are kept and none is given out.
    pub(super) paused: bool,
    /// The ring kernel ends: whoever finds nothing is sent away.
    pub(super) ending: bool,
    /// The exception that ended the ring kernel.
    pub(super) failure: Option<Py<PyAny>>,
    /// When the message was accepted that the ring kernel works on; 0 if none, or nobody counts.
    pub(super) in_hand: u64,
    /// That message, at inputs of ring kernels.
    pub(super) current: Option<Py<PyAny>>,
    pub(super) counters: Option<Py<Counters>>,
    /// The output to which answers of these messages go.
    pub(super) output: Option<Py<Mailbox>>,
    pub(super) timer: Option<Timer>,
    pub(super) enqueued: u64,
    pub(super) dequeued: u64,
    pub(super) dropped: u64,
    pub(super) peak: usize,
}

/// What is to be done once the lock is released.
#[derive(Default)]
pub(super) struct Effects {
    /// Who received a message.
    pub(super) receiver: Option<Sleeper>,
    /// Who else may go on.
    pub(super) others: Vec<Sleeper>,
    /// The ask whose message was just taken, and the output that has to know.
    pub(super) taken: Option<AskAt>,
    /// A message that the ring kernel has done with.
    pub(super) old: Option<Py<PyAny>>,
    /// What there seldom is, kept apart so that the rest stays small.
    pub(super) seldom: Option<Box<Seldom>>,
}

/// Those of the effects that few calls have.
#[derive(Default)]
pub(super) struct Seldom {
    /// The ask whose message was delivered and comes back; known before it is taken again.
    pub(super) untaken: Option<AskAt>,
    /// The output of a ring kernel that takes a message while there are asks that it has not answered.
    pub(super) goes_on: Option<Py<Mailbox>>,
    /// The ask whose message found no room.
    pub(super) refused: Option<Py<PyAny>>,
    /// A message that was dropped for a newer one.
    pub(super) dropped: Option<Entry>,
    /// Waiters that were taken off the lists, which may have been the last to hold them.
    pub(super) gone: Vec<Py<PyAny>>,
}

impl Effects {
    pub(super) fn seldom(&mut self) -> &mut Seldom {
        self.seldom.get_or_insert_default()
    }

    /// The message of this ask, if it is one's, found no room.
    pub(super) fn refuse(&mut self, ask: Option<Py<PyAny>>) {
        if ask.is_some() {
            self.seldom().refused = ask;
        }
    }
}

/// What a look at the mailbox gives a coroutine.
pub(super) enum Step {
    Value(Py<PyAny>),
    /// It has to be laid down.
    Park,
    /// It lies already.
    Wait,
    Failed(Failed),
}

/// Why there is no message.
pub(super) enum Failed {
    Again,
    /// Another task waits for it.
    Twice,
    Time(Kind, f64),
    Kernel(Py<PyAny>),
    Cancelled(Option<Py<PyAny>>),
    Ended(Kind),
}

/// Seconds as nanoseconds; what is not finite or too long is a century.
pub(super) fn nanoseconds(seconds: f64) -> u64 {
    const CENTURY: f64 = 3.2e18;
    if seconds.is_nan() { 0 } else { (seconds * 1e9).clamp(0.0, CENTURY) as u64 }
}

impl Inner {
    pub(super) fn fresh() -> Self {
        Inner {
            kernel: String::new(),
            capacity: 4096,
            backpressure: Backpressure::Block,
            timeout_behavior: AfterTime::RaiseFull,
            queue: Levels::new(Order::Bands),
            getters: VecDeque::new(),
            putters: VecDeque::new(),
            asks_sent: VecDeque::new(),
            asks_taken: VecDeque::new(),
            takes_batches: false,
            paused: false,
            ending: false,
            failure: None,
            in_hand: 0,
            current: None,
            counters: None,
            output: None,
            timer: None,
            enqueued: 0,
            dequeued: 0,
            dropped: 0,
            peak: 0,
        }
    }

    /// A coroutine that wants a message looks for the first time.
    pub(super) fn first_look(&mut self, py: Python<'_>, state: &mut State, effects: &mut Effects) -> Step {
        self.handled(effects);
        if !self.paused
            && let Some(entry) = self.take(py, effects)
        {
            state.status = Status::Done;
            return Step::Value(entry);
        }
        if let Some(cause) = &self.failure {
            state.status = Status::Done;
            return Step::Failed(Failed::Kernel(cause.clone_ref(py)));
        }
        if state.timeout.is_some_and(|timeout| timeout <= 0.0) && !self.ending {
            state.status = Status::Done;
            return Step::Failed(Failed::Time(Kind::Get, state.timeout.unwrap_or_default()));
        }
        Step::Park
    }

    /// Takes the next message out, and lets one who waits for room have it.
    pub(super) fn take(&mut self, py: Python<'_>, effects: &mut Effects) -> Option<Py<PyAny>> {
        let entry = self.queue.pop()?;
        self.dequeued += 1;
        self.now_in_hand(py, &entry, effects);
        if let Some(ask) = entry.ask {
            effects.taken = Some(self.ask_at(py, ask));
        }
        self.make_room(py, effects);
        Some(entry.message)
    }

    fn ask_at(&self, py: Python<'_>, ask: Py<PyAny>) -> AskAt {
        (ask, self.output.as_ref().map(|output| output.clone_ref(py)))
    }

    fn now_in_hand(&mut self, py: Python<'_>, entry: &Entry, effects: &mut Effects) {
        self.in_hand = entry.since;
        let Some(output) = &self.output else { return };
        if output.get().expects_answers() {
            effects.seldom().goes_on = Some(output.clone_ref(py));
        }
        if let Some(old) = self.current.replace(entry.message.clone_ref(py)) {
            effects.old = Some(old);
        }
    }

    /// Lets those who wait for room in, as far as there is some.
    pub(super) fn make_room(&mut self, py: Python<'_>, effects: &mut Effects) {
        while self.queue.len() < self.capacity
            && let Some(putter) = self.putters.pop_front()
        {
            // SAFETY: putters are waiters of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(&putter) };
            if state.status == Status::Parked {
                self.admit(state);
                effects.others.extend(state.finish(&putter, Status::Delivered, py));
            }
        }
    }

    /// Lets the message of a putter in.
    fn admit(&mut self, state: &mut State) {
        if let Some(message) = state.value.take() {
            let since = if self.counters.is_some() { now() } else { 0 };
            self.push(Entry { message, level: state.level, since, ask: state.ask.take() });
        }
    }

    /// Accepts a message, or gives it back if there is no room.
    pub(super) fn accept(
        &mut self,
        py: Python<'_>,
        mut entry: Entry,
        effects: &mut Effects,
    ) -> Result<(), Entry> {
        if self.counters.is_some() {
            entry.since = now();
        }
        if !self.paused
            && let Some(getter) = self.next_getter()
        {
            self.deliver(py, &getter, entry, effects);
            return Ok(());
        }
        if self.queue.len() >= self.capacity {
            if self.backpressure != Backpressure::DropOldest {
                return Err(entry);
            }
            effects.seldom().dropped = self.queue.pop_least();
            self.count_dropped(1);
        }
        self.push(entry);
        Ok(())
    }

    /// A coroutine that found no room for its message is awaited, and looks again: much may have happened since.
    pub(super) fn second_look(&mut self, py: Python<'_>, state: &mut State, effects: &mut Effects) -> Step {
        if let Some(cause) = &self.failure {
            state.status = Status::Done;
            effects.refuse(state.ask.take());
            return Step::Failed(Failed::Kernel(cause.clone_ref(py)));
        }
        let Some(message) = state.value.take() else { return Step::Park };
        let entry = Entry { message, level: state.level, since: 0, ask: state.ask.take() };
        match self.accept(py, entry, effects) {
            Ok(()) => {
                state.status = Status::Done;
                Step::Value(pyo3::types::PyBool::new(py, true).to_owned().into_any().unbind())
            }
            Err(entry) => {
                (state.value, state.ask) = (Some(entry.message), entry.ask);
                Step::Park
            }
        }
    }

    fn push(&mut self, entry: Entry) {
        self.queue.push_back(entry.level, entry);
        self.enqueued += 1;
        self.peak = self.peak.max(self.queue.len());
    }

    /// The next coroutine that sleeps here for a message.
    pub(super) fn next_getter(&mut self) -> Option<Py<PyAny>> {
        while let Some(getter) = self.getters.pop_front() {
            // SAFETY: getters are waiters of this mailbox, whose lock is held.
            if unsafe { waiter::state(&getter) }.status == Status::Parked {
                return Some(getter);
            }
        }
        None
    }

    /// Puts a message straight into a sleeping coroutine.
    pub(super) fn deliver(
        &mut self,
        py: Python<'_>,
        getter: &Py<PyAny>,
        entry: Entry,
        effects: &mut Effects,
    ) {
        self.enqueued += 1;
        self.dequeued += 1;
        self.now_in_hand(py, &entry, effects);
        // SAFETY: getters are waiters of this mailbox, whose lock is held.
        let state = unsafe { waiter::state(getter) };
        if let Some(ask) = entry.ask {
            state.ask = Some(ask.clone_ref(py));
            effects.taken = Some(self.ask_at(py, ask));
        }
        state.value = Some(entry.message);
        state.level = entry.level;
        state.since = entry.since;
        effects.receiver = state.finish(getter, Status::Delivered, py);
    }

    /// Gives a message that waits to a coroutine that sleeps for one, through its loop. Returns whether there were both.
    pub(super) fn hand_out(&mut self, py: Python<'_>, effects: &mut Effects) -> bool {
        if self.paused || self.queue.len() == 0 {
            return false;
        }
        let Some(getter) = self.next_getter() else { return false };
        let Some(entry) = self.queue.pop() else { return false };
        self.enqueued -= 1;
        self.deliver(py, &getter, entry, effects);
        effects.others.extend(effects.receiver.take());
        self.make_room(py, effects);
        true
    }

    /// A message that was delivered and not taken: to whoever waits next, or to the front of the queue, room or not.
    pub(super) fn put_back(&mut self, py: Python<'_>, state: &mut State, effects: &mut Effects) {
        let Some(message) = state.value.take() else { return };
        self.enqueued -= 1;
        self.dequeued -= 1;
        self.in_hand = 0;
        effects.old = self.current.take();
        let ask = state.ask.take();
        if let Some(ask) = &ask {
            effects.seldom().untaken = Some(self.ask_at(py, ask.clone_ref(py)));
        }
        let entry = Entry { message, level: state.level, since: state.since, ask };
        match if self.paused { None } else { self.next_getter() } {
            Some(getter) => {
                self.deliver(py, &getter, entry, effects);
                effects.others.extend(effects.receiver.take());
            }
            None => {
                self.queue.push_front(entry.level, entry);
                self.enqueued += 1;
            }
        }
    }

    /// The ring kernel asks for its next message: it has done with the one before.
    fn handled(&mut self, effects: &mut Effects) {
        effects.old = self.current.take();
        let since = std::mem::take(&mut self.in_hand);
        if since != 0
            && let Some(counters) = &self.counters
        {
            counters.get().handled(now().saturating_sub(since));
        }
    }

    /// Takes the next message, for a user who does not wait.
    pub(super) fn take_unless_paused(&mut self, py: Python<'_>, effects: &mut Effects) -> Option<Py<PyAny>> {
        if self.paused { None } else { self.take(py, effects) }
    }

    pub(super) fn lay_down(&mut self, waiter: Py<PyAny>, state: &mut State) {
        state.status = Status::Parked;
        match state.kind {
            Kind::Get => self.getters.push_back(waiter),
            Kind::Put => self.putters.push_back(waiter),
            // It is known to the output since it was asked.
            Kind::Ask | Kind::Ready => {}
        }
    }

    /// Takes a waiter off the lists, so that nothing comes to it any more.
    pub(super) fn forget(&mut self, waiter: &Py<PyAny>, kind: Kind) {
        let list = match kind {
            Kind::Get => &mut self.getters,
            Kind::Put => &mut self.putters,
            // Its answer has to find it, to be known as one that nobody waits for.
            Kind::Ask | Kind::Ready => return,
        };
        if let Some(at) = list.iter().position(|other| waiter::same(other, waiter)) {
            list.remove(at);
        }
    }

    pub(super) fn count_dropped(&mut self, messages: u64) {
        self.dropped += messages;
        if let Some(counters) = &self.counters {
            counters.get().dropped(messages);
        }
    }

    pub(super) fn failed(&self, py: Python<'_>, status: Status, state: &mut State) -> Step {
        Step::Failed(match status {
            Status::TimedOut => Failed::Time(state.kind, state.timeout.unwrap_or_default()),
            Status::Cancelled => Failed::Cancelled(state.value.take()),
            Status::Broken => match &self.failure {
                Some(cause) => Failed::Kernel(cause.clone_ref(py)),
                None => state.value.take().map_or(Failed::Ended(state.kind), Failed::Kernel),
            },
            _ => Failed::Ended(state.kind),
        })
    }

    /// Sends those who sleep for a message away, as the ring kernel ends: with the end of their time if they gave one.
    pub(super) fn send_getters_away(&mut self, py: Python<'_>, effects: &mut Effects) {
        while let Some(getter) = self.next_getter() {
            // SAFETY: getters are waiters of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(&getter) };
            let status = if state.timeout.is_some() { Status::TimedOut } else { Status::Ended };
            effects.others.extend(state.finish(&getter, status, py));
        }
    }

    /// Ends every wait: the ring kernel is gone.
    pub(super) fn break_all(&mut self, py: Python<'_>, effects: &mut Effects) {
        let lists = [&mut self.getters, &mut self.putters, &mut self.asks_sent, &mut self.asks_taken];
        for waiter in lists.into_iter().flat_map(std::mem::take) {
            // SAFETY: all are waiters of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(&waiter) };
            if matches!(state.status, Status::Expecting | Status::Parked) {
                effects.others.extend(state.finish(&waiter, Status::Broken, py));
            }
            effects.seldom().gone.push(waiter);
        }
    }
}
