//! The wait-for graph: which ring kernels each ring kernel waits for, and the search for cycles.
//!
//! A node is a ring kernel. It has an edge for each call of its user code that waits for another ring kernel (an ask for its reply, a tell
//! for a free slot, a receive for an output), and one for each connected ring kernel whose mailbox has no room for its outputs. A ring
//! kernel with an edge takes no message until the edge is gone. An async loop may wait for calls and receive at the same time, so the edges
//! of its calls count only while it is parked and does not receive. A cycle of edges therefore never dissolves by itself.
//!
//! This is deadlock detection on the AND model of Chandy, Misra and Haas ("Distributed Deadlock Detection", ACM TOCS 1 (2), 1983), within
//! one process.
//!
//! No lock covers the whole graph. Each edge is inserted before the search that starts from it. Of the edges of a cycle, one is inserted
//! last, and its search sees all others.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};

use dotcompute_ring::fence::Fence;
use dotcompute_ring::notifier::Notifier;

use crate::status::{Blocked, WaitCycle};

/// A ring kernel as a node of the graph.
pub(crate) trait WaitingKernel: Send + Sync {
    fn name(&self) -> &Arc<str>;
    fn waits(&self) -> &WaitNode;
    fn has_ended(&self) -> bool;
    /// Returns the mailbox. `None` if it is gone.
    fn mailbox(&self) -> Option<Arc<dyn MailboxRoom>>;
}

/// The senders' side of a mailbox.
pub(crate) trait MailboxRoom: Send + Sync {
    /// Whether the mailbox accepts a message of this priority now, or is closed.
    fn has_room(&self, priority: u8) -> bool;
    /// Wakes senders that wait for free slots, also if few are free.
    fn wake_senders(&self);
}

/// A node of the graph.
pub(crate) type Node = Arc<dyn WaitingKernel>;

fn is_same(a: &Node, b: &Node) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

/// What a call of user code waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitFor {
    Reply,
    /// A free slot in the mailbox, for a message of this priority.
    Slot(u8),
    Output,
}

/// The edges that leave one ring kernel.
#[derive(Default)]
pub(crate) struct WaitNode {
    edges: Mutex<Edges>,
    /// Number of calls among the edges. Lets a loop that waits for no call skip the lock.
    calls: AtomicUsize,
    /// Whether this is an async loop, which waits for calls without blocking.
    is_loop: AtomicBool,
    /// Whether the loop receives at present. Used by the thread that polls it.
    receiving: AtomicBool,
    /// Whether the loop waits for calls alone: its last poll was pending and it does not receive.
    parked: AtomicBool,
}

#[derive(Default)]
struct Edges {
    calls: Vec<Arc<CallEdge>>,
    /// The driver is blocked on output. Empty if it is not.
    outputs: Vec<OutputEdge>,
    /// The outputs are part of a cycle of outputs, which nothing but ending one of its ring kernels resolves.
    jam: Option<WaitCycle>,
}

/// A destination without room for an output.
#[derive(Clone)]
pub(crate) enum OutputEdge {
    /// The output ring of the ring kernel itself.
    Ring,
    /// The mailbox of a ring kernel, and the priority of the output.
    Mailbox(Node, u8),
}

struct CallEdge {
    what: WaitFor,
    on: Node,
    /// Whether the call blocks its thread.
    blocks: bool,
    /// Set once the edge was found to be part of a cycle: the call then returns an error.
    cycle: OnceLock<WaitCycle>,
    caller: Notifier,
}

/// One edge on a path.
enum Step {
    Call(Arc<CallEdge>),
    Output,
}

impl WaitNode {
    fn lock(&self) -> MutexGuard<'_, Edges> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the ring kernel as an async loop. Called before it is first polled.
    pub(crate) fn set_loop(&self) {
        self.is_loop.store(true, Ordering::Relaxed);
    }

    /// Marks whether the loop receives at present.
    #[inline]
    pub(crate) fn set_receiving(&self, receiving: bool) {
        self.receiving.store(receiving, Ordering::Relaxed);
    }

    /// The loop is about to be polled.
    #[inline]
    pub(crate) fn unpark(&self) {
        if self.parked.load(Ordering::Relaxed) {
            self.parked.store(false, Ordering::Relaxed);
        }
    }

    /// Whether the ring kernel waits for its calls, and for nothing else that would have it take a message.
    fn waits_for_calls(&self) -> bool {
        // Relaxed: the loop locks every ring kernel on the path after it has stored `parked`, and a search locks this one before it reads.
        !self.is_loop.load(Ordering::Relaxed) || self.parked.load(Ordering::Relaxed)
    }

    /// Returns the ring kernels that this one waits for, with the edges. An edge to a mailbox counts only while the mailbox is full: after
    /// that, its owner is about to be woken.
    fn successors(&self) -> Vec<(Step, Node)> {
        let mut successors: Vec<_> = {
            let edges = self.lock();
            let waits_for_calls = self.waits_for_calls();
            let calls = edges.calls.iter().filter(|call| call.blocks || waits_for_calls);
            let calls = calls.map(|call| {
                let full = if let WaitFor::Slot(priority) = call.what { Some(priority) } else { None };
                (Step::Call(Arc::clone(call)), Arc::clone(&call.on), full)
            });
            let outputs = edges.outputs.iter().filter_map(|output| match output {
                OutputEdge::Mailbox(node, priority) => {
                    Some((Step::Output, Arc::clone(node), Some(*priority)))
                }
                OutputEdge::Ring => None,
            });
            calls.chain(outputs).collect()
        };
        successors.retain(|(_, node, full)| {
            full.is_none_or(|priority| node.mailbox().is_some_and(|mailbox| !mailbox.has_room(priority)))
        });
        successors.into_iter().map(|(step, node, _)| (step, node)).collect()
    }

    /// The driver is no longer blocked on output.
    pub(crate) fn end_output_wait(&self) {
        let mut edges = self.lock();
        edges.outputs.clear();
        edges.jam = None;
    }

    /// Returns why the ring kernel takes no message, for its stats. `unread` is the number of outputs in its output ring.
    pub(crate) fn blocked(&self, unread: impl FnOnce() -> u64) -> Option<Blocked> {
        let edges = self.lock();
        if let Some(cycle) = &edges.jam {
            return Some(Blocked::Jam { cycle: cycle.clone() });
        }
        if let Some(call) = edges.calls.iter().find(|call| call.blocks || self.waits_for_calls()) {
            let of = Arc::clone(call.on.name());
            return Some(match call.what {
                WaitFor::Reply => Blocked::Reply { of },
                WaitFor::Slot(_) => Blocked::Mailbox { of },
                WaitFor::Output => Blocked::Output { of },
            });
        }
        match edges.outputs.first()? {
            OutputEdge::Ring => Some(Blocked::OutputRing { unread: unread() }),
            OutputEdge::Mailbox(node, _) => Some(Blocked::Mailbox { of: Arc::clone(node.name()) }),
        }
    }
}

/// The driver of `node` is blocked on these outputs. Breaks a call that waits in a cycle with them, or reports the cycle if it has no call.
pub(crate) fn begin_output_wait(node: &Node, outputs: Vec<OutputEdge>) {
    node.waits().lock().outputs = outputs;
    match find_cycle(node) {
        Some((path, cycle)) if !break_call(&path, &cycle) => report_jam(path),
        _ => node.waits().lock().jam = None,
    }
}

/// The poll of an async loop was pending. If it waits for calls alone, they may close a cycle: breaks one of them then.
#[inline]
pub(crate) fn park_loop<K: WaitingKernel + 'static>(kernel: &Arc<K>) {
    let waits = kernel.waits();
    if waits.calls.load(Ordering::Relaxed) > 0 && !waits.receiving.load(Ordering::Relaxed) {
        break_cycle_of_calls(&(Arc::clone(kernel) as Node));
    }
}

#[cold]
fn break_cycle_of_calls(node: &Node) {
    node.waits().parked.store(true, Ordering::Relaxed);
    if let Some((path, cycle)) = find_cycle(node) {
        break_call(&path, &cycle);
    }
}

/// A call of user code that waits for a ring kernel. Dropping it removes the edge. Does nothing outside user code of a ring kernel.
pub(crate) struct CallWait(Option<(Node, Arc<CallEdge>)>);

impl CallWait {
    /// A call outside user code of a ring kernel: no edge.
    pub(crate) const fn outside() -> Self {
        Self(None)
    }

    /// Adds an edge from the ring kernel `from`, whose user code runs on this thread. `blocks`: whether the call blocks the thread.
    ///
    /// # Errors
    ///
    /// The cycle that the edge would close. There is no edge then.
    #[cold]
    pub(crate) fn add(from: Node, what: WaitFor, on: Node, blocks: bool) -> Result<Self, WaitCycle> {
        let caller = Notifier::new(Fence::Symmetric);
        let edge = Arc::new(CallEdge { what, on, blocks, cycle: OnceLock::new(), caller });
        from.waits().lock().calls.push(Arc::clone(&edge));
        from.waits().calls.fetch_add(1, Ordering::Relaxed);
        // SYNC POINT: mailbox-half-free (caller). The ring kernel takes no messages while its handler waits: wake senders that would wait
        // for more free slots. Each tries again, and is an edge of the graph again if there is none.
        if let Some(mailbox) = from.mailbox() {
            mailbox.wake_senders();
        }
        let found = find_cycle(&from);
        let wait = Self(Some((from, edge)));
        match found {
            Some((_, cycle)) => {
                drop(wait);
                Err(cycle)
            }
            None => Ok(wait),
        }
    }

    /// Searches again: returns the cycle that this call is part of by now.
    pub(crate) fn recheck(&self) -> Option<WaitCycle> {
        let (from, _) = self.0.as_ref()?;
        find_cycle(from).map(|(_, cycle)| cycle)
    }

    /// Returns the cycle that this call was found to be part of.
    pub(crate) fn cycle(&self) -> Option<WaitCycle> {
        self.0.as_ref().and_then(|(_, edge)| edge.cycle.get().cloned())
    }

    /// Ready with the cycle once this call was found to be part of one; otherwise registers the task's waker.
    pub(crate) fn poll_cycle(&self, cx: &mut Context<'_>) -> Poll<WaitCycle> {
        let Some((_, edge)) = &self.0 else { return Poll::Pending };
        // SYNC POINT: call-broken (caller). Registers, then rechecks. Pairs with `break_call`, which stores, then notifies.
        let registered = edge.caller.register(cx.waker());
        match edge.cycle.get() {
            Some(cycle) => Poll::Ready(cycle.clone()),
            None if registered => Poll::Pending,
            None => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl Drop for CallWait {
    fn drop(&mut self) {
        if let Some((from, edge)) = self.0.take() {
            let mut edges = from.waits().lock();
            if let Some(position) = edges.calls.iter().position(|other| Arc::ptr_eq(other, &edge)) {
                edges.calls.swap_remove(position);
                from.waits().calls.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// A path from one ring kernel back to itself: each edge with the ring kernel that it leaves.
type Path = Vec<(Step, Node)>;

/// Searches for a path from `start` back to `start`, depth first.
fn find_cycle(start: &Node) -> Option<(Path, WaitCycle)> {
    let mut visited: Vec<Node> = Vec::new();
    let mut path: Path = Vec::new();
    // For each ring kernel on the path, its edges that are still to be followed.
    let mut pending = vec![(Arc::clone(start), start.waits().successors())];
    while let Some((node, edges)) = pending.last_mut() {
        let Some((step, next)) = edges.pop() else {
            pending.pop();
            path.pop();
            continue;
        };
        path.push((step, Arc::clone(node)));
        if is_same(&next, start) {
            let cycle = cycle_of(&path);
            return Some((path, cycle));
        }
        if next.has_ended() || visited.iter().any(|other| is_same(other, &next)) {
            path.pop();
            continue;
        }
        visited.push(Arc::clone(&next));
        let edges = next.waits().successors();
        pending.push((next, edges));
    }
    None
}

fn cycle_of(path: &Path) -> WaitCycle {
    let names = path.iter().map(|(_, node)| Arc::clone(node.name()));
    let first = path.first().map(|(_, node)| Arc::clone(node.name()));
    WaitCycle::new(names.chain(first).collect())
}

/// Marks the ring kernels of a cycle of outputs as jammed, and logs the cycle once.
fn report_jam(mut path: Path) {
    // Every ring kernel of the cycle may find it at the same time: all of them begin with the same one, and the search that marks it logs.
    let first = (0..path.len()).min_by(|&a, &b| path[a].1.name().cmp(path[b].1.name())).unwrap_or(0);
    path.rotate_left(first);
    let cycle = cycle_of(&path);
    for (position, (_, node)) in path.iter().enumerate() {
        let marked = node.waits().lock().jam.replace(cycle.clone()).is_none();
        if marked && position == 0 {
            log::warn!(
                "ring kernels wait for room in each other's mailboxes and cannot go on: {cycle}; abort one of them, raise the capacity of a \
                 mailbox, or let one drop its oldest messages"
            );
        }
    }
}

/// Makes the first call on the path return an error. Returns `false` if the path has no call.
fn break_call(path: &Path, cycle: &WaitCycle) -> bool {
    let call = path.iter().find_map(|(step, _)| match step {
        Step::Call(call) => Some(call),
        Step::Output => None,
    });
    let Some(call) = call else { return false };
    // An error means that it was broken before.
    let _ = call.cycle.set(cycle.clone());
    // SYNC POINT: call-broken (finder). Stores, then notifies. Pairs with `CallWait::poll_cycle`.
    call.caller.notify_with_full_fence();
    true
}
