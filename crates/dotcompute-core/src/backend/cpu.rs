//! The CPU backend: ring kernels as tasks, on a pool of workers or on threads of their own.

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

/// Threads of this process.
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
        // Another launch may have been quicker; the pool that lost stops its workers when dropped.
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
                    "its handler is code for a device; give the runtime a device's backend",
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
                Box::new(OnPool(shared_task))
            }
            Placement::Dedicated => Box::new(OnThread::start(&plan.kernel, task, None)?),
            Placement::Pinned(core) => {
                let usable = core_affinity::get_core_ids().unwrap_or_default();
                let Some(&id) = usable.get(core) else {
                    return Err(BackendError::NoSuchCore { requested: core, usable: usable.len() });
                };
                Box::new(OnThread::start(&plan.kernel, task, Some(id))?)
            }
        };
        Ok(Resident { residency, port: None })
    }
}

/// A shared pool of worker threads.
///
/// Scheduling tasks on threads is not what this project is about, so it is the work of `async-executor`, smol's small and
/// well-kept executor: a task costs its own memory and about a hundred bytes, and nothing while idle.
struct Pool {
    executor: Arc<Executor<'static>>,
    stop: Arc<Stop>,
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
        self.stop.now();
        // Workers are not joined: one may be inside a handler that never returns. The tasks they leave are dropped with the
        // executor, by whoever lets go of it last, and become `Terminated` by that.
    }
}

/// Tells the workers to stop.
struct Stop {
    now: AtomicBool,
    workers: WaitList,
}

impl Default for Stop {
    fn default() -> Self {
        Self { now: AtomicBool::new(false), workers: WaitList::new(Fence::Symmetric) }
    }
}

impl Stop {
    fn now(&self) {
        self.now.store(true, Ordering::Release);
        self.workers.notify_all();
    }

    async fn wait(&self) {
        let mut ticket = WaitToken::default();
        std::future::poll_fn(|cx| {
            self.workers.register(&mut ticket, cx.waker());
            if self.now.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.workers.cancel(&mut ticket);
    }
}

/// A ring kernel on the pool: it holds nothing that outlives its task.
struct OnPool(Arc<SharedTask>);

impl Residency for OnPool {
    fn shared_task(&self) -> Option<Arc<SharedTask>> {
        Some(Arc::clone(&self.0))
    }

    fn join(&self, _deadline: Instant) -> bool {
        true
    }
}

/// A ring kernel on a thread of its own.
struct OnThread {
    gone: Arc<(Mutex<bool>, Condvar)>,
}

impl OnThread {
    fn start(
        kernel: &str,
        task: HostTask,
        core: Option<core_affinity::CoreId>,
    ) -> Result<Self, BackendError> {
        let gone: Arc<(Mutex<bool>, Condvar)> = Arc::default();
        let at_exit = SetAtExit(Arc::clone(&gone));
        let run = move || {
            let _at_exit = at_exit;
            if let Some(core) = core {
                // Allowed a moment ago; should it be forbidden now, the ring kernel runs all the same.
                core_affinity::set_for_current(core);
            }
            run_to_end(task);
        };
        // The operating system shows 15 bytes of it.
        let thread =
            std::thread::Builder::new().name(kernel.chars().filter(|&c| c != '\0').take(15).collect());
        thread.spawn(run).map_err(|source| BackendError::Thread { source })?;
        Ok(Self { gone })
    }
}

impl Residency for OnThread {
    fn join(&self, deadline: Instant) -> bool {
        let (gone, changed) = &*self.gone;
        let mut gone = gone.lock().unwrap_or_else(PoisonError::into_inner);
        while !*gone {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            gone = changed.wait_timeout(gone, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

/// Sets the flag when the thread ends, also by a panic.
struct SetAtExit(Arc<(Mutex<bool>, Condvar)>);

impl Drop for SetAtExit {
    fn drop(&mut self) {
        let (gone, changed) = &*self.0;
        *gone.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
    }
}

/// Polls a task on this thread until it is done, sleeping while it waits.
fn run_to_end(mut task: HostTask) {
    let waker = thread_waker();
    let mut cx = Context::from_waker(&waker);
    while task.as_mut().poll(&mut cx).is_pending() {
        park(None);
    }
}
