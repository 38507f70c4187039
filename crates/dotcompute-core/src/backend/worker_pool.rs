//! The shared pool of worker threads. Another thread takes over for each worker whose handler blocks.
//!
//! Scheduling is left to `async-executor`, the small executor of smol: a task costs its own memory and about a hundred bytes, and no CPU
//! time while idle.
//!
//! A handler may ask, tell into a full mailbox, receive, or wait for the end of a ring kernel. Before such a call parks the worker, the
//! worker hands its duty to a spare thread or a new one ([`block`]), as tokio's `block_in_place` and the managed blocking of Java's
//! Fork/Join pool do. When the call returns, one thread more than needed runs tasks; the next one between two tasks becomes spare. Spare
//! threads end after some time.

use std::cell::RefCell;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_executor::Executor;
use dotcompute_ring::fence::Fence;
use dotcompute_ring::wait::{Backoff, Step, WaitStrategy, block_on_poll, spin_then_park};
use dotcompute_ring::wait_list::{WaitList, WaitToken};

use super::error::BackendError;
use super::launch_plan::HostTask;
use super::shared_task::{PoolTask, SharedTask};
use crate::stack::WORKER_STACK;

/// Time after which a spare thread ends.
const SPARE_LIFETIME: Duration = Duration::from_secs(10);

thread_local! {
    /// The pool whose worker this thread is.
    static POOL: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
}

/// The pool. Dropping it stops the workers.
pub(super) struct WorkerPool(Arc<Shared>);

struct Shared {
    executor: Executor<'static>,
    /// Threads that run tasks, as far as the limit of blocked ones allows.
    workers: usize,
    /// Handlers that may block at a time.
    max_blocked: usize,
    threads: Mutex<Threads>,
    /// Spare threads wait here.
    spare_wanted: Condvar,
    /// Running threads wait here to be told to stop or to leave.
    running: WaitList,
}

#[derive(Default)]
struct Threads {
    /// Names the next thread.
    started: usize,
    /// Threads that run tasks, or were told to.
    running: usize,
    /// Threads in a call that blocks.
    blocked: usize,
    /// Threads that have nothing to do.
    spare: usize,
    /// Spare threads that were told to run tasks and have not begun to.
    recalled: usize,
    stopped: bool,
}

impl WorkerPool {
    /// Starts the workers.
    ///
    /// # Errors
    ///
    /// [`BackendError::Thread`] if a thread cannot be started. The pool has no thread then.
    pub(super) fn start(workers: usize, max_blocked: usize) -> Result<Self, BackendError> {
        let pool = Self(Arc::new(Shared {
            executor: Executor::new(),
            workers,
            max_blocked,
            threads: Mutex::default(),
            spare_wanted: Condvar::new(),
            running: WaitList::new(Fence::Symmetric),
        }));
        for _ in 0..pool.0.workers {
            pool.0.start_thread(&mut pool.0.lock()).map_err(|source| BackendError::Thread { source })?;
        }
        Ok(pool)
    }

    /// Runs a task to its end. Returns it as callers see it.
    pub(super) fn spawn(&self, task: HostTask) -> Arc<SharedTask> {
        let (shared_task, pool_task): (_, PoolTask) = SharedTask::new(task);
        self.0.executor.spawn(pool_task).detach();
        shared_task
    }
}

impl Drop for WorkerPool {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.spare_wanted.notify_all();
        // SYNC POINT: pool-stop (runtime). Stores, then wakes. Pairs with `Shared::poll_leave`.
        self.0.running.notify_all();
        // Threads are not joined: one may be in a handler that never returns, and it keeps the executor alive. The runtime therefore drops
        // the tasks itself (`SharedTask::close`).
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_thread(self: &Arc<Self>, threads: &mut Threads) -> std::io::Result<()> {
        let shared = Arc::clone(self);
        let name = format!("dotcompute-{}", threads.started);
        let thread = std::thread::Builder::new().name(name).stack_size(WORKER_STACK);
        thread.spawn(move || shared.work())?;
        threads.started += 1;
        threads.running += 1;
        Ok(())
    }

    /// The life of a worker thread.
    fn work(self: Arc<Self>) {
        POOL.set(Some(Arc::clone(&self)));
        loop {
            let mut token = WaitToken::default();
            let leave = std::future::poll_fn(|cx| self.poll_leave(&mut token, cx));
            futures_lite::future::block_on(self.executor.run(leave));
            self.running.cancel(&mut token);
            if !self.wait_as_spare() {
                return;
            }
        }
    }

    /// Ready when the calling thread is to run no more tasks: the pool has stopped, or the thread is now spare.
    fn poll_leave(&self, token: &mut WaitToken, cx: &mut Context<'_>) -> Poll<()> {
        // SYNC POINT: pool-stop (worker). Registers, then rechecks. Pairs with the drop of `WorkerPool` and with `end_blocking`.
        self.running.register(token, cx.waker());
        let mut threads = self.lock();
        if threads.stopped {
            return Poll::Ready(());
        }
        if threads.running <= self.workers {
            return Poll::Pending;
        }
        threads.running -= 1;
        threads.spare += 1;
        Poll::Ready(())
    }

    /// Waits until this thread is needed again. Returns `false` if it is to end.
    fn wait_as_spare(&self) -> bool {
        let deadline = Instant::now() + SPARE_LIFETIME;
        let mut threads = self.lock();
        loop {
            if threads.stopped {
                return false;
            }
            if threads.recalled > 0 {
                threads.recalled -= 1;
                return true;
            }
            let Some(remaining) = deadline.checked_duration_since(Instant::now()) else {
                threads.spare -= 1;
                return false;
            };
            threads =
                self.spare_wanted.wait_timeout(threads, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Another thread takes over the duty of the calling worker, which is about to block.
    fn begin_blocking(self: &Arc<Self>) {
        let mut threads = self.lock();
        threads.blocked += 1;
        threads.running -= 1;
        if threads.running >= self.workers {
            // A thread that was to become spare goes on instead.
        } else if threads.spare > 0 {
            threads.spare -= 1;
            threads.recalled += 1;
            threads.running += 1;
            self.spare_wanted.notify_one();
        } else if let Err(error) = self.start_thread(&mut threads) {
            log::warn!(
                "a handler blocks a worker of the shared pool, and no thread can be started in its place: {error}; the pool runs fewer \
                 ring kernels at a time until the handler goes on"
            );
        }
    }

    /// The calling worker runs tasks again. Another one becomes spare if there are more than needed.
    fn end_blocking(&self) {
        let mut threads = self.lock();
        threads.blocked -= 1;
        threads.running += 1;
        let surplus = threads.running > self.workers;
        drop(threads);
        if surplus {
            // SYNC POINT: pool-stop (returning worker). Stores, then wakes. Pairs with `poll_leave`.
            self.running.notify_all();
        }
    }
}

/// The calling worker blocks while this exists.
struct Blocking(Arc<Shared>);

impl Blocking {
    fn begin(pool: Arc<Shared>) -> Self {
        pool.begin_blocking();
        Self(pool)
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        self.0.end_blocking();
    }
}

fn this_pool() -> Option<Arc<Shared>> {
    POOL.try_with(|pool| pool.borrow().clone()).ok().flatten()
}

/// As many handlers block on the shared pool as its limit allows.
pub(crate) struct PoolExhausted {
    /// The limit.
    pub(crate) max_blocked: usize,
}

/// Checks whether the calling thread may block: not if it is a worker of a pool in which too many handlers block already.
///
/// # Errors
///
/// [`PoolExhausted`].
#[inline]
pub(crate) fn check_may_block() -> Result<(), PoolExhausted> {
    POOL.try_with(|pool| match &*pool.borrow() {
        Some(shared) if shared.lock().blocked >= shared.max_blocked => {
            Err(PoolExhausted { max_blocked: shared.max_blocked })
        }
        _ => Ok(()),
    })
    .unwrap_or(Ok(()))
}

/// Like [`spin_then_park`]. If the thread is a worker of a pool, another thread takes over its duty before it parks.
#[inline]
pub(crate) fn block<T>(
    strategy: WaitStrategy,
    deadline: Option<Instant>,
    poll: impl FnMut(Option<&mut Context<'_>>) -> Poll<T>,
) -> Option<T> {
    match this_pool() {
        None => spin_then_park(strategy, deadline, poll),
        Some(pool) => block_worker(pool, strategy, deadline, poll),
    }
}

/// Like [`block_on_poll`]. If the thread is a worker of a pool, another thread takes over its duty meanwhile.
#[cold]
pub(crate) fn block_parked<T>(
    strategy: WaitStrategy,
    deadline: Option<Instant>,
    poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
) -> Option<T> {
    match this_pool() {
        None => block_on_poll(strategy, deadline, poll),
        Some(pool) => {
            let _blocking = Blocking::begin(pool);
            block_on_poll(WaitStrategy::Park, deadline, poll)
        }
    }
}

/// Returns how a caller on this thread spins before it parks: a worker of a pool has other ring kernels to run and does not spin forever.
#[inline]
pub(crate) fn spin_strategy(strategy: WaitStrategy) -> WaitStrategy {
    match strategy {
        WaitStrategy::Spin if this_pool().is_some() => WaitStrategy::Adaptive,
        strategy => strategy,
    }
}

#[cold]
fn block_worker<T>(
    pool: Arc<Shared>,
    strategy: WaitStrategy,
    deadline: Option<Instant>,
    mut poll: impl FnMut(Option<&mut Context<'_>>) -> Poll<T>,
) -> Option<T> {
    let mut backoff = Backoff::new(spin_strategy(strategy));
    loop {
        if let Poll::Ready(value) = poll(None) {
            return Some(value);
        }
        if backoff.snooze() == Step::Park {
            break;
        }
    }
    let _blocking = Blocking::begin(pool);
    block_on_poll(WaitStrategy::Park, deadline, |cx| poll(Some(cx)))
}
