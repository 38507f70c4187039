//! The part of a mailbox operation that runs after the lock is released.

use pyo3::prelude::*;

use super::mailbox::{Effects, Entry, Mailbox, RareEffects, ReceivedAsk};
use super::{task_resume, wait_cycle};

impl Mailbox {
    /// Applies the effects of an operation. The receiver is resumed last, since its step may run for any length of time.
    pub(super) fn apply_effects(&self, py: Python<'_>, effects: Effects) -> PyResult<()> {
        let Effects { receiver, others, received, finished, rare } = effects;
        drop(finished);
        for task in others {
            task_resume::resume_via_loop(py, task)?;
        }
        if let Some(rare) = rare {
            let RareEffects { dropped, waited, removed } = *rare;
            drop(removed);
            if let Some(caller) = waited {
                wait_cycle::finish(&caller);
            }
            if let Some(Entry { message, ask, .. }) = dropped {
                if let Some(ask) = ask {
                    self.fail_ask(py, &ask)?;
                }
                let record = self.lock().dropped_messages.as_ref().map(|record| record.clone_ref(py));
                if let Some(record) = record {
                    record.call1(py, (message,))?;
                }
            }
        }
        if let Some(ReceivedAsk { ask, output: Some(output), position }) = received {
            output.get().open_ask(ask, position);
        }
        match receiver {
            Some(task) => task_resume::resume_now(py, task),
            None => Ok(()),
        }
    }

    /// Takes all messages and fails their asks.
    ///
    /// With `lost`, the messages count as dropped and no putter is admitted. Otherwise waiting putters get the free slots.
    pub(super) fn drain(&self, py: Python<'_>, lost: bool) -> PyResult<Vec<Py<PyAny>>> {
        let mut effects = Effects::default();
        let entries = {
            let mut state = self.lock();
            let entries = state.queue.take_all();
            if lost {
                state.dequeued += entries.len() as u64;
                state.count_dropped(entries.len() as u64);
                state.current_since = 0;
            } else {
                state.admit_putters(py, &mut effects);
            }
            entries
        };
        self.apply_effects(py, effects)?;
        let mut messages = Vec::with_capacity(entries.len());
        for Entry { message, ask, .. } in entries {
            if let Some(ask) = ask {
                self.fail_ask(py, &ask)?;
            }
            messages.push(message);
        }
        Ok(messages)
    }
}
