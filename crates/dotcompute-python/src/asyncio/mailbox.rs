//! A bounded queue at which coroutines wait.
//!
//! Everything that changes is under one lock, which is held for some tens of nanoseconds and never while Python runs: whatever calls
//! Python (waking tasks, dropping messages, comparing ids) is kept in [`Effects`] and done after.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::{ffi, intern};

use super::counters::{Counters, now};
use super::deadline::Timer;
use super::errors;
use super::levels::{Levels, Order};
use super::turn::{self, Sleeper};
use super::waiter::{self, Kind, State, Status};

/// What happens to a message for which there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backpressure {
    Block,
    Reject,
    DropOldest,
}

impl Backpressure {
    fn parse(name: &str) -> PyResult<Self> {
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
    fn parse(name: &str) -> PyResult<Self> {
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
    after_time: AfterTime,
    pub(super) queue: Levels<Entry>,
    /// Who waits for a message, in order of arrival.
    pub(super) getters: VecDeque<Py<PyAny>>,
    /// Who waits for room.
    pub(super) putters: VecDeque<Py<PyAny>>,
    /// Who waits for an answer whose message the ring kernel has not taken yet, and has taken. At outputs only.
    pub(super) asks_sent: VecDeque<Py<PyAny>>,
    pub(super) asks_taken: VecDeque<Py<PyAny>>,
    /// Messages are kept and none is given out.
    paused: bool,
    /// The ring kernel ends: whoever finds nothing is sent away.
    ending: bool,
    /// The exception that ended the ring kernel.
    failure: Option<Py<PyAny>>,
    /// When the message was accepted that the ring kernel works on; 0 if none, or nobody counts.
    in_hand: u64,
    /// That message, at inputs of ring kernels.
    current: Option<Py<PyAny>>,
    counters: Option<Py<Counters>>,
    /// The output to which answers of these messages go.
    output: Option<Py<Mailbox>>,
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
    taken: Option<(Py<PyAny>, Option<Py<Mailbox>>)>,
    /// A message that was dropped for a newer one.
    dropped: Option<Entry>,
    /// A message that the ring kernel has done with.
    old: Option<Py<PyAny>>,
}

/// A bounded queue at which coroutines wait. The queues of Python derive from it.
#[pyclass(frozen, subclass, weakref, module = "pydotcompute._core")]
pub(crate) struct Mailbox {
    inner: Mutex<Inner>,
    /// The order of its messages, which is set once.
    order: OnceLock<Order>,
    /// How many asks have been taken and not answered: a look without the lock, for outputs that answer nothing.
    unanswered: AtomicUsize,
}

impl Mailbox {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The order in which messages are taken.
    pub(super) fn order(&self) -> Order {
        self.order.get().copied().unwrap_or(Order::Bands)
    }

    /// Does what has to wait for the lock's release. The receiver goes last: it may run for as long as it likes.
    pub(super) fn settle(&self, py: Python<'_>, effects: Effects) -> PyResult<()> {
        let Effects { receiver, others, taken, dropped, old } = effects;
        drop(old);
        for sleeper in others {
            turn::give_later(py, sleeper)?;
        }
        if let Some((ask, Some(output))) = taken {
            output.get().ask_was_taken(ask);
        }
        if let Some(Entry { ask: Some(ask), .. }) = dropped {
            self.disappoint(py, &ask)?;
        }
        match receiver {
            Some(sleeper) => turn::give(py, sleeper),
            None => Ok(()),
        }
    }

    /// Tells an asker that its message was dropped.
    fn disappoint(&self, py: Python<'_>, ask: &Py<PyAny>) -> PyResult<()> {
        let Some(output) = self.lock().output.as_ref().map(|output| output.clone_ref(py)) else {
            return Ok(());
        };
        let sleeper = {
            let mut inner = output.get().lock();
            inner.asks_sent.retain(|other| !waiter::same(other, ask));
            // SAFETY: asks are waiters of the output, whose lock is held.
            let state = unsafe { waiter::state(ask) };
            matches!(state.status, Status::Expecting | Status::Parked)
                .then(|| state.finish(ask, Status::Ended, py))
                .flatten()
        };
        sleeper.map_or(Ok(()), |sleeper| turn::give_later(py, sleeper))
    }

    /// An ask's message is in the ring kernel's hands: its answer may come.
    fn ask_was_taken(&self, ask: Py<PyAny>) {
        let mut inner = self.lock();
        if let Some(at) = inner.asks_sent.iter().position(|other| waiter::same(other, &ask)) {
            inner.asks_sent.remove(at);
        }
        inner.asks_taken.push_back(ask);
        self.unanswered.store(inner.asks_taken.len(), Relaxed);
    }

    /// Accepts a message, or gives it back if there is no room.
    pub(super) fn offer(&self, py: Python<'_>, mut entry: Entry, effects: &mut Effects) -> Result<(), Entry> {
        let mut inner = self.lock();
        if inner.counters.is_some() {
            entry.since = now();
        }
        if !inner.paused
            && let Some(getter) = inner.next_getter()
        {
            inner.deliver(py, &getter, entry, effects);
            return Ok(());
        }
        if inner.queue.len() >= inner.capacity {
            if inner.backpressure != Backpressure::DropOldest {
                return Err(entry);
            }
            effects.dropped = inner.queue.pop_least();
            inner.count_dropped(1);
        }
        inner.push(entry);
        Ok(())
    }

    /// One step of a coroutine that waits here: what it waited for, or nothing yet.
    pub(super) fn resume<'py>(
        &self,
        me: &Bound<'py, Self>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = me.py();
        let mut effects = Effects::default();
        let step = self.step(py, waiter.as_unbound(), &mut effects);
        self.settle(py, effects)?;
        match step {
            Step::Value(value) => Ok(Some(value.into_bound(py))),
            Step::Park => self.park(me, waiter),
            Step::Wait => Ok(None),
            Step::Failed(failed) => self.outcome(py, failed),
        }
    }

    fn step(&self, py: Python<'_>, waiter: &Py<PyAny>, effects: &mut Effects) -> Step {
        let mut inner = self.lock();
        // SAFETY: it is a waiter of this mailbox, whose lock is held.
        let state = unsafe { waiter::state(waiter) };
        match state.status {
            Status::Fresh if state.kind == Kind::Get => inner.first_look(py, state, effects),
            Status::Fresh | Status::Expecting => Step::Park,
            Status::Parked => Step::Wait,
            Status::Delivered => {
                state.status = Status::Done;
                let value = if state.kind == Kind::Put { None } else { state.value.take() };
                Step::Value(
                    value
                        .unwrap_or_else(|| pyo3::types::PyBool::new(py, true).to_owned().into_any().unbind()),
                )
            }
            Status::Done => Step::Failed(Failed::Again),
            status => {
                state.status = Status::Done;
                inner.failed(py, status, state)
            }
        }
    }

    /// Lays a waiter down until there is something for it.
    fn park<'py>(
        &self,
        me: &Bound<'py, Self>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = me.py();
        let event_loop = turn::running_loop(py)?;
        let mut effects = Effects::default();
        let (step, deadline) = {
            let mut inner = self.lock();
            // SAFETY: it is a waiter of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            // What was not there a moment ago may have come from another thread.
            let step = match state.status {
                Status::Fresh if state.kind == Kind::Get => inner.first_look(py, state, &mut effects),
                Status::Fresh if inner.queue.len() < inner.capacity && state.kind == Kind::Put => {
                    inner.admit(py, state)
                }
                Status::Fresh | Status::Expecting => Step::Park,
                _ => Step::Wait,
            };
            if matches!(step, Step::Park) {
                state.event_loop = Some(event_loop.clone().unbind());
                state.deadline = state.timeout.map_or(0, |timeout| now() + nanoseconds(timeout));
                inner.lay_down(waiter.as_unbound().clone_ref(py), state);
            }
            (step, state.deadline)
        };
        self.settle(py, effects)?;
        match step {
            Step::Park => {
                if deadline != 0 {
                    self.arm(me, &event_loop, deadline)?;
                }
                Ok(None)
            }
            Step::Value(value) => Ok(Some(value.into_bound(py))),
            Step::Failed(failed) => self.outcome(py, failed),
            Step::Wait => self.resume(me, waiter),
        }
    }

    fn outcome<'py>(&self, py: Python<'py>, failed: Failed) -> PyResult<Option<Bound<'py, PyAny>>> {
        let (kernel, capacity, after_time) = {
            let inner = self.lock();
            (inner.kernel.clone(), inner.capacity, inner.after_time)
        };
        match failed {
            Failed::Again => {
                Err(PyRuntimeError::new_err("this was awaited before, and has given its outcome"))
            }
            Failed::Time(Kind::Put, _) => match after_time {
                AfterTime::Return => Ok(Some(pyo3::types::PyBool::new(py, false).to_owned().into_any())),
                AfterTime::RaiseTimeout => Err(errors::timeout(py, &kernel, 0.0, "send")),
                AfterTime::RaiseFull => Err(errors::full(py, &kernel, capacity)),
            },
            Failed::Time(_, seconds) => match after_time {
                AfterTime::Return => Ok(Some(py.None().into_bound(py))),
                _ => Err(errors::timeout(py, &kernel, seconds, "receive")),
            },
            Failed::Kernel(cause) => Err(errors::failed(py, &kernel, cause.bind(py))),
            Failed::Cancelled(reason) => {
                Err(errors::cancelled(py, reason.map(|reason| reason.into_bound(py))))
            }
            Failed::Ended(Kind::Get) => Err(errors::cancelled(py, None)),
            Failed::Ended(_) => {
                Err(errors::unanswered(py, &kernel, "the message was dropped, or the kernel ended before it"))
            }
        }
    }

    /// The task has left its wake-up call. Returns the loop through which to make it at once, if the waiting is over already.
    pub(super) fn subscribe(
        &self,
        py: Python<'_>,
        waiter: &Bound<'_, PyAny>,
        wakeup: Py<PyAny>,
        context: Py<PyAny>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let inner = self.lock();
        // SAFETY: it is a waiter of this mailbox, whose lock is held.
        let state = unsafe { waiter::state(waiter.as_unbound()) };
        if state.status == Status::Parked {
            if state.wakeup.is_some() {
                drop(inner);
                return Err(PyRuntimeError::new_err(
                    "two tasks wait for the same receive; call it once for each",
                ));
            }
            state.wakeup = Some(wakeup);
            state.context = Some(context);
            return Ok(None);
        }
        let event_loop = state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py));
        drop(inner);
        event_loop.map_or_else(|| turn::running_loop(py).map(Bound::unbind), Ok).map(Some)
    }

    /// Cancels the waiting, if there is any.
    pub(super) fn cancel(&self, waiter: &Bound<'_, PyAny>, reason: Option<Py<PyAny>>) -> PyResult<bool> {
        let py = waiter.py();
        let (sleeper, _old) = {
            let mut inner = self.lock();
            // SAFETY: it is a waiter of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            if !matches!(state.status, Status::Parked | Status::Expecting) {
                return Ok(false);
            }
            inner.forget(waiter.as_unbound(), state.kind);
            let sleeper = state.finish(waiter.as_unbound(), Status::Cancelled, py);
            let old = std::mem::replace(&mut state.value, reason);
            (sleeper, old)
        };
        if let Some(sleeper) = sleeper {
            turn::give_later(py, sleeper)?;
        }
        Ok(true)
    }

    /// The coroutine gives up. A message that was delivered and not taken goes back to where it was.
    pub(super) fn abandon(&self, me: &Bound<'_, Self>, waiter: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = me.py();
        let mut effects = Effects::default();
        let _dropped = {
            let mut inner = self.lock();
            // SAFETY: it is a waiter of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            let status = std::mem::replace(&mut state.status, Status::Done);
            match status {
                Status::Parked | Status::Expecting => {
                    inner.forget(waiter.as_unbound(), state.kind);
                    None
                }
                Status::Delivered if state.kind == Kind::Get => {
                    inner.put_back(py, state, &mut effects);
                    None
                }
                // An answer that nobody will read.
                Status::Delivered if state.kind == Kind::Ask => {
                    inner.count_dropped(1);
                    state.value.take()
                }
                _ => None,
            }
        };
        self.settle(py, effects)
    }

    pub(super) fn status(&self, waiter: &Bound<'_, PyAny>) -> (Status, Option<Py<PyAny>>) {
        let _inner = self.lock();
        // SAFETY: it is a waiter of this mailbox, whose lock is held.
        let state = unsafe { waiter::state(waiter.as_unbound()) };
        let reason = (state.status == Status::Cancelled)
            .then(|| state.value.as_ref().map(|value| value.clone_ref(waiter.py())));
        (state.status, reason.flatten())
    }

    /// Takes out all messages. Their askers are told, and whoever waits for room has it.
    pub(super) fn drained(&self, py: Python<'_>, lost: bool) -> PyResult<Vec<Py<PyAny>>> {
        let mut effects = Effects::default();
        let entries = {
            let mut inner = self.lock();
            let entries = inner.queue.take_all();
            if lost {
                inner.dequeued += entries.len() as u64;
                inner.count_dropped(entries.len() as u64);
                inner.in_hand = 0;
            }
            inner.make_room(py, &mut effects);
            entries
        };
        self.settle(py, effects)?;
        let mut messages = Vec::with_capacity(entries.len());
        for Entry { message, ask, .. } in entries {
            if let Some(ask) = ask {
                self.disappoint(py, &ask)?;
            }
            messages.push(message);
        }
        Ok(messages)
    }

    /// Whether somebody waits for an answer to a message that the ring kernel has taken.
    pub(super) fn expects_answers(&self) -> bool {
        self.unanswered.load(Relaxed) > 0
    }

    /// The ask of the message that has this id.
    fn ask_of(&self, id: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        let py = id.py();
        let candidates: Vec<(Py<PyAny>, Py<PyAny>)> = {
            let inner = self.lock();
            let asked = |ask: &Py<PyAny>| {
                // SAFETY: asks are waiters of this mailbox, whose lock is held.
                let asked = unsafe { waiter::state(ask) }.asked.as_ref()?.clone_ref(py);
                Some((ask.clone_ref(py), asked))
            };
            inner.asks_taken.iter().filter_map(asked).collect()
        };
        for (ask, asked) in candidates {
            let asked = asked.bind(py).getattr_opt(intern!(py, "message_id"))?;
            if asked.is_some_and(|asked| asked.is(id) || asked.eq(id).unwrap_or(false)) {
                return Ok(Some(ask));
            }
        }
        Ok(None)
    }

    /// Gives an output of the ring kernel to the asker that it answers. Gives it back if it answers nobody's.
    pub(super) fn answer(
        &self,
        py: Python<'_>,
        message: Py<PyAny>,
        effects: &mut Effects,
    ) -> PyResult<Option<Py<PyAny>>> {
        let correlation = message.bind(py).getattr_opt(intern!(py, "correlation_id"))?;
        let ask = match correlation.filter(|id| !id.is_none()) {
            // Without a correlation the oldest is meant.
            None => self.lock().asks_taken.front().map(|ask| ask.clone_ref(py)),
            Some(id) => self.ask_of(&id)?,
        };
        let Some(ask) = ask else {
            return Ok(Some(message));
        };
        let mut inner = self.lock();
        let Some(at) = inner.asks_taken.iter().position(|other| waiter::same(other, &ask)) else {
            return Ok(Some(message));
        };
        inner.asks_taken.remove(at);
        self.unanswered.store(inner.asks_taken.len(), Relaxed);
        inner.enqueued += 1;
        inner.dequeued += 1;
        // SAFETY: asks are waiters of this mailbox, whose lock is held.
        let state = unsafe { waiter::state(&ask) };
        if matches!(state.status, Status::Expecting | Status::Parked) {
            state.value = Some(message);
            effects.receiver = state.finish(&ask, Status::Delivered, py);
        } else {
            // Its asker has given up.
            inner.count_dropped(1);
            drop(inner);
            drop(message);
        }
        Ok(None)
    }
}

/// What a look at the mailbox gives a coroutine.
enum Step {
    Value(Py<PyAny>),
    /// It has to be laid down.
    Park,
    /// It lies already.
    Wait,
    Failed(Failed),
}

/// Why there is no message.
enum Failed {
    Again,
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
    fn fresh() -> Self {
        Inner {
            kernel: String::new(),
            capacity: 4096,
            backpressure: Backpressure::Block,
            after_time: AfterTime::RaiseFull,
            queue: Levels::new(Order::Bands),
            getters: VecDeque::new(),
            putters: VecDeque::new(),
            asks_sent: VecDeque::new(),
            asks_taken: VecDeque::new(),
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
    fn first_look(&mut self, py: Python<'_>, state: &mut State, effects: &mut Effects) -> Step {
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
    fn take(&mut self, py: Python<'_>, effects: &mut Effects) -> Option<Py<PyAny>> {
        let entry = self.queue.pop()?;
        self.dequeued += 1;
        self.now_in_hand(py, &entry, effects);
        if let Some(ask) = entry.ask {
            effects.taken = Some((ask, self.output.as_ref().map(|output| output.clone_ref(py))));
        }
        self.make_room(py, effects);
        Some(entry.message)
    }

    fn now_in_hand(&mut self, py: Python<'_>, entry: &Entry, effects: &mut Effects) {
        self.in_hand = entry.since;
        if self.output.is_some()
            && let Some(old) = self.current.replace(entry.message.clone_ref(py))
        {
            effects.old = Some(old);
        }
    }

    /// Lets those who wait for room in, as far as there is some.
    fn make_room(&mut self, py: Python<'_>, effects: &mut Effects) {
        while self.queue.len() < self.capacity
            && let Some(putter) = self.putters.pop_front()
        {
            // SAFETY: putters are waiters of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(&putter) };
            if state.status == Status::Parked {
                self.admit(py, state);
                effects.others.extend(state.finish(&putter, Status::Delivered, py));
            }
        }
    }

    /// Lets the message of a putter in.
    fn admit(&mut self, py: Python<'_>, state: &mut State) -> Step {
        if let Some(message) = state.value.take() {
            let since = if self.counters.is_some() { now() } else { 0 };
            self.push(Entry { message, level: state.level, since, ask: state.ask.take() });
        }
        if state.status == Status::Fresh {
            state.status = Status::Done;
        }
        Step::Value(pyo3::types::PyBool::new(py, true).to_owned().into_any().unbind())
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.queue.push_back(entry.level, entry);
        self.enqueued += 1;
        self.peak = self.peak.max(self.queue.len());
    }

    /// The next coroutine that sleeps here for a message.
    fn next_getter(&mut self) -> Option<Py<PyAny>> {
        while let Some(getter) = self.getters.pop_front() {
            // SAFETY: getters are waiters of this mailbox, whose lock is held.
            if unsafe { waiter::state(&getter) }.status == Status::Parked {
                return Some(getter);
            }
        }
        None
    }

    /// Puts a message straight into a sleeping coroutine.
    fn deliver(&mut self, py: Python<'_>, getter: &Py<PyAny>, entry: Entry, effects: &mut Effects) {
        self.enqueued += 1;
        self.dequeued += 1;
        self.now_in_hand(py, &entry, effects);
        if let Some(ask) = entry.ask {
            effects.taken = Some((ask, self.output.as_ref().map(|output| output.clone_ref(py))));
        }
        // SAFETY: getters are waiters of this mailbox, whose lock is held.
        let state = unsafe { waiter::state(getter) };
        state.value = Some(entry.message);
        state.level = entry.level;
        state.since = entry.since;
        effects.receiver = state.finish(getter, Status::Delivered, py);
    }

    /// A message that was delivered and not taken: to whoever waits next, or to the front of the queue, room or not.
    fn put_back(&mut self, py: Python<'_>, state: &mut State, effects: &mut Effects) {
        let Some(message) = state.value.take() else { return };
        self.enqueued -= 1;
        self.dequeued -= 1;
        self.in_hand = 0;
        effects.old = self.current.take();
        let entry = Entry { message, level: state.level, since: state.since, ask: None };
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

    fn lay_down(&mut self, waiter: Py<PyAny>, state: &mut State) {
        state.status = Status::Parked;
        match state.kind {
            Kind::Get => self.getters.push_back(waiter),
            Kind::Put => self.putters.push_back(waiter),
            // It is known to the output since it was asked.
            Kind::Ask | Kind::Ready => {}
        }
    }

    /// Takes a waiter off the lists, so that nothing comes to it any more.
    fn forget(&mut self, waiter: &Py<PyAny>, kind: Kind) {
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

    fn failed(&self, py: Python<'_>, status: Status, state: &mut State) -> Step {
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
    fn send_getters_away(&mut self, py: Python<'_>, effects: &mut Effects) {
        while let Some(getter) = self.next_getter() {
            // SAFETY: getters are waiters of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(&getter) };
            let status = if state.timeout.is_some() { Status::TimedOut } else { Status::Ended };
            effects.others.extend(state.finish(&getter, status, py));
        }
    }
}

#[pymethods]
impl Mailbox {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        Mailbox { inner: Mutex::new(Inner::fresh()), order: OnceLock::new(), unanswered: AtomicUsize::new(0) }
    }

    /// Says what kind of queue it is. The constructors of the deriving classes call this.
    #[pyo3(signature = (kernel_id, capacity, order, backpressure, after_time))]
    fn _set_up(
        &self,
        kernel_id: String,
        capacity: usize,
        order: &str,
        backpressure: &str,
        after_time: &str,
    ) -> PyResult<()> {
        let (order, backpressure) = (Order::parse(order)?, Backpressure::parse(backpressure)?);
        let after_time = AfterTime::parse(after_time)?;
        if capacity == 0 {
            return Err(PyValueError::new_err("a queue has room for one message at least"));
        }
        // Set up twice it keeps its order: a queue may be given another capacity, not another kind.
        let order = *self.order.get_or_init(|| order);
        let mut inner = self.lock();
        let fresh = Inner {
            kernel: kernel_id,
            capacity,
            backpressure,
            after_time,
            queue: Levels::new(order),
            ..Inner::fresh()
        };
        let old = std::mem::replace(&mut *inner, fresh);
        drop(inner);
        drop(old);
        Ok(())
    }

    /// Makes it the input of a ring kernel whose answers go to `output`.
    fn _serve(&self, output: Py<Mailbox>) {
        let old = self.lock().output.replace(output);
        drop(old);
    }

    /// Counts what is handled, and how long it takes, from now on.
    fn _count(&self, counters: Option<Py<Counters>>) {
        let mut inner = self.lock();
        let old = std::mem::replace(&mut inner.counters, counters);
        drop(inner);
        drop(old);
    }

    /// Keeps messages, and gives out none, until it is told otherwise.
    fn _pause(&self, py: Python<'_>, paused: bool) -> PyResult<()> {
        let mut effects = Effects::default();
        {
            let mut inner = self.lock();
            inner.paused = paused;
            while !inner.paused && inner.queue.len() > 0 {
                let Some(getter) = inner.next_getter() else { break };
                let Some(entry) = inner.queue.pop() else { break };
                inner.enqueued -= 1;
                let mut one = Effects::default();
                inner.deliver(py, &getter, entry, &mut one);
                inner.make_room(py, &mut one);
                effects.others.extend(one.receiver);
                effects.others.extend(one.others);
                if effects.taken.is_none() {
                    effects.taken = one.taken;
                } else if let Some((ask, Some(output))) = one.taken {
                    output.get().ask_was_taken(ask);
                }
            }
        }
        self.settle(py, effects)
    }

    /// The ring kernel is to end: whoever finds no message is sent away.
    fn _end(&self, py: Python<'_>) -> PyResult<()> {
        let mut effects = Effects::default();
        {
            let mut inner = self.lock();
            inner.ending = true;
            inner.send_getters_away(py, &mut effects);
        }
        self.settle(py, effects)
    }

    /// Whoever waits here, or comes to wait, gets `KernelError` with this cause, once there are no more messages.
    fn _fail(&self, py: Python<'_>, cause: Py<PyAny>) -> PyResult<()> {
        let mut effects = Effects::default();
        let old = {
            let mut inner = self.lock();
            let old = inner.failure.replace(cause);
            inner.break_all(py, &mut effects);
            old
        };
        drop(old);
        self.settle(py, effects)
    }

    /// Those whose messages the ring kernel had taken get `KernelError` with this cause: it failed, and goes on with the next.
    fn _fail_taken(&self, py: Python<'_>, cause: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut effects = Effects::default();
        {
            let mut inner = self.lock();
            self.unanswered.store(0, Relaxed);
            for ask in std::mem::take(&mut inner.asks_taken) {
                // SAFETY: asks are waiters of this mailbox, whose lock is held.
                let state = unsafe { waiter::state(&ask) };
                if matches!(state.status, Status::Expecting | Status::Parked) {
                    state.value = Some(cause.clone().unbind());
                    effects.others.extend(state.finish(&ask, Status::Broken, py));
                }
            }
        }
        self.settle(py, effects)
    }

    /// The message that the ring kernel was at, if it was at one, in a tuple: it will not be handled.
    fn _lose(&self) -> Option<(Py<PyAny>,)> {
        let mut inner = self.lock();
        let current = inner.current.take()?;
        inner.in_hand = 0;
        inner.count_dropped(1);
        Some((current,))
    }

    /// Takes out all that was not handled: as a list, in order. Their askers are told.
    fn _drain(&self, py: Python<'_>) -> PyResult<Vec<Py<PyAny>>> {
        self.drained(py, true)
    }

    /// Ends every wait here, as the ring kernel is gone.
    fn _close(&self, py: Python<'_>) -> PyResult<()> {
        let mut effects = Effects::default();
        {
            let mut inner = self.lock();
            inner.break_all(py, &mut effects);
        }
        self.settle(py, effects)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Whoever holds the lock runs no Python, so the collector cannot come upon it held but by chance of threads; then it sees less,
        // and keeps more.
        let Ok(inner) = self.inner.try_lock() else { return Ok(()) };
        for entry in inner.queue.iter() {
            visit.call(&entry.message)?;
            if let Some(ask) = &entry.ask {
                visit.call(ask)?;
            }
        }
        let lists = [&inner.getters, &inner.putters, &inner.asks_sent, &inner.asks_taken];
        for waiter in lists.into_iter().flatten() {
            visit.call(waiter)?;
        }
        visit.call(&inner.current)?;
        visit.call(&inner.failure)?;
        visit.call(&inner.counters)?;
        visit.call(&inner.output)?;
        if let Some(timer) = &inner.timer {
            timer.traverse(&visit)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        let old = std::mem::replace(&mut *self.lock(), Inner::fresh());
        drop(old);
    }
}

impl Inner {
    /// Ends every wait: the ring kernel is gone.
    fn break_all(&mut self, py: Python<'_>, effects: &mut Effects) {
        let lists = [&mut self.getters, &mut self.putters, &mut self.asks_sent, &mut self.asks_taken];
        for waiter in lists.into_iter().flat_map(std::mem::take) {
            // SAFETY: all are waiters of this mailbox, whose lock is held.
            let state = unsafe { waiter::state(&waiter) };
            if matches!(state.status, Status::Expecting | Status::Parked) {
                effects.others.extend(state.finish(&waiter, Status::Broken, py));
            }
        }
    }
}

/// The level of a message at a mailbox of this order. What has no priority is normal.
///
/// # Errors
///
/// What reading the attribute raises, and `ValueError` for a priority that is not in 0 to 255.
pub(super) fn level(order: Order, message: &Bound<'_, PyAny>) -> PyResult<u8> {
    const NORMAL: u8 = 128;
    if order == Order::Fifo || is_builtin(message) {
        return Ok(order.level(NORMAL));
    }
    match message.getattr_opt(intern!(message.py(), "priority"))? {
        None => Ok(order.level(NORMAL)),
        Some(priority) => match priority.extract::<u8>() {
            Ok(priority) => Ok(order.level(priority)),
            Err(_) => Err(PyValueError::new_err(format!("Priority must be 0-255, got {}", priority.repr()?))),
        },
    }
}

/// Whether it is of a type that was not made in Python, such as numbers and texts: none of these has a priority.
fn is_builtin(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object has a live type.
    let flags = unsafe { ffi::PyType_GetFlags(ffi::Py_TYPE(object.as_ptr())) };
    flags & ffi::Py_TPFLAGS_HEAPTYPE == 0
}
