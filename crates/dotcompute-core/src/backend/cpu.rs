//! The CPU backend: runs drivers on a pool of workers or on dedicated threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Instant;

use async_executor::Executor;
use dotcompute_ring::fence::Fence;
use dotcompute_ring::wait::{park, thread_waker};
use dotcompute_ring::wait_list::{WaitList, WaitToken};

use super::Backend;
use super::error::{BackendError, BackendKind};
use super::launch_plan::{HostTask, LaunchPlan, Program};
#[cfg(not(feature = "pinning"))]
use super::no_affinity as core_affinity;
use super::residency::{Residency, Resident};
use super::shared_task::SharedTask;
use crate::options::Placement;

/// Runs ring kernels on threads of this process.
pub(crate) struct CpuBackend {
    workers: usize,
    /// Started by the first ring kernel placed on it.
    pool: OnceLock<Pool>,
}

impl CpuBackend {
    pub(crate) fn new(workers: usize) -> Self {
        Self { workers: workers.max(1), pool: OnceLock::new() }
    }

    fn pool(&self) -> Result<&Pool, BackendError> {
        if let Some(pool) = self.pool.get() {
            return Ok(pool);
        }
        let pool = Pool::start(self.workers)?;
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
                let (shared_task, pool_task) = SharedTask::new(task);
                self.pool()?.executor.spawn(pool_task).detach();
                Box::new(PoolResidency(shared_task))
            }
            Placement::Dedicated => Box::new(ThreadResidency::start(&plan.kernel, task, None)?),
            Placement::Pinned(core) => {
                let usable = core_affinity::get_core_ids().unwrap_or_default();
                let Some(&id) = usable.get(core) else {
                    return Err(BackendError::NoSuchCore { requested: core, usable: usable.len() });
                };
                Box::new(ThreadResidency::start(&plan.kernel, task, Some(id))?)
            }
        };
        Ok(Resident { residency, port: None })
    }
}

/// A shared pool of worker threads.
///
/// Scheduling is left to `async-executor`, the small executor of smol: a task costs its own memory and about a hundred bytes, and no CPU
/// time while idle.
struct Pool {
    executor: Arc<Executor<'static>>,
    stop: Arc<StopSignal>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    fn start(workers: usize) -> Result<Self, BackendError> {
        let mut pool =
            Self { executor: Arc::new(Executor::new()), stop: Arc::default(), workers: Vec::new() };
        for index in 0..workers {
            let executor = Arc::clone(&pool.executor);
            let stop = Arc::clone(&pool.stop);
            let run = move || futures_lite::future::block_on(executor.run(stop.wait()));
            let thread = std::thread::Builder::new().name(format!("dotcompute-{index}"));
            let worker = thread.spawn(run).map_err(|source| BackendError::Thread { source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.trigger();
        // Workers are not joined: one may be in a handler that never returns, and it keeps the executor alive. The runtime therefore drops
        // the tasks itself (`SharedTask::close`).
    }
}

/// Stops the workers.
struct StopSignal {
    triggered: AtomicBool,
    workers: WaitList,
}

impl Default for StopSignal {
    fn default() -> Self {
        Self { triggered: AtomicBool::new(false), workers: WaitList::new(Fence::Symmetric) }
    }
}

impl StopSignal {
    fn trigger(&self) {
        // SYNC POINT: pool-stop (runtime). Stores, then wakes. Release: pairs with the acquire load in `wait`.
        self.triggered.store(true, Ordering::Release);
        self.workers.notify_all();
    }

    async fn wait(&self) {
        let mut token = WaitToken::default();
        std::future::poll_fn(|cx| {
            // SYNC POINT: pool-stop (worker). Registers, then rechecks. Pairs with `trigger`.
            self.workers.register(&mut token, cx.waker());
            if self.triggered.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.workers.cancel(&mut token);
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
        thread.spawn(run).map_err(|source| BackendError::Thread { source })?;
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
}
