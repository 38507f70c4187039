//! The ring kernels of a runtime: by name, and in topological order of their connections.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cell::any_kernel::AnyKernel;
use crate::cell::kernel_cell::{KernelCell, Unregister};
use crate::error::LaunchError;

/// The ring kernels by name.
#[derive(Default)]
pub(crate) struct Registry {
    kernels: Mutex<HashMap<Arc<str>, Arc<dyn AnyKernel>>>,
    closed: AtomicBool,
}

impl Registry {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<dyn AnyKernel>>> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a ring kernel, or returns why its name cannot be used. The name of a failed ring kernel may be reused.
    pub(super) fn add(&self, kernel: Arc<dyn AnyKernel>) -> Result<(), LaunchError> {
        let name = Arc::clone(&kernel.cell().name);
        let mut kernels = self.lock();
        // Checked under the lock that `close` takes after setting the flag: a ring kernel added here is also shut down.
        if self.closed.load(Ordering::Acquire) {
            return Err(LaunchError::RuntimeClosed { kernel: name });
        }
        if let Some(holder) = kernels.get(&name) {
            let state = holder.cell().lifecycle.get();
            if !state.has_ended() {
                return Err(LaunchError::DuplicateName { kernel: name, state });
            }
        }
        kernels.insert(name, kernel);
        Ok(())
    }

    pub(super) fn all(&self) -> Vec<Arc<dyn AnyKernel>> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn close(&self) -> Vec<Arc<dyn AnyKernel>> {
        self.closed.store(true, Ordering::Release);
        self.all()
    }
}

impl Unregister for Registry {
    fn unregister(&self, cell: &KernelCell) {
        let mut kernels = self.lock();
        if kernels.get(&cell.name).is_some_and(|holder| std::ptr::eq(holder.cell(), cell)) {
            kernels.remove(&cell.name);
        }
    }
}

/// Sorts ring kernels so that each precedes its downstream ring kernels. Those in a cycle come last, in any order.
pub(super) fn topological_order(kernels: Vec<Arc<dyn AnyKernel>>) -> Vec<Arc<dyn AnyKernel>> {
    let mut upstream_counts: HashMap<Arc<str>, usize> = HashMap::new();
    let downstream: Vec<Vec<Arc<str>>> = kernels
        .iter()
        .map(|kernel| kernel.cell().downstream.lock().unwrap_or_else(PoisonError::into_inner).clone())
        .collect();
    for name in downstream.iter().flatten() {
        *upstream_counts.entry(Arc::clone(name)).or_default() += 1;
    }
    let index_of: HashMap<Arc<str>, usize> =
        kernels.iter().enumerate().map(|(index, kernel)| (Arc::clone(&kernel.cell().name), index)).collect();
    let has_upstream = |upstream_counts: &HashMap<Arc<str>, usize>, index: usize| {
        upstream_counts.get(&kernels[index].cell().name).is_some_and(|&count| count > 0)
    };
    let mut order: Vec<usize> =
        (0..kernels.len()).filter(|&index| !has_upstream(&upstream_counts, index)).collect();
    let mut next = 0;
    while next < order.len() {
        for name in &downstream[order[next]] {
            let Some(count) = upstream_counts.get_mut(name) else { continue };
            *count -= 1;
            if *count == 0 {
                order.extend(index_of.get(name));
            }
        }
        next += 1;
    }
    let cyclic: Vec<usize> =
        (0..kernels.len()).filter(|&index| has_upstream(&upstream_counts, index)).collect();
    order.into_iter().chain(cyclic).map(|index| Arc::clone(&kernels[index])).collect()
}
