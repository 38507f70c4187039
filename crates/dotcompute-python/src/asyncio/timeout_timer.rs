//! One timer for all waiters of a mailbox.
//!
//! A `receive` with a timeout usually gets its message long before the deadline, and a timer of its own would cost more than the message.
//! So each mailbox has one timer, set for the earliest deadline. When it fires, it ends the waits that are due, and is set again if there
//! are others. A loop of `receive` calls with a timeout of 100 ms sets ten timers per second, whatever the message rate.

use pyo3::intern;
use pyo3::prelude::*;

use super::counters::now_ns;
use super::mailbox::{Effects, Mailbox, MailboxState};
use super::task_resume;
use super::timer::Timer;
use super::waiter::{self, Kind, Status};

/// Some event loops have a clock resolution of a millisecond: a deadline within half of that is due.
const TIMER_SLACK_NS: u64 = 500_000;

impl Mailbox {
    /// Ensures that the timer fires at this deadline or earlier.
    pub(super) fn arm_timer(
        &self,
        me: &Bound<'_, Self>,
        event_loop: &Bound<'_, PyAny>,
        deadline: u64,
    ) -> PyResult<()> {
        let py = me.py();
        // The timer of a closed loop never fires, so a timer of another loop does not count.
        let is_sufficient = |timer: &Timer| timer.event_loop.is(event_loop) && timer.deadline <= deadline;
        if self.lock().timer.as_ref().is_some_and(is_sufficient) {
            return Ok(());
        }
        let seconds = deadline.saturating_sub(now_ns()) as f64 * 1e-9;
        let expire = me.getattr(intern!(py, "_expire"))?;
        let handle = event_loop.call_method1(intern!(py, "call_later"), (seconds, expire))?;
        let timer = Timer { deadline, event_loop: event_loop.clone().unbind(), handle: handle.unbind() };
        let old = self.lock().timer.replace(timer);
        match old {
            Some(old) if old.event_loop.is(event_loop) => {
                old.handle.call_method0(py, intern!(py, "cancel")).map(drop)
            }
            _ => Ok(()),
        }
    }
}

#[pymethods]
impl Mailbox {
    /// Ends the waits that are due and sets the timer for the next deadline. The event loop calls it when the timer fires.
    fn _expire(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mut effects = Effects::default();
        let (next, old) = {
            let mut state = slf.get().lock();
            let old = state.timer.take();
            (state.expire(py, now_ns() + TIMER_SLACK_NS, &mut effects), old)
        };
        drop(old);
        slf.get().apply_effects(py, effects)?;
        match next {
            Some(deadline) => slf.get().arm_timer(slf, &task_resume::running_loop(py)?, deadline),
            None => Ok(()),
        }
    }
}

impl MailboxState {
    /// Ends every wait whose deadline has passed. Returns the earliest remaining deadline.
    fn expire(&mut self, py: Python<'_>, now: u64, effects: &mut Effects) -> Option<u64> {
        let mut next = None;
        let is_ending = self.ending;
        let lists = [&mut self.getters, &mut self.putters, &mut self.asks_sent, &mut self.asks_open];
        for (index, list) in lists.into_iter().enumerate() {
            let is_ask = index >= 2;
            list.retain(|waiter| {
                // SAFETY: the lists hold waiters of this mailbox, whose lock is held (`&mut self`).
                let state = unsafe { waiter::state(waiter) };
                if state.status != Status::Parked || state.deadline == 0 {
                    return is_ask || state.status == Status::Parked;
                }
                if state.deadline > now {
                    next = Some(next.map_or(state.deadline, |next: u64| next.min(state.deadline)));
                    return true;
                }
                let stops = is_ending && state.kind == Kind::Get;
                let status = if stops { Status::Ended } else { Status::TimedOut };
                effects.others.extend(state.finish(waiter, status, py));
                // An expired ask stays, so that its reply is not taken for that of another ask.
                is_ask
            });
        }
        next
    }
}
