//! Transitions of a mailbox, under its lock. None of them runs Python code.

use std::collections::VecDeque;

use pyo3::prelude::*;

use super::counters::now_ns;
use super::latencies::Sampler;
use super::mailbox::{Backpressure, Effects, Entry, MailboxState, ReceivedAsk, TimeoutBehavior, UNLIMITED};
use super::priority_queue::{Order, PriorityQueue};
use super::waiter::{self, Kind, Status, WaiterState};

/// The result of polling a mailbox for a coroutine.
pub(super) enum Step {
    Value(Py<PyAny>),
    /// The first step of an ask, of a send to an output, or of a message for connected ring kernels, which runs Python code.
    Begin,
    /// The coroutine must be parked.
    Park,
    /// The coroutine is parked already.
    AlreadyParked,
    Failed(WaitError),
}

/// Why a wait has no value.
pub(super) enum WaitError {
    AlreadyAwaited,
    /// There is no free slot, and the mailbox or the caller does not wait for one.
    Full,
    /// Another task awaits the same waiter.
    AwaitedByTwoTasks,
    TimedOut(Kind, f64),
    /// The ring kernel has failed or ended, with this exception.
    KernelFailed(Py<PyAny>, Kind),
    Cancelled(Option<Py<PyAny>>),
    /// There will be no reply.
    NoReply,
    /// The ring kernel terminates. Its wait for a message had this timeout, or is a step of `async for`.
    Stopped {
        timeout: Option<f64>,
        iterates: bool,
    },
    Raised(Py<PyAny>),
}

impl MailboxState {
    pub(super) fn unconfigured() -> Self {
        MailboxState {
            kernel: String::new(),
            capacity: 4096,
            backpressure: Backpressure::Block,
            timeout_behavior: TimeoutBehavior::RaiseFull,
            queue: PriorityQueue::new(Order::Bands),
            getters: VecDeque::new(),
            putters: VecDeque::new(),
            asks_sent: VecDeque::new(),
            asks_open: VecDeque::new(),
            has_ended_asks: false,
            has_refused: false,
            run: None,
            paused: false,
            ending: false,
            failure: None,
            current_since: 0,
            current_received: 0,
            current_weight: 0,
            sampler: Sampler::default(),
            current: None,
            counters: None,
            ask_counters: None,
            output: None,
            dropped_messages: None,
            event_loop: None,
            owner: None,
            router: None,
            timer: None,
            enqueued: 0,
            dequeued: 0,
            received: 0,
            dropped: 0,
            never_awaited: 0,
            peak: 0,
        }
    }

    /// Returns the capacity as users see it: 0 for no limit.
    pub(super) fn maxsize(&self) -> usize {
        if self.capacity == UNLIMITED { 0 } else { self.capacity }
    }

    /// Polls for a message, for a coroutine that is not parked.
    pub(super) fn poll_first(
        &mut self,
        py: Python<'_>,
        waiter: &mut WaiterState,
        effects: &mut Effects,
    ) -> Step {
        self.finish_message(effects);
        if !self.paused
            && let Some(message) = self.take(py, effects)
        {
            waiter.status = Status::Done;
            return Step::Value(message);
        }
        if let Some(cause) = &self.failure {
            waiter.status = Status::Done;
            return Step::Failed(WaitError::KernelFailed(cause.clone_ref(py), waiter.kind));
        }
        if waiter.timeout.is_some_and(|timeout| timeout <= 0.0) && !self.ending {
            waiter.status = Status::Done;
            return Step::Failed(WaitError::TimedOut(Kind::Get, waiter.timeout.unwrap_or_default()));
        }
        Step::Park
    }

    /// Takes the next message and admits a waiting putter.
    pub(super) fn take(&mut self, py: Python<'_>, effects: &mut Effects) -> Option<Py<PyAny>> {
        let entry = self.queue.pop()?;
        self.dequeued += 1;
        self.start_message(py, &entry, effects);
        self.count_received(py, entry.ask, effects);
        self.admit_putters(py, effects);
        Some(entry.message)
    }

    /// Records that a coroutine received a message, which belongs to this ask.
    pub(super) fn count_received(&mut self, py: Python<'_>, ask: Option<Py<PyAny>>, effects: &mut Effects) {
        self.received += 1;
        if self.current_weight != 0 {
            self.current_received = now_ns();
        }
        if let Some(ask) = ask {
            let output = self.output.as_ref().map(|output| output.clone_ref(py));
            effects.received = Some(ReceivedAsk { ask, output, position: self.received });
        }
    }

    fn start_message(&mut self, py: Python<'_>, entry: &Entry, effects: &mut Effects) {
        self.current_since = entry.accepted_at;
        self.current_weight = if entry.accepted_at == 0 { 0 } else { self.sampler.weight_of_next() };
        if self.output.is_none() {
            return;
        }
        if let Some(previous) = self.current.replace(entry.message.clone_ref(py)) {
            effects.finished = Some(previous);
        }
    }

    /// Admits the messages of waiting putters, as far as there are free slots.
    pub(super) fn admit_putters(&mut self, py: Python<'_>, effects: &mut Effects) {
        while self.queue.len() < self.capacity
            && let Some(putter) = self.putters.pop_front()
        {
            // SAFETY: `putters` holds waiters of this mailbox, whose lock is held (`&mut self`).
            let waiter = unsafe { waiter::state(&putter) };
            if waiter.status == Status::Parked {
                self.admit_putter(waiter);
                effects.others.extend(waiter.finish(&putter, Status::Delivered, py));
            }
        }
    }

    fn admit_putter(&mut self, putter: &mut WaiterState) {
        if let Some(message) = putter.value.take() {
            let accepted_at = if self.counters.is_some() { now_ns() } else { 0 };
            self.push(Entry { message, level: putter.level, accepted_at, ask: putter.ask.take() });
        }
    }

    /// Accepts a message, or returns it if the mailbox is full and does not drop the oldest.
    pub(super) fn accept(
        &mut self,
        py: Python<'_>,
        mut entry: Entry,
        effects: &mut Effects,
    ) -> Result<(), Entry> {
        if self.counters.is_some() && entry.accepted_at == 0 {
            entry.accepted_at = now_ns();
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
            effects.rare().dropped = self.queue.pop_lowest();
            self.count_dropped(1);
        }
        self.push(entry);
        Ok(())
    }

    /// Polls for a free slot, for a coroutine that is not parked.
    pub(super) fn poll_put(
        &mut self,
        py: Python<'_>,
        waiter: &mut WaiterState,
        effects: &mut Effects,
    ) -> Step {
        if let Some(cause) = &self.failure {
            waiter.status = Status::Done;
            return Step::Failed(WaitError::KernelFailed(cause.clone_ref(py), waiter.kind));
        }
        if self.router.is_some() {
            return Step::Begin;
        }
        let Some(message) = waiter.value.take() else { return Step::Park };
        let entry = Entry { message, level: waiter.level, accepted_at: 0, ask: waiter.ask.take() };
        match self.accept(py, entry, effects) {
            Ok(()) => {
                waiter.status = Status::Done;
                Step::Value(pyo3::types::PyBool::new(py, true).to_owned().into_any().unbind())
            }
            Err(_) if self.refuses(waiter.timeout) => {
                waiter.status = Status::Done;
                Step::Failed(WaitError::Full)
            }
            Err(entry) => {
                (waiter.value, waiter.ask) = (Some(entry.message), entry.ask);
                Step::Park
            }
        }
    }

    /// Returns whether a message for which there is no free slot is refused at once.
    pub(super) fn refuses(&self, timeout: Option<f64>) -> bool {
        self.backpressure == Backpressure::Reject || timeout.is_some_and(|timeout| timeout <= 0.0)
    }

    fn push(&mut self, entry: Entry) {
        self.queue.push_back(entry.level, entry);
        self.enqueued += 1;
        self.peak = self.peak.max(self.queue.len());
    }

    /// Removes and returns the first parked getter.
    pub(super) fn next_getter(&mut self) -> Option<Py<PyAny>> {
        while let Some(getter) = self.getters.pop_front() {
            // SAFETY: `getters` holds waiters of this mailbox, whose lock is held (`&mut self`).
            if unsafe { waiter::state(&getter) }.status == Status::Parked {
                return Some(getter);
            }
        }
        None
    }

    /// Delivers a message to a parked getter, bypassing the queue.
    pub(super) fn deliver(
        &mut self,
        py: Python<'_>,
        getter: &Py<PyAny>,
        entry: Entry,
        effects: &mut Effects,
    ) {
        self.enqueued += 1;
        self.dequeued += 1;
        self.start_message(py, &entry, effects);
        // SAFETY: `getter` is a waiter of this mailbox, whose lock is held (`&mut self`).
        let waiter = unsafe { waiter::state(getter) };
        waiter.ask = entry.ask;
        waiter.value = Some(entry.message);
        waiter.level = entry.level;
        waiter.accepted_at = entry.accepted_at;
        effects.receiver = waiter.finish(getter, Status::Delivered, py);
    }

    /// Delivers a queued message to a parked getter, which resumes through its loop. Returns `false` without a message or a getter.
    pub(super) fn deliver_next(&mut self, py: Python<'_>, effects: &mut Effects) -> bool {
        if self.paused || self.queue.len() == 0 {
            return false;
        }
        let Some(getter) = self.next_getter() else { return false };
        let Some(entry) = self.queue.pop() else { return false };
        self.enqueued -= 1;
        self.deliver(py, &getter, entry, effects);
        effects.others.extend(effects.receiver.take());
        self.admit_putters(py, effects);
        true
    }

    /// Returns a message that was delivered and not taken: to the next getter, or to the front of the queue, even if that is full.
    pub(super) fn return_message(&mut self, py: Python<'_>, waiter: &mut WaiterState, effects: &mut Effects) {
        let Some(message) = waiter.value.take() else { return };
        self.enqueued -= 1;
        self.dequeued -= 1;
        self.current_since = 0;
        effects.finished = self.current.take();
        let entry =
            Entry { message, level: waiter.level, accepted_at: waiter.accepted_at, ask: waiter.ask.take() };
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

    /// Finishes the current message: the ring kernel asks for the next one.
    fn finish_message(&mut self, effects: &mut Effects) {
        effects.finished = self.current.take();
        let since = std::mem::take(&mut self.current_since);
        if since != 0
            && let Some(counters) = &self.counters
        {
            let now = now_ns();
            let counters = counters.get();
            counters.count_handled(now.saturating_sub(since));
            if self.current_weight != 0 {
                counters.latencies.record_message(since, self.current_received, now, self.current_weight);
            }
        }
    }

    /// Takes the next message for a caller that does not wait. Returns `None` while paused.
    pub(super) fn take_unless_paused(&mut self, py: Python<'_>, effects: &mut Effects) -> Option<Py<PyAny>> {
        if self.paused { None } else { self.take(py, effects) }
    }

    pub(super) fn enqueue_waiter(&mut self, waiter: Py<PyAny>, state: &mut WaiterState) {
        state.status = Status::Parked;
        match state.kind {
            Kind::Get => self.getters.push_back(waiter),
            Kind::Put => self.putters.push_back(waiter),
            // `ask` has registered it in `asks_sent` of the output.
            Kind::Send | Kind::Ask | Kind::Ready => {}
        }
    }

    /// Removes a waiter from its wait list, so that nothing is delivered to it.
    pub(super) fn remove_waiter(&mut self, waiter: &Py<PyAny>, kind: Kind) {
        let list = match kind {
            Kind::Get => &mut self.getters,
            Kind::Put => &mut self.putters,
            // An abandoned ask stays, so that its reply is not taken for that of another ask.
            Kind::Send | Kind::Ask | Kind::Ready => return,
        };
        if let Some(at) = list.iter().position(|other| waiter::same(other, waiter)) {
            list.remove(at);
        }
    }

    pub(super) fn count_dropped(&mut self, messages: u64) {
        self.dropped += messages;
        if let Some(counters) = &self.counters {
            counters.get().count_dropped(messages);
        }
    }

    /// Counts a call whose awaitable was never awaited, in the telemetry of the ring kernel.
    pub(super) fn count_never_awaited(&self) {
        if let Some(counters) = &self.counters {
            counters.get().count_never_awaited();
        }
    }

    /// The error of a wait that ended without a value.
    pub(super) fn wait_error(&self, py: Python<'_>, status: Status, waiter: &mut WaiterState) -> Step {
        let ended = match waiter.kind {
            Kind::Get => WaitError::Stopped { timeout: waiter.timeout, iterates: waiter.iterates },
            _ => WaitError::NoReply,
        };
        Step::Failed(match status {
            Status::TimedOut => WaitError::TimedOut(waiter.kind, waiter.timeout.unwrap_or_default()),
            Status::Cancelled => WaitError::Cancelled(waiter.value.take()),
            Status::Raises => waiter.value.take().map_or(ended, WaitError::Raised),
            Status::KernelFailed => match &self.failure {
                Some(cause) => WaitError::KernelFailed(cause.clone_ref(py), waiter.kind),
                None => {
                    waiter.value.take().map_or(ended, |cause| WaitError::KernelFailed(cause, waiter.kind))
                }
            },
            _ => ended,
        })
    }

    /// Ends every wait for a message because the ring kernel terminates.
    pub(super) fn end_getters(&mut self, py: Python<'_>, effects: &mut Effects) {
        while let Some(getter) = self.next_getter() {
            // SAFETY: `getter` is a waiter of this mailbox, whose lock is held (`&mut self`).
            let waiter = unsafe { waiter::state(&getter) };
            effects.others.extend(waiter.finish(&getter, Status::Ended, py));
        }
    }

    /// Ends every wait because the ring kernel has failed.
    pub(super) fn fail_all_waiters(&mut self, py: Python<'_>, effects: &mut Effects) {
        let lists = [&mut self.getters, &mut self.putters, &mut self.asks_sent, &mut self.asks_open];
        for waiter in lists.into_iter().flat_map(std::mem::take) {
            // SAFETY: the lists hold waiters of this mailbox, whose lock is held (`&mut self`).
            let state = unsafe { waiter::state(&waiter) };
            if matches!(state.status, Status::AwaitingReply | Status::Parked) {
                effects.others.extend(state.finish(&waiter, Status::KernelFailed, py));
            }
            effects.rare().removed.push(waiter);
        }
    }
}
