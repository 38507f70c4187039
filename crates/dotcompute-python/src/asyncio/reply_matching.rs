//! Matching replies to asks, at the output mailbox of a ring kernel.
//!
//! An output tracks each ask: in `asks_sent` from before its message is sent, and in `asks_open` from when the ring kernel has received the
//! message until it answers or skips it. An ask stays open if its caller gives up: the ring kernel may still answer it.
//!
//! A reply that names its ask, by message or by correlation id, completes that one. Another message that the ring kernel sends completes an
//! ask only if it cannot be the reply to another one: exactly one ask is open, and its message is the one that was received last. While a
//! caller waits and this is not so, the send is an error, and all open asks end with it.

use std::sync::atomic::Ordering::Relaxed;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::counters::now_ns;
use super::errors;
use super::lock::Guard;
use super::mailbox::{Effects, Mailbox, MailboxState};
use super::task_resume;
use super::waiter::{self, Status};

/// Limit of asks tracked per output, abandoned ones included: a ring kernel may never reply.
const MAX_TRACKED_ASKS: usize = 4096;

/// What a message of the ring kernel that names no ask is.
enum Meaning {
    Output,
    Reply(Py<PyAny>),
    Unclear,
}

/// Returns whether the caller of an ask waits.
///
/// # Safety
///
/// As for [`waiter::state`]. The caller must hold the lock of the output at which the ask waits.
unsafe fn is_waiting(ask: &Py<PyAny>) -> bool {
    // SAFETY: by the contract of this function.
    matches!(unsafe { waiter::state(ask) }.status, Status::AwaitingReply | Status::Parked)
}

impl MailboxState {
    /// Removes the oldest open ask, if its caller has abandoned it.
    fn pop_oldest_abandoned(&mut self) -> Option<Py<PyAny>> {
        let oldest = self.asks_open.front()?;
        // SAFETY: `asks_open` holds waiters of this mailbox, whose lock is held (`&mut self`).
        (!unsafe { is_waiting(oldest) }).then(|| self.asks_open.pop_front()).flatten()
    }

    /// Returns what a message that names no ask is, after the ring kernel has received `received` messages.
    fn meaning(&self, py: Python<'_>, received: u64) -> Meaning {
        let latest = self.asks_open.back().filter(|ask| {
            // SAFETY: `asks_open` holds waiters of this mailbox, whose lock is held (`&self` comes from the guard).
            unsafe { waiter::state(ask) }.position == received
        });
        // SAFETY: as above.
        let has_waiting = || self.asks_open.iter().rev().any(|ask| unsafe { is_waiting(ask) });
        match latest {
            Some(ask) if self.asks_open.len() == 1 || !has_waiting() => Meaning::Reply(ask.clone_ref(py)),
            None if !has_waiting() => Meaning::Output,
            _ => Meaning::Unclear,
        }
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

    /// Records that the ring kernel received the message of an ask, so that its reply may come.
    pub(super) fn open_ask(&self, ask: Py<PyAny>, position: u64) {
        let mut state = self.lock();
        if let Some(at) = state.asks_sent.iter().position(|other| waiter::same(other, &ask)) {
            state.asks_sent.remove(at);
        }
        // SAFETY: an ask is a waiter of this mailbox, whose lock is held as `state`.
        unsafe { waiter::state(&ask) }.position = position;
        state.asks_open.push_back(ask);
        let forgotten =
            (state.asks_open.len() > MAX_TRACKED_ASKS).then(|| state.pop_oldest_abandoned()).flatten();
        self.open_asks.store(state.asks_open.len(), Relaxed);
        drop(state);
        drop(forgotten);
    }

    /// Returns whether an ask is open.
    pub(super) fn expects_replies(&self) -> bool {
        self.open_asks.load(Relaxed) > 0
    }

    /// Returns the open asks with their messages: those whose callers wait first, otherwise in order.
    fn open_messages(&self, py: Python<'_>) -> Vec<(Py<PyAny>, Py<PyAny>)> {
        let state = self.lock();
        let of_waiting = |wanted: bool| {
            state.asks_open.iter().filter_map(move |ask| {
                // SAFETY: `asks_open` holds waiters of this mailbox, whose lock is held as `state`.
                let message = unsafe { waiter::state(ask) }.asked_message.as_ref()?;
                // SAFETY: as above.
                (unsafe { is_waiting(ask) } == wanted).then(|| (ask.clone_ref(py), message.clone_ref(py)))
            })
        };
        of_waiting(true).chain(of_waiting(false)).collect()
    }

    /// Returns the open ask whose message has this id.
    fn find_ask_by_id(&self, id: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        let py = id.py();
        // Comparing ids runs Python code, so the lock is not held here.
        for (ask, message) in self.open_messages(py) {
            let message_id = message.bind(py).getattr_opt(intern!(py, "message_id"))?;
            if let Some(message_id) = message_id
                && (message_id.is(id) || message_id.eq(id)?)
            {
                return Ok(Some(ask));
            }
        }
        Ok(None)
    }

    /// Returns the open ask with this message: the same object, or one with the same id.
    fn find_ask(&self, message: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        let py = message.py();
        if let Some((ask, _)) = self.open_messages(py).into_iter().find(|(_, asked)| asked.is(message)) {
            return Ok(Some(ask));
        }
        match message.getattr_opt(intern!(py, "message_id"))? {
            Some(id) if !id.is_none() && self.expects_replies() => self.find_ask_by_id(&id),
            _ => Ok(None),
        }
    }

    /// Delivers a message that the ring kernel sends to the ask that it replies to. Returns the message if it is an output.
    ///
    /// # Errors
    ///
    /// `AmbiguousReplyError` if it may be the reply to one of several asks.
    pub(super) fn match_reply(
        &self,
        py: Python<'_>,
        message: Py<PyAny>,
        received: u64,
        effects: &mut Effects,
    ) -> PyResult<Option<Py<PyAny>>> {
        let correlation = message.bind(py).getattr_opt(intern!(py, "correlation_id"))?;
        let ask = match correlation.filter(|id| !id.is_none()) {
            Some(id) => self.find_ask_by_id(&id)?,
            None => {
                let (meaning, has_ended_asks) = {
                    let state = self.lock();
                    (state.meaning(py, received), state.has_ended_asks)
                };
                match meaning {
                    Meaning::Output => None,
                    // A task that the ring kernel has created may still work for an ask that has ended.
                    Meaning::Reply(ask) if !has_ended_asks || self.works_for_open_asks(py)? => Some(ask),
                    Meaning::Reply(_) | Meaning::Unclear => return Err(self.refuse_unclear(py)?),
                }
            }
        };
        match ask {
            Some(ask) => Ok(self.complete_ask(py, &ask, message, effects)),
            None => Ok(Some(message)),
        }
    }

    /// Delivers the reply to the ask with this message. Returns the reply if there is no such ask.
    pub(super) fn reply_to(
        &self,
        message: &Bound<'_, PyAny>,
        reply: Py<PyAny>,
        effects: &mut Effects,
    ) -> PyResult<Option<Py<PyAny>>> {
        match self.find_ask(message)? {
            Some(ask) => Ok(self.complete_ask(message.py(), &ask, reply, effects)),
            None => Ok(Some(reply)),
        }
    }

    /// Ends the ask with this message, if there is one: there will be no reply.
    pub(super) fn skip_ask(&self, message: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = message.py();
        let Some(ask) = self.find_ask(message)? else { return Ok(()) };
        let error = errors::no_reply(py, &self.lock().kernel, "it skipped the message").into_value(py);
        let mut effects = Effects::default();
        if let Some(_state) = self.close_ask(&ask) {
            // SAFETY: `ask` is a waiter of this mailbox, whose lock is held as `_state`.
            let ask_state = unsafe { waiter::state(&ask) };
            if matches!(ask_state.status, Status::AwaitingReply | Status::Parked) {
                ask_state.value = Some(error.into_any());
                effects.others.extend(ask_state.finish(&ask, Status::Raises, py));
            }
        }
        self.apply_effects(py, effects)
    }

    /// Removes an open ask. Returns the locked state, or `None` if the ask is not open.
    fn close_ask(&self, ask: &Py<PyAny>) -> Option<Guard<'_, MailboxState>> {
        let mut state = self.lock();
        let at = state.asks_open.iter().position(|other| waiter::same(other, ask))?;
        state.asks_open.remove(at);
        self.open_asks.store(state.asks_open.len(), Relaxed);
        Some(state)
    }

    /// Delivers a reply to an open ask, or drops it if the caller has abandoned the ask. Returns the reply if the ask is not open.
    fn complete_ask(
        &self,
        py: Python<'_>,
        ask: &Py<PyAny>,
        reply: Py<PyAny>,
        effects: &mut Effects,
    ) -> Option<Py<PyAny>> {
        let Some(mut state) = self.close_ask(ask) else { return Some(reply) };
        state.enqueued += 1;
        state.dequeued += 1;
        // SAFETY: `ask` is a waiter of this mailbox, whose lock is held as `state`.
        let ask_state = unsafe { waiter::state(ask) };
        if matches!(ask_state.status, Status::AwaitingReply | Status::Parked) {
            ask_state.value = Some(reply);
            if ask_state.weight != 0
                && let Some(counters) = &state.ask_counters
            {
                let duration = now_ns().saturating_sub(ask_state.accepted_at);
                counters.get().latencies.record_ask(duration, ask_state.weight);
            }
            effects.receiver = ask_state.finish(ask, Status::Delivered, py);
        } else {
            // The caller has abandoned the ask.
            state.count_dropped(1);
            drop(state);
            drop(reply);
        }
        None
    }

    /// Returns whether the current task cannot work for an ask that has ended: it is that of the ring kernel itself, or was created by the
    /// present run of its function, in which no asks have ended.
    fn works_for_open_asks(&self, py: Python<'_>) -> PyResult<bool> {
        static CURRENT_TASK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static RUN_OF_TASK: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let task = CURRENT_TASK.import(py, "asyncio", "current_task")?.call0()?;
        let output = task.getattr_opt(intern!(py, "_ring_kernel_output"))?;
        if output.is_some_and(|output| {
            output.cast::<Mailbox>().is_ok_and(|output| std::ptr::eq(output.get(), self))
        }) {
            return Ok(true);
        }
        let run = RUN_OF_TASK
            .import(py, "pydotcompute.ring_kernels.lifecycle", "_run_of_task")?
            .call_method0("get")?;
        let state = self.lock();
        Ok(!state.has_refused && state.run.as_ref().is_some_and(|present| present.is(&run)))
    }

    /// Ends all open asks because it is unclear which one a message replies to. Returns the error.
    fn refuse_unclear(&self, py: Python<'_>) -> PyResult<PyErr> {
        let (kernel, open) = {
            let mut state = self.lock();
            state.has_refused = true;
            (state.kernel.clone(), state.asks_open.len())
        };
        let error = errors::ambiguous_reply(py, &kernel, open);
        self.end_open_asks(py, error.value(py).as_any())?;
        Ok(error)
    }

    /// Raises ``KernelError`` with this cause in the open asks.
    pub(super) fn end_open_asks(&self, py: Python<'_>, cause: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut effects = Effects::default();
        {
            let mut state = self.lock();
            self.open_asks.store(0, Relaxed);
            let ended = std::mem::take(&mut state.asks_open);
            state.has_ended_asks |= !ended.is_empty();
            for ask in ended {
                // SAFETY: `asks_open` holds waiters of this mailbox, whose lock is held as `state`.
                let ask_state = unsafe { waiter::state(&ask) };
                if matches!(ask_state.status, Status::AwaitingReply | Status::Parked) {
                    ask_state.value = Some(cause.clone().unbind());
                    effects.others.extend(ask_state.finish(&ask, Status::KernelFailed, py));
                }
                effects.rare().removed.push(ask);
            }
        }
        self.apply_effects(py, effects)
    }
}
