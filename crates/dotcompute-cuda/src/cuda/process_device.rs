//! The state that this process keeps per device, shared by all of its runtimes.
//!
//! Two runtimes on one device share its context: a device-wide synchronization of one waits for the ring kernels of the other.
//! Ring kernels, deferred releases and the occupancy budget are therefore kept per device and not per backend.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::CudaContext;
use dotcompute_core::backend::BackendError;
use dotcompute_core::deadline;

use super::deferred_free::DeferredFreeList;
use super::error::device_error;
use super::streams::Streams;
use crate::driver::{Device, DriverError, HardwareQueues};
use crate::occupancy::{OccupancyBudget, Unit};
use crate::resident_kernels::{QuiesceError, ResidentKernels};

/// Resources of a ring kernel that stay allocated until its grid has exited.
pub(super) trait ExitWaiter: Send + Sync {
    /// Returns the ring kernel's name.
    fn name(&self) -> &str;

    /// Waits until the grid has exited, at most until `deadline`. Returns false on timeout.
    fn wait_exited(&self, deadline: Instant) -> Result<bool, DriverError>;
}

/// A device, as this process uses it.
pub(super) struct ProcessDevice {
    index: u32,
    /// Why the device's context is lost, once it is.
    lost: OnceLock<String>,
    pub(super) occupancy: Arc<OccupancyBudget>,
    /// The grids that ring kernels may run at once.
    pub(super) grids: Arc<OccupancyBudget>,
    pub(super) streams: Arc<Streams>,
    pub(super) kernels: ResidentKernels,
    pub(super) deferred_free: Arc<DeferredFreeList>,
    /// Resources of ring kernels whose grid may still run, or that have another owner.
    in_use: Mutex<Vec<Arc<dyn ExitWaiter>>>,
}

impl ProcessDevice {
    /// Returns the entry of `device`, which it creates on first use.
    pub(super) fn of(device: &Device) -> Arc<Self> {
        static PROCESS_DEVICES: OnceLock<Mutex<HashMap<u32, Arc<ProcessDevice>>>> = OnceLock::new();
        let mut devices =
            PROCESS_DEVICES.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        let process_device = devices.entry(device.index).or_insert_with(|| {
            Arc::new(Self {
                index: device.index,
                lost: OnceLock::new(),
                occupancy: OccupancyBudget::new(Unit::Blocks, device.multiprocessors),
                grids: OccupancyBudget::of_grids(device.architecture),
                streams: Streams::new(HardwareQueues::in_effect()),
                kernels: ResidentKernels::default(),
                deferred_free: Arc::default(),
                in_use: Mutex::default(),
            })
        });
        Arc::clone(process_device)
    }

    /// # Errors
    ///
    /// [`DriverError::ContextLost`] with the cause if the device's context is lost.
    pub(super) fn check(&self) -> Result<(), DriverError> {
        match self.lost.get() {
            Some(cause) => Err(DriverError::ContextLost { device: self.index, cause: cause.clone() }),
            None => Ok(()),
        }
    }

    /// Passes on the outcome of driver calls. If it says that the context is lost, everything on the device fails now, with this cause.
    pub(super) fn noted<T>(
        &self,
        context: &Arc<CudaContext>,
        outcome: Result<T, DriverError>,
    ) -> Result<T, DriverError> {
        outcome.map_err(|error| {
            if !error.context_is_lost() {
                return error;
            }
            if self.lost.get().is_none() {
                self.lose(context, &error);
            }
            self.check().err().unwrap_or(error)
        })
    }

    /// Records the loss of the context. NVIDIA's advice is to end the process: a reset would free what other code of the process still uses.
    /// So the context is kept, lost as it is, and nothing in it is freed: its handles could name resources of a later context.
    fn lose(&self, context: &Arc<CudaContext>, error: &DriverError) {
        let handling = self.kernels.in_handlers();
        let cause = match handling.len() {
            0 => error.to_string(),
            _ => format!("{error} (in their handlers at the time: {})", handling.join(", ")),
        };
        if self.lost.set(cause).is_err() {
            return;
        }
        self.deferred_free.abandon();
        std::mem::forget(Arc::clone(context));
        if let Err(lost) = self.check() {
            self.kernels.mark_all_lost(&lost.to_string());
        }
    }

    /// Keeps `resources` until their grid has exited, even if every other owner drops them: the grid may still write there.
    pub(super) fn keep_until_exit(&self, resources: Arc<dyn ExitWaiter>) {
        self.in_use.lock().unwrap_or_else(PoisonError::into_inner).push(resources);
    }

    /// Runs `act` while no ring kernel of this process is resident on the device. Inside `act`, the same thread may call it again.
    ///
    /// # Errors
    ///
    /// [`BackendError::QuiesceTimeout`] if a ring kernel is still resident after `timeout`, [`BackendError::QuiescedElsewhere`] if another thread
    /// still holds the device quiet. At once: the cause if the device's context is lost, and [`BackendError::HungKernels`] if the handler of a
    /// ring kernel does not return. `act` is not run then.
    pub(super) fn quiesced<T>(&self, timeout: Duration, act: impl FnOnce() -> T) -> Result<T, BackendError> {
        self.check().map_err(|lost| device_error("quiescing the device", &lost))?;
        let hung = self.kernels.hung_names();
        if !hung.is_empty() {
            return Err(BackendError::HungKernels { kernels: hung });
        }
        let deadline = deadline::after(timeout);
        let not_quiet = |error: QuiesceError| error.after(timeout);
        let acted = self.kernels.quiesce(timeout, || {
            self.wait_for_exits(deadline)?;
            self.deferred_free.drain();
            Ok(act())
        });
        acted.map_err(not_quiet)?.map_err(|kernels| not_quiet(QuiesceError::Resident(kernels)))
    }

    /// Waits also for terminated ring kernels whose grid has not exited yet, and drops resources that have no other owner.
    fn wait_for_exits(&self, deadline: Instant) -> Result<(), Vec<String>> {
        let mut in_use = self.in_use.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stuck = Vec::new();
        in_use.retain(|resources| match resources.wait_exited(deadline) {
            Ok(false) => {
                stuck.push(format!("{} (abandoned earlier)", resources.name()));
                true
            }
            // An error means that the context is lost, and the grid with it.
            Ok(true) | Err(_) => Arc::strong_count(resources) > 1,
        });
        if stuck.is_empty() { Ok(()) } else { Err(stuck) }
    }
}
