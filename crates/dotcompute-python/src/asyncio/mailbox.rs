//! A bounded queue with waiting coroutines: its data, and the effects of an operation on it.
//!
//! One lock protects all mutable data. It is held for some tens of nanoseconds and never while Python code runs. Work that calls Python
//! (resuming tasks, dropping messages, comparing ids) is collected in [`Effects`] and done after the lock is released.

use std::collections::VecDeque;
use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::counters::Counters;
use super::latencies::Sampler;
use super::lock::{Guard, Lock};
use super::parked_task::ParkedTask;
use super::priority_queue::{Order, PriorityQueue};
use super::timer::Timer;
use crate::fork::Origin;

/// An ask whose message the ring kernel has received.
pub(super) struct ReceivedAsk {
    /// Its waiter.
    pub(super) ask: Py<PyAny>,
    /// The mailbox at which it waits for its reply.
    pub(super) output: Option<Py<Mailbox>>,
    /// The number of messages received until then, its own included.
    pub(super) position: u64,
}

/// The capacity of a mailbox without a limit.
pub(super) const UNLIMITED: usize = usize::MAX;

/// What a full mailbox does with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backpressure {
    Block,
    Reject,
    DropOldest,
}

impl Backpressure {
    pub(super) fn parse(name: &str) -> PyResult<Self> {
        match name {
            "block" => Ok(Backpressure::Block),
            "reject" => Ok(Backpressure::Reject),
            "drop_oldest" => Ok(Backpressure::DropOldest),
            _ => Err(PyValueError::new_err(format!(
                "configuring a mailbox: '{name}' is not a backpressure strategy; use block, reject or drop_oldest"
            ))),
        }
    }
}

/// What a wait does at its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeoutBehavior {
    /// Raises `QueueTimeoutError` in `get` and `QueueFullError` in `put`.
    RaiseFull,
    /// Raises `QueueTimeoutError` in both.
    RaiseTimeout,
    /// Returns `None` from `get` and `False` from `put`.
    Return,
}

impl TimeoutBehavior {
    pub(super) fn parse(name: &str) -> PyResult<Self> {
        match name {
            "full" => Ok(TimeoutBehavior::RaiseFull),
            "timeout" => Ok(TimeoutBehavior::RaiseTimeout),
            "return" => Ok(TimeoutBehavior::Return),
            _ => Err(PyValueError::new_err(format!(
                "configuring a mailbox: '{name}' is not a timeout behavior; use full, timeout or return"
            ))),
        }
    }
}

/// A queued message.
pub(super) struct Entry {
    pub(super) message: Py<PyAny>,
    pub(super) level: u8,
    /// When the mailbox accepted the message, on the clock of [`now_ns`](super::counters::now_ns). 0 without counters.
    pub(super) accepted_at: u64,
    /// The waiter for the reply to this message.
    pub(super) ask: Option<Py<PyAny>>,
}

/// The ring kernel that an output belongs to, as a node of the search for cycles.
pub(super) struct Owner {
    pub(super) input: Py<Mailbox>,
    /// The wait of its task for another ring kernel. May have ended.
    pub(super) waits_on: Option<Py<PyAny>>,
}

/// The data that the lock protects.
pub(super) struct MailboxState {
    pub(super) kernel: String,
    pub(super) capacity: usize,
    pub(super) backpressure: Backpressure,
    pub(super) timeout_behavior: TimeoutBehavior,
    pub(super) queue: PriorityQueue<Entry>,
    /// Waiters for a message, in order of arrival.
    pub(super) getters: VecDeque<Py<PyAny>>,
    /// Waiters for a free slot.
    pub(super) putters: VecDeque<Py<PyAny>>,
    /// Asks whose messages the ring kernel has not received yet. Outputs only.
    pub(super) asks_sent: VecDeque<Py<PyAny>>,
    /// Asks whose messages the ring kernel has received, and neither answered nor skipped, in that order. Outputs only.
    pub(super) asks_open: VecDeque<Py<PyAny>>,
    /// Whether open asks were once ended by an error: tasks of the ring kernel may still work for them. Outputs only.
    pub(super) has_ended_asks: bool,
    /// Whether that error was an unclear reply of the present run. Outputs only.
    pub(super) has_refused: bool,
    /// Identifies the present run of the ring kernel's function, which supervision may restart. Outputs only.
    pub(super) run: Option<Py<PyAny>>,
    /// While set, messages are accepted and none is delivered.
    pub(super) paused: bool,
    /// Whether the ring kernel is terminating: a wait for a message ends once the mailbox is empty.
    pub(super) ending: bool,
    /// The exception with which the ring kernel failed.
    pub(super) failure: Option<Py<PyAny>>,
    /// When the current message was accepted. 0 without a current message, and without counters.
    pub(super) current_since: u64,
    /// When the current message was received. Only of a message that is timed.
    pub(super) current_received: u64,
    /// For how many messages the current one counts in histograms. 0 if it is not timed.
    pub(super) current_weight: u32,
    /// Selects the messages that are timed, and for an output the asks.
    pub(super) sampler: Sampler,
    /// The current message. Inputs of ring kernels only.
    pub(super) current: Option<Py<PyAny>>,
    pub(super) counters: Option<Py<Counters>>,
    /// Where the durations of asks are recorded. Outputs only.
    pub(super) ask_counters: Option<Py<Counters>>,
    /// The output mailbox for replies to these messages.
    pub(super) output: Option<Py<Mailbox>>,
    /// Called with each message that the full mailbox drops.
    pub(super) dropped_messages: Option<Py<PyAny>>,
    /// The event loop of the ring kernel.
    pub(super) event_loop: Option<Py<PyAny>>,
    /// The ring kernel that writes these messages. Outputs only.
    pub(super) owner: Option<Owner>,
    /// Delivers the messages to other ring kernels, if this one is connected. Outputs only.
    pub(super) router: Option<Py<PyAny>>,
    pub(super) timer: Option<Timer>,
    pub(super) enqueued: u64,
    pub(super) dequeued: u64,
    /// Messages that coroutines have received. A message that was delivered to a waiter, and not received, may return to the queue.
    pub(super) received: u64,
    pub(super) dropped: u64,
    /// Calls of its methods, or of those of the ring kernel, whose awaitables were never awaited.
    pub(super) never_awaited: u64,
    pub(super) peak: usize,
}

/// Work to do after the lock is released.
#[derive(Default)]
pub(super) struct Effects {
    /// The task that received a message.
    pub(super) receiver: Option<ParkedTask>,
    /// Other tasks to resume.
    pub(super) others: Vec<ParkedTask>,
    /// The ask whose message was just received.
    pub(super) received: Option<ReceivedAsk>,
    /// The message that the ring kernel has finished.
    pub(super) finished: Option<Py<PyAny>>,
    /// Effects of few operations, boxed to keep this struct small.
    pub(super) rare: Option<Box<RareEffects>>,
}

/// Effects that few operations have.
#[derive(Default)]
pub(super) struct RareEffects {
    /// The message that a full mailbox dropped.
    pub(super) dropped: Option<Entry>,
    /// The output of a ring kernel whose wait for another one has ended.
    pub(super) waited: Option<Py<Mailbox>>,
    /// Waiters removed from the wait lists, which may have held the last reference to them.
    pub(super) removed: Vec<Py<PyAny>>,
}

impl Effects {
    pub(super) fn rare(&mut self) -> &mut RareEffects {
        self.rare.get_or_insert_default()
    }

    /// Records that a wait of a ring kernel for another one has ended. `caller` is the output of the former.
    pub(super) fn end_wait(&mut self, caller: Option<Py<Mailbox>>) {
        if caller.is_some() {
            self.rare().waited = caller;
        }
    }
}

/// What the queue classes have in common, and what ring kernels do with their queues.
#[pyclass(frozen, subclass, weakref, module = "pydotcompute._core")]
pub(crate) struct Mailbox {
    pub(super) state: Lock<MailboxState>,
    /// The order of the messages. Set once.
    pub(super) order: OnceLock<Order>,
    /// Number of open asks. Read without the lock, so that a `send` without open asks skips reply matching.
    pub(super) open_asks: AtomicUsize,
    origin: Origin,
}

impl Mailbox {
    /// A mailbox before `_configure`.
    pub(super) fn unconfigured() -> Self {
        Mailbox {
            state: Lock::new(MailboxState::unconfigured()),
            order: OnceLock::new(),
            open_asks: AtomicUsize::new(0),
            origin: Origin::current(),
        }
    }

    /// Checks that the mailbox is no copy that a forked child inherited.
    ///
    /// # Errors
    ///
    /// `ForkedProcessError`.
    #[inline]
    pub(super) fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        if self.origin.is_inherited() { Err(self.inherited(py)) } else { Ok(()) }
    }

    #[cold]
    fn inherited(&self, py: Python<'_>) -> PyErr {
        // In a forked child the lock may be held by a thread of the parent.
        let kernel = self.state.try_lock().map(|state| state.kernel.clone()).unwrap_or_default();
        if kernel.is_empty() {
            self.origin.error(py, "this queue")
        } else {
            self.origin.error(py, &format!("kernel '{kernel}'"))
        }
    }

    /// Whether a forked child inherited the mailbox.
    pub(super) fn is_inherited(&self) -> bool {
        self.origin.is_inherited()
    }

    pub(super) fn lock(&self) -> Guard<'_, MailboxState> {
        self.state.lock()
    }

    /// The order in which messages are taken.
    pub(super) fn order(&self) -> Order {
        self.order.get().copied().unwrap_or(Order::Bands)
    }
}
