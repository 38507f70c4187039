//! Ring kernels as coroutines of an event loop: their mailboxes, and waiting at them without a trip through the loop.
//!
//! | module | subject |
//! | --- | --- |
//! | [`lock`] | the lock of a mailbox |
//! | [`levels`] | messages in order: by band, by priority, or as they came |
//! | [`counters`] | what a ring kernel has handled, and how long it took |
//! | [`mailbox`] | a bounded queue at which coroutines wait |
//! | [`inner`] | what it holds, under its lock |
//! | [`queue`] | what users call at it |
//! | [`waiting`] | what happens each time a coroutine that waits there is stepped |
//! | [`answers`] | answers that find their askers |
//! | [`control`] | what the lifecycle of a ring kernel does to it |
//! | [`waiter`] | what they wait for: an awaitable that a task takes for a future |
//! | [`waiter_type`] | its type, made by hand |
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

mod reply_matching;
mod mailbox_lifecycle;
mod counters;
mod timeout_timer;
mod errors;
mod mailbox_state;
mod priority_queue;
mod lock;
mod mailbox;
mod ports;
mod mailbox_methods;
mod task_resume;
mod waiter;
mod waiter_type;
mod waiter_steps;

use pyo3::prelude::*;

/// Adds the names of this module to the extension.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<mailbox::Mailbox>()?;
    module.add_class::<counters::Counters>()?;
    module.add_class::<ports::ContextPort>()?;
    module.add_class::<ports::KernelPort>()?;
    module.add_class::<ports::RuntimePort>()?;
    module.add_function(wrap_pyfunction!(task_resume::resume_from_loop, module)?)?;
    module.add_function(wrap_pyfunction!(task_resume::clear_running_loop_cache, module)?)?;
    module.add("Waiter", waiter_type::class(module.py())?)?;
    Ok(())
}
