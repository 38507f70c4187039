//! One timer for all who wait at a mailbox.
//!
//! A coroutine that receives with a time-out mostly gets its message long before. A timer for each would cost more than the message, so
//! there is one for each mailbox: it is set for the first deadline, looks around when it fires, and is set again if somebody still
//! waits. A loop of receives with a time-out of 100 ms sets ten timers a second, whatever the number of messages.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};

use super::counters::now;
use super::mailbox_state::{Effects, Inner};
use super::mailbox::Mailbox;
use super::task_resume;
use super::waiter::{self, Status};

/// Event loops count in milliseconds, some of them: what is due within half of one is due.
const SLACK: u64 = 500_000;

/// A timer that was set.
pub(super) struct Timer {
    /// On the clock of `counters::now`.
    deadline: u64,
    event_loop: Py<PyAny>,
    handle: Py<PyAny>,
}

impl Timer {
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        visit.call(&self.handle)
    }
}

impl Mailbox {
    /// Sees to it that somebody looks at the mailbox when this deadline has passed.
    pub(super) fn arm(
        &self,
        me: &Bound<'_, Self>,
        event_loop: &Bound<'_, PyAny>,
        deadline: u64,
    ) -> PyResult<()> {
        let py = me.py();
        // A timer of a loop that is closed will never fire: one of another loop does not count.
        let serves = |timer: &Timer| timer.event_loop.is(event_loop) && timer.deadline <= deadline;
        if self.lock().timer.as_ref().is_some_and(serves) {
            return Ok(());
        }
        let seconds = deadline.saturating_sub(now()) as f64 * 1e-9;
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
    /// The timer has fired: whoever is late is told, and the timer is set for the next.
    fn _expire(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let mut effects = Effects::default();
        let (next, old) = {
            let mut inner = slf.get().lock();
            let old = inner.timer.take();
            (inner.expire(py, now() + SLACK, &mut effects), old)
        };
        drop(old);
        slf.get().settle(py, effects)?;
        match next {
            Some(deadline) => slf.get().arm(slf, &task_resume::running_loop(py)?, deadline),
            None => Ok(()),
        }
    }
}

impl Inner {
    /// Ends the waiting of all whose deadline has passed. Returns the first deadline of the others.
    fn expire(&mut self, py: Python<'_>, time: u64, effects: &mut Effects) -> Option<u64> {
        let mut next = None;
        let lists = [&mut self.getters, &mut self.putters, &mut self.asks_sent, &mut self.asks_taken];
        for (index, list) in lists.into_iter().enumerate() {
            let is_ask = index >= 2;
            list.retain(|one| {
                // SAFETY: all are waiters of this mailbox, whose lock is held.
                let state = unsafe { waiter::state(one) };
                if state.status != Status::Parked || state.deadline == 0 {
                    return is_ask || state.status == Status::Parked;
                }
                if state.deadline > time {
                    next = Some(next.map_or(state.deadline, |next: u64| next.min(state.deadline)));
                    return true;
                }
                let status = if state.timeout.is_some() { Status::TimedOut } else { Status::Ended };
                effects.others.extend(state.finish(one, status, py));
                // An ask's answer has to find it, to be known as one that nobody waits for.
                is_ask
            });
        }
        next
    }
}
