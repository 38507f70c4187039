//! Connections between ring kernels: changes handed over from `connect` and `disconnect` to the driver.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll};

use super::kernel_cell::KernelCell;
use super::wait_graph::OutputEdge;
use crate::message::MessageHeader;

/// Result of an attempt to send an output.
pub(crate) enum SendOutcome<O> {
    Accepted,
    /// No free slot at present; try again.
    Full(O),
    /// The sink does not accept it, for this reason.
    Rejected(O, String),
    /// The ring kernel behind the sink has failed, as the text says. It never accepts an output again.
    Failed(O, String),
    /// The ring kernel behind the sink was told to end. It never accepts an output again.
    Ended(O),
}

/// A destination for outputs of type `O`.
pub(crate) trait OutputSink<O>: Send {
    fn try_send(&mut self, header: MessageHeader, output: O) -> SendOutcome<O>;
    /// Ready once another attempt may succeed; otherwise registers the task's waker.
    fn poll_ready(&mut self, priority: u8, cx: &mut Context<'_>) -> Poll<()>;
    /// Returns what an output of this priority waits for while there is no free slot.
    fn destination(&self, priority: u8) -> OutputEdge;
}

/// A destination, and the number of the device link that also leads to it, if there is one.
pub(crate) struct NewConnection<O> {
    /// Identifies the connection among those of one ring kernel.
    pub(crate) id: usize,
    pub(crate) sink: Box<dyn OutputSink<O>>,
    pub(crate) link: Option<u8>,
}

/// A change that the driver has not taken over.
pub(crate) enum Change<O> {
    Add(NewConnection<O>),
    Remove(usize),
}

/// The other end of a connection.
struct Target {
    id: usize,
    cell: Weak<KernelCell>,
    linked: bool,
}

impl Target {
    fn is_alive(&self) -> bool {
        self.cell.upgrade().is_some_and(|cell| !cell.lifecycle.get().has_ended())
    }
}

/// The connections of one ring kernel. `connect` and `disconnect` change them, and the driver takes the changes over at its next output.
pub(crate) struct Connections<O> {
    /// Number of changes. The driver compares it with the number that it has seen.
    version: AtomicUsize,
    state: Mutex<ConnectionsState<O>>,
    clone: OnceLock<fn(&O) -> O>,
}

struct ConnectionsState<O> {
    changes: Vec<Change<O>>,
    targets: Vec<Target>,
    next_id: usize,
    /// Number of targets at which those that have ended are removed again.
    next_sweep: usize,
    /// The ring kernel has ended.
    closed: bool,
}

/// Fewer targets are not searched for ended ones.
const MIN_SWEEP: usize = 16;

/// What a connection to be removed turned out to be.
pub(crate) enum Removal {
    Removed,
    /// It was removed before, or its target has ended.
    Gone,
    /// It is a link on a device, which cannot be removed.
    Linked,
}

impl<O> Connections<O> {
    pub(crate) fn new() -> Self {
        let state = ConnectionsState {
            changes: Vec::new(),
            targets: Vec::new(),
            next_id: 0,
            next_sweep: MIN_SWEEP,
            closed: false,
        };
        Self { version: AtomicUsize::new(0), state: Mutex::new(state), clone: OnceLock::new() }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionsState<O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of changes so far.
    #[inline]
    pub(crate) fn version(&self) -> usize {
        // SYNC POINT: connection-changed (driver). Acquire: pairs with the release in `change`; the changes and the clone function are
        // visible.
        self.version.load(Ordering::Acquire)
    }

    /// Takes the changes since the last call.
    pub(crate) fn take_changes(&self) -> Vec<Change<O>> {
        std::mem::take(&mut self.lock().changes)
    }

    /// Returns the function that clones an output. `None` before the first connection.
    pub(crate) fn clone_fn(&self) -> Option<fn(&O) -> O> {
        self.clone.get().copied()
    }

    fn change(&self, state: &mut ConnectionsState<O>, change: Change<O>) {
        state.changes.push(change);
        // SYNC POINT: connection-changed (caller). Release: pairs with the acquire load in `version`; publishes the change and the clone
        // function.
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Adds a connection and returns its id.
    pub(crate) fn add(&self, to: &Arc<KernelCell>, sink: Box<dyn OutputSink<O>>, link: Option<u8>) -> usize
    where
        O: Clone,
    {
        self.clone.get_or_init(|| O::clone);
        let mut state = self.lock();
        let id = state.next_id;
        state.next_id += 1;
        if !state.closed {
            state.targets.push(Target { id, cell: Arc::downgrade(to), linked: link.is_some() });
            self.change(&mut state, Change::Add(NewConnection { id, sink, link }));
            if state.targets.len() >= state.next_sweep {
                state.sweep();
            }
        }
        id
    }

    /// Removes a connection. The driver drops it at its next output.
    pub(crate) fn remove(&self, id: usize) -> Removal {
        let mut state = self.lock();
        let Some(index) = state.targets.iter().position(|target| target.id == id) else {
            return Removal::Gone;
        };
        if state.targets[index].linked {
            return Removal::Linked;
        }
        state.targets.swap_remove(index);
        self.change(&mut state, Change::Remove(id));
        Removal::Removed
    }

    /// Forgets a connection whose target has ended: the driver has dropped it.
    pub(crate) fn forget(&self, id: usize) {
        self.lock().targets.retain(|target| target.id != id);
    }

    /// Returns the ids of the connections to a ring kernel.
    pub(crate) fn ids_to(&self, to: &KernelCell) -> Vec<usize> {
        let is_to = |target: &&Target| std::ptr::eq(target.cell.as_ptr(), to);
        self.lock().targets.iter().filter(is_to).map(|target| target.id).collect()
    }

    /// Returns the ring kernels at the other ends.
    pub(crate) fn targets(&self) -> Vec<Arc<KernelCell>> {
        self.lock().targets.iter().filter_map(|target| target.cell.upgrade()).collect()
    }

    /// Drops all connections, at the end of the ring kernel: those in a circle would otherwise keep each other.
    pub(crate) fn close(&self) {
        let changes = {
            let mut state = self.lock();
            state.closed = true;
            state.targets.clear();
            std::mem::take(&mut state.changes)
        };
        // Dropped after the lock is released: a sink may hold the last reference to a ring kernel.
        drop(changes);
    }
}

impl<O> ConnectionsState<O> {
    /// Drops connections that the driver has not taken over and whose targets have ended: a ring kernel that never sends must not keep them.
    fn sweep(&mut self) {
        self.targets.retain(Target::is_alive);
        let targets = &self.targets;
        self.changes.retain(|change| match change {
            Change::Add(added) => targets.iter().any(|target| target.id == added.id),
            Change::Remove(_) => true,
        });
        self.next_sweep = MIN_SWEEP.max(2 * self.targets.len());
    }
}
