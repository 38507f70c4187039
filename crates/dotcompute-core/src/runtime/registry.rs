//! The ring kernels of a runtime by name, and what is left of those that have failed.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use super::failed::{FailedKernel, FailedKernels, address};
use crate::cell::any_kernel::AnyKernel;
use crate::cell::kernel_cell::{EndObserver, KernelCell};
use crate::error::{LaunchError, LifecycleError};
use crate::lifecycle::State;
use crate::telemetry::KernelStats;

/// Number of known names that an "unknown ring kernel" error lists.
const NAMES_IN_ERRORS: usize = 8;

/// A map with a smaller share of entries than one in this number gives memory back.
const MIN_OCCUPANCY: usize = 16;

struct Kernels {
    by_name: HashMap<Arc<str>, Arc<dyn AnyKernel>>,
    failed: FailedKernels,
    /// Launches are rejected, and ends are reported.
    closed: bool,
}

/// The ring kernels by name.
pub(crate) struct Registry {
    kernels: RwLock<Kernels>,
    ends: Ends,
}

/// Addresses of the ring kernels that have ended since the registry was closed.
#[derive(Default)]
struct Ends {
    addresses: Mutex<Vec<usize>>,
    added: Condvar,
}

impl Registry {
    /// Creates a registry that keeps the counters of this many failed ring kernels.
    pub(super) fn new(failed_capacity: usize) -> Self {
        let failed = FailedKernels::new(failed_capacity);
        let kernels = Kernels { by_name: HashMap::new(), failed, closed: false };
        Self { kernels: RwLock::new(kernels), ends: Ends::default() }
    }

    fn read(&self) -> RwLockReadGuard<'_, Kernels> {
        self.kernels.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Kernels> {
        self.kernels.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a ring kernel, or returns why its name cannot be used. The name of a failed ring kernel may be reused.
    pub(super) fn add(&self, kernel: Arc<dyn AnyKernel>) -> Result<(), LaunchError> {
        let name = Arc::clone(&kernel.cell().name);
        let mut kernels = self.write();
        if kernels.closed {
            return Err(LaunchError::RuntimeClosed { kernel: name });
        }
        if let Some(holder) = kernels.by_name.get(&name) {
            let state = holder.cell().lifecycle.get();
            if !state.has_ended() {
                return Err(LaunchError::DuplicateName { kernel: name, state });
            }
        }
        kernels.failed.forget(&name);
        let replaced = kernels.by_name.insert(name, kernel);
        drop(kernels);
        // Dropped after the lock is released: the last reference frees its rings.
        drop(replaced);
        Ok(())
    }

    /// Returns the ring kernel of this name. A failed one is an error once no handle is left.
    pub(super) fn find(&self, name: &str) -> Result<Arc<dyn AnyKernel>, LifecycleError> {
        let kernels = self.read();
        if let Some(kernel) = kernels.by_name.get(name) {
            return Ok(Arc::clone(kernel));
        }
        if let Some(failed) = kernels.failed.get(name) {
            return failed.kernel().ok_or_else(|| LifecycleError::WrongState {
                kernel: name.into(),
                state: State::Failed,
                call: "handle",
                advice: "launch another; `stats` still returns its counters",
            });
        }
        Err(kernels.unknown(name))
    }

    /// Returns the counters of the ring kernel of this name, also after its failure.
    pub(super) fn stats(&self, name: &str) -> Result<KernelStats, LifecycleError> {
        let kernels = self.read();
        if let Some(kernel) = kernels.by_name.get(name) {
            let kernel = Arc::clone(kernel);
            drop(kernels);
            return Ok(kernel.stats());
        }
        kernels.failed.get(name).map(FailedKernel::stats).ok_or_else(|| kernels.unknown(name))
    }

    /// Returns the counters of all ring kernels, and of the latest failed ones.
    pub(super) fn all_stats(&self) -> Vec<KernelStats> {
        let (kernels, mut stats): (Vec<_>, Vec<_>) = {
            let kernels = self.read();
            (
                kernels.by_name.values().cloned().collect(),
                kernels.failed.iter().map(FailedKernel::stats).collect(),
            )
        };
        stats.extend(kernels.iter().map(|kernel| kernel.stats()));
        stats
    }

    /// Rejects launches from now on and returns the ring kernels. Their ends are reported to [`wait_for_ends`](Self::wait_for_ends).
    pub(super) fn close(&self) -> Vec<Arc<dyn AnyKernel>> {
        let mut kernels = self.write();
        kernels.closed = true;
        kernels.by_name.values().cloned().collect()
    }

    /// Returns this ring kernel if it uses its name, or was the last of its name to fail.
    fn holder(&self, cell: &KernelCell) -> Option<Arc<dyn AnyKernel>> {
        let kernels = self.read();
        let holder = kernels.by_name.get(&cell.name).cloned();
        let failed = || kernels.failed.get(&cell.name).and_then(FailedKernel::kernel);
        holder.or_else(failed).filter(|kernel| std::ptr::eq(kernel.cell(), cell))
    }

    /// Waits until ring kernels have ended since the last call, and returns their addresses. `None` if the deadline passes first.
    pub(super) fn wait_for_ends(&self, deadline: Instant) -> Option<Vec<usize>> {
        let mut addresses = self.ends.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        while addresses.is_empty() {
            let remaining = deadline.checked_duration_since(Instant::now())?;
            addresses =
                self.ends.added.wait_timeout(addresses, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(std::mem::take(&mut *addresses))
    }
}

impl Kernels {
    fn unknown(&self, name: &str) -> LifecycleError {
        // Any few names: sorting all of them would stop every other caller for milliseconds.
        let mut known: Vec<Arc<str>> = self.by_name.keys().take(NAMES_IN_ERRORS).cloned().collect();
        known.sort();
        LifecycleError::UnknownKernel { kernel: name.to_owned(), known }
    }

    /// Frees the name of a ring kernel, unless another one uses it by now.
    fn remove(&mut self, cell: &KernelCell) -> Option<Arc<dyn AnyKernel>> {
        let kernels = &mut self.by_name;
        if !kernels.get(&cell.name).is_some_and(|holder| std::ptr::eq(holder.cell(), cell)) {
            return None;
        }
        let removed = kernels.remove(&cell.name);
        if kernels.len() < kernels.capacity() / MIN_OCCUPANCY {
            kernels.shrink_to(2 * kernels.len());
        }
        removed
    }
}

impl EndObserver for Registry {
    fn ended(&self, cell: &KernelCell, state: State) {
        // Counted before the lock is taken: reading the latencies of one ring kernel stops no other caller.
        let failed = if state == State::Failed { self.holder(cell) } else { None };
        let failed = failed.map(|kernel| (kernel.stats(), kernel));
        // A ring kernel that ends before the registry is closed is not among those that `close` returns.
        let mut kernels = self.write();
        let removed = kernels.remove(cell);
        match &failed {
            Some((stats, kernel)) if removed.is_some() => kernels.failed.add(kernel, stats.clone()),
            Some((stats, _)) => kernels.failed.update(cell, stats.clone()),
            None => {}
        }
        let closed = kernels.closed;
        drop(kernels);
        // Dropped after the lock is released: the last reference frees its rings.
        drop((removed, failed));
        if closed {
            let mut addresses = self.ends.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            addresses.push(address(cell));
            if addresses.len() == 1 {
                self.ends.added.notify_one();
            }
        }
    }
}
