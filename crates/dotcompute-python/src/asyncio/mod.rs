//! Ring kernels as coroutines of an event loop: their mailboxes, and waiting that bypasses the event loop.
//!
//! | module | subject |
//! | --- | --- |
//! | [`lock`] | the lock of a mailbox |
//! | [`priority_queue`] | messages in order: FIFO, in bands, or by priority |
//! | [`counters`] | messages handled and their latencies |
//! | [`latencies`] | histograms of latencies |
//! | [`mailbox`] | a bounded queue with waiting coroutines: its data |
//! | [`mailbox_state`] | its transitions, under the lock |
//! | [`effects`] | the part of an operation after the lock is released |
//! | [`mailbox_methods`] | its operations for users |
//! | [`queues`] | the queue classes, with the methods for users |
//! | [`mailbox_lifecycle`] | methods for the lifecycle of a ring kernel |
//! | [`reply_matching`] | matching replies to asks |
//! | [`waiter`] | an awaitable that a task treats as a future: its data |
//! | [`waiter_steps`] | the steps of a coroutine that waits |
//! | [`begin`] | the first step of an ask, and of a send to an output |
//! | [`routing`] | delivery of the outputs of connected ring kernels |
//! | [`never_awaited`] | the warning for an operation that was never awaited |
//! | [`wait_cycle`] | ring kernels that wait for each other |
//! | [`waiter_memory`] | the memory of waiters |
//! | [`waiter_type`] | the Python type of waiters, built by hand |
//! | [`parked_task`], [`task_resume`] | a suspended task; resuming it within the current call or through its loop |
//! | [`timer`], [`timeout_timer`] | a timer handle; one timer for all waiters of a mailbox |
//! | [`context_port`] | receive, send, reply and skip for the function of a ring kernel |
//! | [`ports`] | tell, ask and receive for the users of ring kernels |
//!
//! # How a send resumes the receiver
//!
//! A coroutine that waits in `receive()` has yielded a [`waiter`] to its task, and the task has registered its wake-up callback there. A
//! `send` that finds a parked waiter stores the message in it and calls that callback itself. The receiving task runs its next step inside
//! the sender's call until it suspends again; the event loop is not involved. The tasks are asyncio's own, so timeouts, cancellation and
//! context variables behave as usual. Two limits keep it fair: one on nested calls, and one on consecutive resumes without an iteration of
//! the event loop.
//!
//! # One state machine in several files
//!
//! A mailbox, its waiters, its timer and the resuming of tasks are one state machine: a put may deliver to a waiter, which resumes a task,
//! whose step takes the next message of another mailbox. The data of the machine is in [`mailbox`] and [`waiter`], which import no
//! transition. The other files add transitions as inherent methods. These methods call one another across files, without imports.

// No class has the flag `dict`. Subclasses in Python have a dictionary anyway. With the flag, CPython 3.11 creates the dictionary during
// allocation. That may start a garbage collection, which would visit the object while its fields are all zero.

mod begin;
mod context_port;
mod counters;
mod effects;
mod errors;
mod latencies;
mod latency_methods;
mod lock;
mod mailbox;
mod mailbox_lifecycle;
mod mailbox_methods;
mod mailbox_state;
mod never_awaited;
mod parked_task;
mod ports;
mod priority_queue;
mod queues;
mod reply_matching;
mod routing;
mod task_resume;
mod timeout_timer;
mod timer;
mod wait_cycle;
mod waiter;
mod waiter_memory;
mod waiter_steps;
mod waiter_type;

use pyo3::prelude::*;

/// Adds the names of this module to the extension module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<mailbox::Mailbox>()?;
    module.add_class::<queues::MessageQueue>()?;
    module.add_class::<queues::FastMessageQueue>()?;
    module.add_class::<queues::RingBuffer>()?;
    module.add_class::<counters::Counters>()?;
    module.add_class::<context_port::ContextPort>()?;
    module.add_class::<ports::KernelPort>()?;
    module.add_class::<ports::RuntimePort>()?;
    module.add_function(wrap_pyfunction!(task_resume::resume_from_loop, module)?)?;
    module.add_function(wrap_pyfunction!(task_resume::clear_running_loop_cache, module)?)?;
    module.add("Waiter", waiter_type::class(module.py())?)?;
    Ok(())
}
