//! Answers that find their askers.
//!
//! An ask is known to the ring kernel's output twice over: as sent, from before its message is, and as taken, once the ring kernel has the
//! message. What the ring kernel sends then goes to the ask that it names by its correlation, or to the oldest that was taken. Of a ring kernel
//! that takes its next message without an answer, an ask that was given up is forgotten; unless it is one that takes several messages and
//! answers them then, in order.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::intern;
use pyo3::prelude::*;

use super::mailbox_state::{Effects, Inner};
use super::mailbox::Mailbox;
use super::task_resume;
use super::waiter::{self, Status};

/// How many asks are remembered, among them those whose askers have given up: a ring kernel may never answer.
const LONGEST_MEMORY: usize = 4096;

impl Inner {
    /// Takes off the oldest ask that was taken, if its asker has given up.
    fn forget_given_up(&mut self) -> Option<Py<PyAny>> {
        let oldest = self.asks_taken.front()?;
        // SAFETY: asks are waiters of this mailbox, whose lock is held.
        let status = unsafe { waiter::state(oldest) }.status;
        (!matches!(status, Status::Expecting | Status::Parked)).then(|| self.asks_taken.pop_front()).flatten()
    }
}

impl Mailbox {
    /// Tells an asker that its message was dropped.
    pub(super) fn disappoint(&self, py: Python<'_>, ask: &Py<PyAny>) -> PyResult<()> {
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
        sleeper.map_or(Ok(()), |sleeper| task_resume::give_later(py, sleeper))
    }

    /// An ask's message is in the ring kernel's hands: its answer may come.
    pub(super) fn ask_was_taken(&self, ask: Py<PyAny>) {
        let mut inner = self.lock();
        if let Some(at) = inner.asks_sent.iter().position(|other| waiter::same(other, &ask)) {
            inner.asks_sent.remove(at);
        }
        inner.asks_taken.push_back(ask);
        let forgotten = (inner.asks_taken.len() > LONGEST_MEMORY).then(|| inner.forget_given_up()).flatten();
        self.unanswered.store(inner.asks_taken.len(), Relaxed);
        drop(inner);
        drop(forgotten);
    }

    /// The ring kernel takes its next message. If it takes one at a time, it will not answer those before any more: asks that were given up
    /// are forgotten, so that the next answer is not taken for theirs.
    pub(super) fn pass_over_given_up(&self) {
        let mut inner = self.lock();
        let waits = |ask: &Py<PyAny>| {
            // SAFETY: asks are waiters of this mailbox, whose lock is held.
            matches!(unsafe { waiter::state(ask) }.status, Status::Expecting | Status::Parked)
        };
        inner.takes_batches = inner.takes_batches || inner.asks_taken.iter().any(waits);
        let forgotten =
            if inner.takes_batches { Default::default() } else { std::mem::take(&mut inner.asks_taken) };
        self.unanswered.store(inner.asks_taken.len(), Relaxed);
        drop(inner);
        drop(forgotten);
    }

    /// An ask's message was delivered and not taken after all: what the ring kernel sends now does not answer it.
    pub(super) fn ask_was_put_back(&self, ask: Py<PyAny>) {
        let mut inner = self.lock();
        if let Some(at) = inner.asks_taken.iter().position(|other| waiter::same(other, &ask)) {
            inner.asks_taken.remove(at);
            inner.asks_sent.push_back(ask);
        }
        self.unanswered.store(inner.asks_taken.len(), Relaxed);
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
            if let Some(asked) = asked
                && (asked.is(id) || asked.eq(id)?)
            {
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
