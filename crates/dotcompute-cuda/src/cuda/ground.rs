//! What this process has on one device, whichever runtime it belongs to.
//!
//! Two runtimes on one device share its context: a call of the one that waits for the device waits for the ring kernels of the other.
//! So ring kernels, what is to be given back, and the account of what fits are kept for each device and not for each backend.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dotcompute_core::backend::{BackendError, BackendKind};

use super::memory::Graveyard;
use super::stage::Parts;
use crate::account::Account;
use crate::driver::Device;
use crate::tenant::Tenants;

/// A device, as far as this process uses it.
pub(super) struct Ground {
    pub(super) account: Arc<Account>,
    pub(super) tenants: Tenants,
    pub(super) graveyard: Arc<Graveyard>,
    /// What ring kernels use, until they have left and nobody else has it.
    used: Mutex<Vec<Arc<Parts>>>,
}

impl Ground {
    /// That of a device.
    pub(super) fn of(device: &Device) -> Arc<Self> {
        static GROUNDS: OnceLock<Mutex<HashMap<u32, Arc<Ground>>>> = OnceLock::new();
        let mut grounds = GROUNDS.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let ground = grounds.entry(device.index).or_insert_with(|| {
            Arc::new(Self {
                account: Account::new(device.multiprocessors),
                tenants: Tenants::default(),
                graveyard: Arc::default(),
                used: Mutex::default(),
            })
        });
        Arc::clone(ground)
    }

    /// Keeps what a ring kernel uses until it has left, whoever else lets go of it: it may still write there.
    pub(super) fn keep(&self, parts: &Arc<Parts>) {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(parts));
    }

    /// Runs `act` with nothing of ours on the device.
    pub(super) fn quiesced<T>(&self, patience: Duration, act: impl FnOnce() -> T) -> Result<T, BackendError> {
        let deadline = Instant::now() + patience;
        let not_quiet = |kernels| BackendError::QuiesceTimeout { kernels, waited: patience };
        let acted = self.tenants.make_way(patience, || {
            self.see_all_off(deadline)?;
            self.graveyard.clear();
            Ok(act())
        });
        acted.map_err(not_quiet)?.map_err(not_quiet)
    }

    /// Waits also for those that were told to end and are on their way; lets go of what nobody uses any more.
    fn see_all_off(&self, deadline: Instant) -> Result<(), Vec<String>> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stuck = Vec::new();
        used.retain(|parts| match parts.running.wait(deadline) {
            Ok(false) => {
                stuck.push(format!("{} (given up before)", parts.name));
                true
            }
            // Gone, or gone with its context.
            Ok(true) | Err(_) => Arc::strong_count(parts) > 1,
        });
        if stuck.is_empty() { Ok(()) } else { Err(stuck) }
    }
}

/// How an error of the device is told.
pub(super) fn device_error(doing: &str, problem: &dyn std::fmt::Display) -> BackendError {
    BackendError::Device { backend: BackendKind::Cuda, doing: doing.to_owned(), problem: problem.to_string() }
}
