//! Ring kernels as coroutines of an event loop: their mailboxes, and waiting at them without a trip through the loop.
//!
//! | module | subject |
//! | --- | --- |
//! | [`levels`] | messages in order: by band, by priority, or as they came |
//! | [`counters`] | what a ring kernel has handled, and how long it took |
//! | [`mailbox`] | a bounded queue at which coroutines wait |
//! | [`waiter`] | what they wait for: an awaitable that a task takes for a future |
//! | [`turn`] | giving a task its turn: at once, or through its loop |
//! | [`deadline`] | one timer for all who wait at a mailbox |
//! | [`port`] | the ends of a ring kernel: tell, ask and receive |
//!
//! # How a message gets its receiver going
//!
//! A coroutine that waits in `receive()` has yielded a [`waiter`] to its task, and the task has left its wake-up call there. A `send`
//! that finds it there puts the message into it and makes that call itself: the receiving task takes its step inside the sender's, up to
//! where it waits again, and the loop has no part in it. The tasks are asyncio's own, so time-outs, cancellation and context variables are
//! what they always are. Two bounds keep it fair: so many calls inside each other, and so many in a row before the loop has its turn.

// None of the classes has the flag `dict`: their subclasses in Python have dictionaries anyway, and with the flag CPython 3.11 makes one
// while it makes the object, which may set the garbage collector off on an object whose fields are still all zero.

mod counters;
mod deadline;
mod errors;
mod levels;
mod mailbox;
mod port;
mod queue;
mod turn;
mod waiter;

use pyo3::prelude::*;

/// Adds the names of this module to the extension.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<mailbox::Mailbox>()?;
    module.add_class::<counters::Counters>()?;
    module.add_class::<port::ContextPort>()?;
    module.add_class::<port::KernelPort>()?;
    module.add_class::<port::RuntimePort>()?;
    module.add_function(wrap_pyfunction!(turn::resume_later, module)?)?;
    module.add_function(wrap_pyfunction!(turn::forget_running_loop, module)?)?;
    module.add("Waiter", waiter::class(module.py())?)?;
    Ok(())
}
