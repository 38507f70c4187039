//! Cycles of asyncio ring kernels that wait for each other: found when a wait begins, and an error for the caller that closes the cycle.
//!
//! A ring kernel whose task waits for the reply of another one, or for a free slot in its input, takes no message meanwhile. If the other
//! one waits for it in the same way, directly or through more ring kernels, no wait ever ends. A ring kernel has at most one such wait, so
//! the search follows a chain.
//!
//! Only the task of the ring kernel counts: its function may ask from other tasks and receive meanwhile. A message that the ring kernel
//! received before its latest one counts as passed on to such a task.

use std::collections::HashSet;
use std::ptr;

use pyo3::intern;
use pyo3::prelude::*;

use super::errors;
use super::mailbox::{Effects, Mailbox, Owner};
use super::waiter::{self, Kind, Status, mailbox};

/// Registers a wait of the task that `wakeup` resumes, if that is the task of a ring kernel. If the wait closes a cycle, it ends with
/// `WaitCycleError`, and its message is withdrawn unless the ring kernel has taken it.
///
/// The wait is parked already. It is registered before the search, so that of two waits that close a cycle on two threads, the later one
/// finds it.
pub(super) fn begin(waiter: &Bound<'_, PyAny>, wakeup: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = waiter.py();
    let Some(target) = target(py, waiter) else { return Ok(()) };
    let Some(task) = wakeup.getattr_opt(intern!(py, "__self__"))? else { return Ok(()) };
    let Some(own) = task.getattr_opt(intern!(py, "_ring_kernel_output"))? else { return Ok(()) };
    let Ok(own) = own.cast_into::<Mailbox>() else { return Ok(()) };
    set_caller(waiter, &own);
    let previous =
        own.get().lock().owner.as_mut().and_then(|owner| owner.waits_on.replace(waiter.clone().unbind()));
    drop(previous);
    match find(py, waiter, &own) {
        Some(kernels) => {
            let kernel = target.get().lock().kernel.clone();
            end(waiter, &target, errors::wait_cycle(py, &kernel, kernels))
        }
        None => Ok(()),
    }
}

/// Removes the wait of a ring kernel after it has ended. `caller` is the output of that ring kernel.
pub(super) fn finish(caller: &Py<Mailbox>) {
    let previous = caller.get().lock().owner.as_mut().and_then(|owner| owner.waits_on.take());
    drop(previous);
}

/// Returns the output of the ring kernel that a waiter waits for. `None` if it waits for none, or no longer.
///
/// A wait for a reply to a message that the ring kernel received before its latest one does not count.
fn target(py: Python<'_>, waiter: &Bound<'_, PyAny>) -> Option<Py<Mailbox>> {
    let mailbox = mailbox(waiter)?;
    let state = mailbox.get().lock();
    // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `state`.
    let waiting = unsafe { waiter::state(waiter.as_unbound()) };
    if waiting.status != Status::Parked {
        return None;
    }
    match waiting.kind {
        Kind::Ask => {
            let latest = state.asks_open.len().wrapping_sub(1);
            let taken = state.asks_open.iter().position(|ask| waiter::same(ask, waiter.as_unbound()));
            taken.is_none_or(|position| position == latest).then(|| mailbox.clone_ref(py))
        }
        Kind::Put => state.output.as_ref().map(|output| output.clone_ref(py)),
        Kind::Get | Kind::Send | Kind::Ready => None,
    }
}

fn set_caller(waiter: &Bound<'_, PyAny>, own: &Bound<'_, Mailbox>) {
    let Some(mailbox) = mailbox(waiter) else { return };
    let _state = mailbox.get().lock();
    // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `_state`.
    let waiting = unsafe { waiter::state(waiter.as_unbound()) };
    // A wait that has ended meanwhile is not removed again.
    if waiting.status == Status::Parked {
        waiting.caller = Some(own.clone().unbind());
    }
}

/// Follows the waits from `waiter`, a wait of the ring kernel with the output `own`. Returns the names of the ring kernels if they lead
/// back to it: its own name first and last.
fn find(py: Python<'_>, waiter: &Bound<'_, PyAny>, own: &Bound<'_, Mailbox>) -> Option<Vec<String>> {
    let mut kernels = vec![own.get().lock().kernel.clone()];
    let mut seen: HashSet<*const Mailbox> = HashSet::new();
    let mut waiter = waiter.clone();
    loop {
        let node = target(py, &waiter)?;
        let address = ptr::from_ref(node.get());
        let next = {
            let state = node.get().lock();
            kernels.push(state.kernel.clone());
            state.owner.as_ref().and_then(|owner| owner.waits_on.as_ref().map(|waiter| waiter.clone_ref(py)))
        };
        if ptr::eq(address, own.get()) {
            return Some(kernels);
        }
        // A cycle without this ring kernel has been reported to another one.
        if !seen.insert(address) {
            return None;
        }
        waiter = next?.into_bound(py);
    }
}

/// Ends a parked wait with this error and withdraws its message.
fn end(waiter: &Bound<'_, PyAny>, target: &Py<Mailbox>, error: PyErr) -> PyResult<()> {
    let py = waiter.py();
    let Some(mailbox) = mailbox(waiter) else { return Ok(()) };
    let mut effects = Effects::default();
    let (is_ask, old) = {
        let mut state = mailbox.get().lock();
        // SAFETY: `waiter` is a waiter of this mailbox, whose lock is held as `state`.
        let waiting = unsafe { waiter::state(waiter.as_unbound()) };
        if waiting.status != Status::Parked {
            return Ok(());
        }
        let is_ask = waiting.kind == Kind::Ask;
        state.remove_waiter(waiter.as_unbound(), waiting.kind);
        let old = waiting.value.replace(error.into_value(py).into_any());
        effects.others.extend(waiting.finish(waiter.as_unbound(), Status::Raises, py));
        (is_ask, old)
    };
    drop(old);
    mailbox.get().apply_effects(py, effects)?;
    if is_ask { withdraw(py, waiter.as_unbound(), target.get()) } else { Ok(()) }
}

/// Removes the message of an ask from the queue of the ring kernel. Does nothing if the ring kernel has taken it.
pub(super) fn withdraw(py: Python<'_>, ask: &Py<PyAny>, output: &Mailbox) -> PyResult<()> {
    if output.withdraw_pending(py, ask).is_some() {
        return Ok(());
    }
    let (input, removed) = {
        let mut state = output.lock();
        let input = state.owner.as_ref().map(|owner| owner.input.clone_ref(py));
        let sent = state.asks_sent.iter().position(|other| waiter::same(other, ask));
        (input, sent.and_then(|position| state.asks_sent.remove(position)))
    };
    let (Some(input), Some(_removed)) = (input, removed) else { return Ok(()) };
    let mut effects = Effects::default();
    let entry = {
        let mut state = input.get().lock();
        let is_its = |other: &Py<PyAny>| waiter::same(other, ask);
        let entry = state.queue.remove(|entry| entry.ask.as_ref().is_some_and(is_its));
        if entry.is_some() {
            state.enqueued -= 1;
            state.admit_putters(py, &mut effects);
        }
        entry
    };
    drop(entry);
    input.get().apply_effects(py, effects)
}

#[pymethods]
impl Mailbox {
    /// Makes this the output of a ring kernel with this input, whose function runs in ``task``. None once the task has ended.
    ///
    /// A task of a class without attributes of its own takes part in no search for cycles.
    fn _set_task(slf: &Bound<'_, Self>, task: Option<&Bound<'_, PyAny>>, input: Py<Mailbox>) {
        let owner = task.map(|task| {
            // An error means that the task accepts no attributes.
            let _ = task.setattr(intern!(slf.py(), "_ring_kernel_output"), slf);
            Owner { input, waits_on: None }
        });
        let old = std::mem::replace(&mut slf.get().lock().owner, owner);
        drop(old);
    }
}
