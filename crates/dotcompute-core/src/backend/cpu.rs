//! The CPU backend: runs drivers on a pool of workers or on dedicated threads.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::Context;
use std::time::Instant;

use dotcompute_ring::wait::{park, thread_waker};

use super::Backend;
use super::error::{BackendError, BackendKind};
use super::launch_plan::{HostTask, LaunchPlan, Program};
#[cfg(not(feature = "pinning"))]
use super::no_affinity as core_affinity;
use super::residency::{Residency, Resident};
use super::shared_task::SharedTask;
use super::worker_pool::WorkerPool;
use crate::options::Placement;
use crate::user_code::drop_contained;

/// Runs ring kernels on threads of this process.
pub(crate) struct CpuBackend {
    workers: usize,
    max_blocked: usize,
    /// Started by the first ring kernel placed on it.
    pool: OnceLock<WorkerPool>,
}

impl CpuBackend {
    pub(crate) fn new(workers: usize, max_blocked: usize) -> Self {
        Self { workers: workers.max(1), max_blocked, pool: OnceLock::new() }
    }

    fn pool(&self) -> Result<&WorkerPool, BackendError> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool);
        }
        let pool = WorkerPool::start(self.workers, self.max_blocked)?;
        // Another launch may have started a pool meanwhile; this pool then stops its workers when dropped.
        Ok(self.pool.get_or_init(|| pool))
    }
}

impl Backend for CpuBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Cpu
    }

    fn launch(&self, plan: LaunchPlan) -> Result<Resident, BackendError> {
        let Program::Host(task) = plan.program else {
            return Err(BackendError::Unsupported {
                backend: BackendKind::Cpu,
                problem: String::from(
                    "its handler is code for a device; set a device with `RuntimeOptions::device`",
                ),
            });
        };
        #[cfg(not(feature = "pinning"))]
        if let Placement::Pinned(_) = plan.placement {
            return Err(core_affinity::error());
        }
        let residency: Box<dyn Residency> = match plan.placement {
            Placement::Pool => {
                let shared_task = self.pool()?.spawn(task);
                Box::new(PoolResidency(shared_task))
            }
            Placement::Dedicated => {
                Box::new(ThreadResidency::start(&plan.kernel, plan.stack_bytes, task, None)?)
            }
            Placement::Pinned(core) => {
                let usable = core_affinity::get_core_ids().unwrap_or_default();
                let Some(&id) = usable.get(core) else {
                    return Err(BackendError::NoSuchCore { requested: core, usable: usable.len() });
                };
                Box::new(ThreadResidency::start(&plan.kernel, plan.stack_bytes, task, Some(id))?)
            }
        };
        Ok(Resident { residency, port: None })
    }
}

/// Residency of a ring kernel on the pool, which holds nothing that outlives its task.
struct PoolResidency(Arc<SharedTask>);

impl Residency for PoolResidency {
    fn shared_task(&self) -> Option<Arc<SharedTask>> {
        Some(Arc::clone(&self.0))
    }

    fn join(&self, _deadline: Instant) -> bool {
        true
    }
}

/// Residency of a ring kernel on a dedicated thread.
struct ThreadResidency {
    exited: Arc<(Mutex<bool>, Condvar)>,
}

impl ThreadResidency {
    fn start(
        kernel: &str,
        stack_bytes: usize,
        task: HostTask,
        core: Option<core_affinity::CoreId>,
    ) -> Result<Self, BackendError> {
        let exited: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let exit_guard = ExitFlagGuard(Arc::clone(&exited));
        let run = move || {
            let _at_exit = exit_guard;
            if let Some(core) = core {
                // The core was available a moment ago. If setting the affinity fails now, the ring kernel runs without it.
                core_affinity::set_for_current(core);
            }
            run_to_end(task);
        };
        // Linux shows only 15 bytes of a thread name.
        let thread =
            std::thread::Builder::new().name(kernel.chars().filter(|&c| c != '\0').take(15).collect());
        thread.stack_size(stack_bytes).spawn(run).map_err(|source| BackendError::Thread { source })?;
        Ok(Self { exited })
    }
}

impl Residency for ThreadResidency {
    fn join(&self, deadline: Instant) -> bool {
        let (exited, changed) = &*self.exited;
        let mut exited = exited.lock().unwrap_or_else(PoisonError::into_inner);
        while !*exited {
            let Some(remaining) = deadline.checked_duration_since(Instant::now()) else { return false };
            exited = changed.wait_timeout(exited, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Sets the flag when the thread ends, also by a panic.
struct ExitFlagGuard(Arc<(Mutex<bool>, Condvar)>);

impl Drop for ExitFlagGuard {
    fn drop(&mut self) {
        let (exited, changed) = &*self.0;
        *exited.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

/// Polls a task on this thread until it is ready, parking while it is pending.
fn run_to_end(mut task: HostTask) {
    let waker = thread_waker();
    let mut cx = Context::from_waker(&waker);
    while task.as_mut().poll(&mut cx).is_pending() {
        park(None);
    }
    drop_contained(task);
}
