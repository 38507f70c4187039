//! The first step of an ask, of a send to the output of a ring kernel, and of a message for connected ring kernels. Before it, nothing has
//! happened.

use pyo3::prelude::*;

use super::counters::now_ns;
use super::mailbox::{Effects, Entry, Mailbox};
use super::mailbox_state::{Step, WaitError};
use super::waiter::{self, Kind, Status, WaiterState};
use super::waiter_type;

impl Mailbox {
    /// Runs the first step of a coroutine that asks, or sends to this output. Returns `None` if the coroutine suspends, or goes on in another
    /// coroutine.
    pub(super) fn begin<'py>(
        &self,
        me: &Bound<'py, Self>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let kind = {
            let _state = self.lock();
            // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `_state`.
            unsafe { waiter::state(waiter.as_unbound()) }.kind
        };
        match kind {
            Kind::Ask => self.begin_ask(me, waiter),
            Kind::Put => self.begin_delivery(me, waiter),
            _ => self.begin_send(me, waiter),
        }
    }

    /// Completes an ask with the message, or puts it as an output.
    fn begin_send<'py>(
        &self,
        me: &Bound<'py, Self>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = me.py();
        let (message, question, input) = {
            let _state = self.lock();
            // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `_state`.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            // An error below ends the wait.
            state.status = Status::Done;
            let input = state.input.as_ref().map(|input| input.clone_ref(py));
            (state.value.take(), state.asked_message.take(), input)
        };
        let mut effects = Effects::default();
        let output = match (message, question) {
            (Some(message), Some(question)) if self.expects_replies() => {
                self.reply_to(question.bind(py), message, &mut effects)?
            }
            (Some(message), None) if self.expects_replies() => {
                let received = input.map_or(0, |input| input.get().lock().received);
                self.match_reply(py, message, received, &mut effects)?
            }
            (message, _) => message,
        };
        let Some(output) = output else {
            self.apply_effects(py, effects)?;
            return Ok(Some(pyo3::types::PyBool::new(py, true).to_owned().into_any()));
        };
        let level = self.order().level_of(output.bind(py))?;
        {
            let _state = self.lock();
            // SAFETY: as above.
            let state = unsafe { waiter::state(waiter.as_unbound()) };
            (state.kind, state.status, state.level, state.value) =
                (Kind::Put, Status::New, level, Some(output));
        }
        self.resume(me, waiter)
    }

    /// Sends the message of an ask to the input of the ring kernel, or queues it there until a slot is free.
    fn begin_ask<'py>(
        &self,
        me: &Bound<'py, Self>,
        waiter: &Bound<'py, PyAny>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let py = me.py();
        let ask = waiter.as_unbound();
        let (message, input, level, timeout, accepted_at) = {
            let mut state = self.lock();
            // SAFETY: `ask` is a waiter of this mailbox, whose lock is held as `state`.
            let ask_state = unsafe { waiter::state(ask) };
            ask_state.status = Status::AwaitingReply;
            if state.ask_counters.is_some() {
                ask_state.weight = state.sampler.weight_of_next();
                ask_state.accepted_at = if ask_state.weight == 0 { 0 } else { now_ns() };
            }
            state.asks_sent.push_back(ask.clone_ref(py));
            let message = ask_state.asked_message.as_ref().map(|message| message.clone_ref(py));
            let input = ask_state.input.as_ref().map(|input| input.clone_ref(py));
            (message, input, ask_state.level, ask_state.timeout, ask_state.accepted_at)
        };
        let (Some(message), Some(input)) = (message, input) else { return Ok(None) };
        let entry = Entry { message, level, accepted_at, ask: Some(ask.clone_ref(py)) };
        match input.get().send_request(input.bind(py), entry, timeout)? {
            Step::Failed(error) => {
                self.end_unsent_ask(ask);
                input.get().wait_result(py, error)
            }
            Step::Value(put) => {
                let _state = self.lock();
                // SAFETY: as above.
                unsafe { waiter::state(ask) }.pending_put = Some(put);
                drop(_state);
                self.resume(me, waiter)
            }
            _ => self.resume(me, waiter),
        }
    }

    /// Accepts the message of an ask. If there is no free slot, it waits for one: the waiter of the message is the value of the step.
    fn send_request(&self, me: &Bound<'_, Self>, entry: Entry, timeout: Option<f64>) -> PyResult<Step> {
        let py = me.py();
        let mut effects = Effects::default();
        let accepted = {
            let mut state = self.lock();
            match &state.failure {
                Some(cause) => {
                    return Ok(Step::Failed(WaitError::KernelFailed(cause.clone_ref(py), Kind::Ask)));
                }
                None => state.accept(py, entry, &mut effects),
            }
        };
        self.apply_effects(py, effects)?;
        let Err(entry) = accepted else { return Ok(Step::Park) };
        let mut state = WaiterState::new(Kind::Put, Some(entry.message), timeout);
        (state.level, state.ask) = (entry.level, entry.ask);
        let put = waiter_type::new_waiter(py, me.clone().unbind(), state)?.unbind();
        let mut effects = Effects::default();
        let step = {
            let mut state = self.lock();
            // SAFETY: `put` is a waiter of this mailbox, whose lock is held as `state`.
            let put_state = unsafe { waiter::state(&put) };
            let step = state.poll_put(py, put_state, &mut effects);
            if matches!(step, Step::Park) {
                state.enqueue_waiter(put.clone_ref(py), put_state);
            }
            step
        };
        self.apply_effects(py, effects)?;
        Ok(match step {
            Step::Park => Step::Value(put),
            Step::Value(_) => Step::Park,
            step => step,
        })
    }

    /// Removes an ask whose message was not sent.
    fn end_unsent_ask(&self, ask: &Py<PyAny>) {
        let mut state = self.lock();
        // SAFETY: `ask` is a waiter of this mailbox, whose lock is held as `state`.
        unsafe { waiter::state(ask) }.status = Status::Done;
        state.asks_sent.retain(|other| !waiter::same(other, ask));
    }

    /// Withdraws the message of an ask that still waits for a free slot. Returns the input if there is such a message.
    pub(super) fn withdraw_pending(&self, py: Python<'_>, ask: &Py<PyAny>) -> Option<Py<Mailbox>> {
        let (input, put) = {
            let _state = self.lock();
            // SAFETY: `ask` is a waiter of this mailbox, whose lock is held as `_state`.
            let ask_state = unsafe { waiter::state(ask) };
            (ask_state.input.as_ref()?.clone_ref(py), ask_state.pending_put.take()?)
        };
        let is_pending = {
            let mut state = input.get().lock();
            // SAFETY: `put` is a waiter of the input, whose lock is held as `state`.
            let put_state = unsafe { waiter::state(&put) };
            let is_pending = put_state.status == Status::Parked;
            put_state.status = Status::Done;
            state.remove_waiter(&put, Kind::Put);
            is_pending
        };
        if !is_pending {
            return None;
        }
        self.lock().asks_sent.retain(|other| !waiter::same(other, ask));
        Some(input)
    }
}
