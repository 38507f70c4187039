//! Which ring kernels a runtime has: by name, and in the order in which they feed each other.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cell::any_kernel::AnyKernel;
use crate::cell::kernel_cell::{Core, Unregister};
use crate::error::LaunchError;

/// The names in use.
#[derive(Default)]
pub(crate) struct Registry {
    kernels: Mutex<HashMap<Arc<str>, Arc<dyn AnyKernel>>>,
    closed: AtomicBool,
}

impl Registry {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<dyn AnyKernel>>> {
        self.kernels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the name, or says why not. A failed ring kernel's name may be taken over.
    pub(super) fn add(&self, kernel: Arc<dyn AnyKernel>) -> Result<(), LaunchError> {
        let name = Arc::clone(&kernel.core().name);
        let mut kernels = self.lock();
        // Looked at under the lock that `close` takes after setting it: what is added is also shut down.
        if self.closed.load(Ordering::Acquire) {
            return Err(LaunchError::RuntimeClosed { kernel: name });
        }
        if let Some(holder) = kernels.get(&name) {
            let state = holder.core().life.get();
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
    fn unregister(&self, core: &Core) {
        let mut kernels = self.lock();
        if kernels.get(&core.name).is_some_and(|holder| std::ptr::eq(holder.core(), core)) {
            kernels.remove(&core.name);
        }
    }
}

/// Sorts ring kernels so that each comes before those it feeds. Those in a circle come last, in any order.
pub(super) fn in_order_of_flow(kernels: Vec<Arc<dyn AnyKernel>>) -> Vec<Arc<dyn AnyKernel>> {
    let mut fed_by: HashMap<Arc<str>, usize> = HashMap::new();
    let feeds: Vec<Vec<Arc<str>>> = kernels
        .iter()
        .map(|kernel| kernel.core().feeds.lock().unwrap_or_else(PoisonError::into_inner).clone())
        .collect();
    for name in feeds.iter().flatten() {
        *fed_by.entry(Arc::clone(name)).or_default() += 1;
    }
    let index_of: HashMap<Arc<str>, usize> =
        kernels.iter().enumerate().map(|(index, kernel)| (Arc::clone(&kernel.core().name), index)).collect();
    let is_fed = |fed_by: &HashMap<Arc<str>, usize>, index: usize| {
        fed_by.get(&kernels[index].core().name).is_some_and(|&count| count > 0)
    };
    let mut order: Vec<usize> = (0..kernels.len()).filter(|&index| !is_fed(&fed_by, index)).collect();
    let mut next = 0;
    while next < order.len() {
        for name in &feeds[order[next]] {
            let Some(count) = fed_by.get_mut(name) else { continue };
            *count -= 1;
            if *count == 0 {
                order.extend(index_of.get(name));
            }
        }
        next += 1;
    }
    let circles: Vec<usize> = (0..kernels.len()).filter(|&index| is_fed(&fed_by, index)).collect();
    order.into_iter().chain(circles).map(|index| Arc::clone(&kernels[index])).collect()
}
