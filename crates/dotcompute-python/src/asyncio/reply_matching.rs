//! Matching replies to asks, at the output mailbox of a ring kernel.
//!
//! An output tracks each ask: in `asks_sent` from before its message is sent, and in `asks_taken` once the ring kernel has taken the
//! message. A message that the ring kernel sends is the reply to the ask with its correlation id, or to the oldest ask taken.
//!
//! If a ring kernel takes its next message without a reply, abandoned asks are forgotten. A ring kernel that takes several messages and
//! replies afterwards, in order, is exempt.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::intern;
use pyo3::prelude::*;

use super::mailbox::{Effects, Mailbox, MailboxState};
use super::task_resume;
use super::waiter::{self, Status};

/// Limit of asks tracked per output, abandoned ones included: a ring kernel may never reply.
const MAX_TRACKED_ASKS: usize = 4096;

impl MailboxState {
    /// Removes the oldest ask taken, if its caller has abandoned it.
    fn pop_oldest_abandoned(&mut self) -> Option<Py<PyAny>> {
        let oldest = self.asks_taken.front()?;
        // SAFETY: `asks_taken` holds waiters of this mailbox, whose lock is held (`&mut self`).
        let status = unsafe { waiter::state(oldest) }.status;
        (!matches!(status, Status::AwaitingReply | Status::Parked))
            .then(|| self.asks_taken.pop_front())
            .flatten()
    }
}

impl Mailbox {
    /// Ends an ask whose message was dropped or rejected.
    pub(super) fn fail_ask(&self, py: Python<'_>, ask: &Py<PyAny>) -> PyResult<()> {
        let Some(output) = self.lock().output.as_ref().map(|output| output.clone_ref(py)) else {
            return Ok(());
        };
        let task = {
            let mut state = output.get().lock();
            state.asks_sent.retain(|other| !waiter::same(other, ask));
            // SAFETY: an ask is a waiter of the output, whose lock is held as `state`.
            let ask_state = unsafe { waiter::state(ask) };
            matches!(ask_state.status, Status::AwaitingReply | Status::Parked)
                .then(|| ask_state.finish(ask, Status::Ended, py))
                .flatten()
        };
        task.map_or(Ok(()), |task| task_resume::resume_via_loop(py, task))
    }

    /// Records that the ring kernel took the message of an ask, so that its reply may come.
    pub(super) fn mark_ask_taken(&self, ask: Py<PyAny>) {
        let mut state = self.lock();
        if let Some(at) = state.asks_sent.iter().position(|other| waiter::same(other, &ask)) {
            state.asks_sent.remove(at);
        }
        state.asks_taken.push_back(ask);
        let forgotten =
            (state.asks_taken.len() > MAX_TRACKED_ASKS).then(|| state.pop_oldest_abandoned()).flatten();
        self.pending_replies.store(state.asks_taken.len(), Relaxed);
        drop(state);
        drop(forgotten);
    }

    /// Forgets abandoned asks when the ring kernel takes its next message.
    ///
    /// A ring kernel that takes one message at a time replies to none of the earlier ones any more. Its next reply must not be matched to
    /// an abandoned ask.
    pub(super) fn forget_abandoned_asks(&self) {
        let mut state = self.lock();
        let is_waiting = |ask: &Py<PyAny>| {
            // SAFETY: `asks_taken` holds waiters of this mailbox, whose lock is held as `state`.
            matches!(unsafe { waiter::state(ask) }.status, Status::AwaitingReply | Status::Parked)
        };
        state.takes_batches = state.takes_batches || state.asks_taken.iter().any(is_waiting);
        let forgotten =
            if state.takes_batches { Default::default() } else { std::mem::take(&mut state.asks_taken) };
        self.pending_replies.store(state.asks_taken.len(), Relaxed);
        drop(state);
        drop(forgotten);
    }

    /// Records that the delivered message of an ask returned to the queue: the next output does not reply to it.
    pub(super) fn mark_ask_returned(&self, ask: Py<PyAny>) {
        let mut state = self.lock();
        if let Some(at) = state.asks_taken.iter().position(|other| waiter::same(other, &ask)) {
            state.asks_taken.remove(at);
            state.asks_sent.push_back(ask);
        }
        self.pending_replies.store(state.asks_taken.len(), Relaxed);
    }

    /// Returns whether a message that the ring kernel has taken belongs to an ask without a reply.
    pub(super) fn expects_replies(&self) -> bool {
        self.pending_replies.load(Relaxed) > 0
    }

    /// Returns the ask whose message has this id.
    fn find_ask(&self, id: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        let py = id.py();
        let candidates: Vec<(Py<PyAny>, Py<PyAny>)> = {
            let state = self.lock();
            let with_message = |ask: &Py<PyAny>| {
                // SAFETY: `asks_taken` holds waiters of this mailbox, whose lock is held as `state`.
                let message = unsafe { waiter::state(ask) }.asked_message.as_ref()?.clone_ref(py);
                Some((ask.clone_ref(py), message))
            };
            state.asks_taken.iter().filter_map(with_message).collect()
        };
        // Comparing ids runs Python code, so the lock is released here.
        for (ask, message) in candidates {
            let message_id = message.bind(py).getattr_opt(intern!(py, "message_id"))?;
            if let Some(message_id) = message_id
                && (message_id.is(id) || message_id.eq(id)?)
            {
                return Ok(Some(ask));
            }
        }
        Ok(None)
    }

    /// Delivers an output of the ring kernel to the ask that it replies to. Returns the output if it replies to none.
    pub(super) fn match_reply(
        &self,
        py: Python<'_>,
        message: Py<PyAny>,
        effects: &mut Effects,
    ) -> PyResult<Option<Py<PyAny>>> {
        let correlation = message.bind(py).getattr_opt(intern!(py, "correlation_id"))?;
        let ask = match correlation.filter(|id| !id.is_none()) {
            // Without a correlation id, the output replies to the oldest ask.
            None => self.lock().asks_taken.front().map(|ask| ask.clone_ref(py)),
            Some(id) => self.find_ask(&id)?,
        };
        let Some(ask) = ask else {
            return Ok(Some(message));
        };
        let mut state = self.lock();
        let Some(at) = state.asks_taken.iter().position(|other| waiter::same(other, &ask)) else {
            return Ok(Some(message));
        };
        state.asks_taken.remove(at);
        self.pending_replies.store(state.asks_taken.len(), Relaxed);
        state.enqueued += 1;
        state.dequeued += 1;
        // SAFETY: `ask` is a waiter of this mailbox, whose lock is held as `state`.
        let ask_state = unsafe { waiter::state(&ask) };
        if matches!(ask_state.status, Status::AwaitingReply | Status::Parked) {
            ask_state.value = Some(message);
            effects.receiver = ask_state.finish(&ask, Status::Delivered, py);
        } else {
            // The caller has abandoned the ask.
            state.count_dropped(1);
            drop(state);
            drop(message);
        }
        Ok(None)
    }
}
