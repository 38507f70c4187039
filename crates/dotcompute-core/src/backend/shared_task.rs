//! A task on the pool that other threads may poll too.
//!
//! As a rule a worker polls it. A caller that finds the ring kernel idle may poll it instead ([`SharedTask::try_acquire`]): a reply then
//! costs neither a wake-up nor a transfer to another core and back.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::task::{Context, Poll, Waker};

use super::launch_plan::HostTask;
use crate::user_code::{catch_panic, drop_contained};

/// The task of one ring kernel on the pool. One thread at a time polls it.
///
/// # No lost wake-ups
///
/// A worker sets `wake_pending`, then tries the lock; if a caller holds it, the worker returns `Pending`. The caller releases the lock,
/// then reads `wake_pending` and wakes the worker again. Both sides store, fence (`SeqCst`), then load what the other stores, so at least
/// one sees the other.
pub struct SharedTask {
    /// `None` once the ring kernel has ended.
    task: Mutex<Option<HostTask>>,
    wake_pending: AtomicBool,
    /// The task is to be dropped: its runtime or its pool is gone.
    closed: AtomicBool,
    /// Wakes a worker. Set by the first poll on the pool.
    pool_waker: OnceLock<Waker>,
}

impl SharedTask {
    /// Returns the shared task and the future for the pool.
    pub(crate) fn new(task: HostTask) -> (Arc<Self>, PoolTask) {
        let shared_task = Arc::new(Self {
            task: Mutex::new(Some(task)),
            wake_pending: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            pool_waker: OnceLock::new(),
        });
        (Arc::clone(&shared_task), PoolTask(shared_task))
    }

    /// Acquires the task for an inline run if no other thread polls it. Never waits.
    pub(crate) fn try_acquire(&self) -> Option<RunGuard<'_>> {
        let pool_waker = self.pool_waker.get()?;
        Some(RunGuard { task: Some(self.try_lock()?), shared_task: self, pool_waker })
    }

    /// Drops the task, which ends its ring kernel, unless a thread is polling it. That thread drops it afterwards. Needs no worker.
    pub(crate) fn close(&self) {
        // SYNC POINT: task-closed (closer). Stores, fences, then tries the lock. Pairs with `drop_if_closed`.
        self.closed.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        self.drop_task();
    }

    /// Called by a thread that has polled the task and released the lock.
    fn drop_if_closed(&self) {
        // SYNC POINT: task-closed (poller). Releases the lock, fences, then reads. Pairs with `close`.
        fence(Ordering::SeqCst);
        if self.closed.load(Ordering::Relaxed) {
            self.drop_task();
        }
    }

    #[cold]
    fn drop_task(&self) {
        // The lock is released before the task is dropped: user code in the `drop` of a state may call this ring kernel.
        // A panic in the `drop` of one state must not keep the other ring kernels from ending.
        drop_contained(self.try_lock().and_then(|mut task| task.take()));
    }

    /// `None` if another thread holds the lock. Poisoning is ignored: drivers catch panics of user code, and a panic in a driver leaves
    /// nothing half done that another poll could trip over.
    fn try_lock(&self) -> Option<MutexGuard<'_, Option<HostTask>>> {
        match self.task.try_lock() {
            Ok(task) => Some(task),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Polls the task if it has not ended, and drops it when it is ready.
fn poll(task: &mut Option<HostTask>, cx: &mut Context<'_>) -> Poll<()> {
    let polled = task.as_mut().map_or(Poll::Ready(()), |task| {
        // Drivers catch panics of user code. A waker of another executor may panic too: the ring kernel then ends, not the worker.
        catch_panic(|| task.as_mut().poll(cx)).unwrap_or(Poll::Ready(()))
    });
    if polled.is_ready() {
        drop_contained(task.take());
    }
    polled
}

/// The right to poll the task once on this thread.
pub(crate) struct RunGuard<'a> {
    /// `None` only during `drop`.
    task: Option<MutexGuard<'a, Option<HostTask>>>,
    shared_task: &'a SharedTask,
    pool_waker: &'a Waker,
}

impl RunGuard<'_> {
    /// Polls the task on this thread until it is pending or has used its poll budget, then releases it.
    pub(crate) fn run(mut self) {
        if let Some(task) = &mut self.task {
            // Later wake-ups go to a worker of the pool.
            if poll(task, &mut Context::from_waker(self.pool_waker)).is_ready() {
                // The worker finds no task and removes it from the pool.
                self.pool_waker.wake_by_ref();
            }
        }
    }
}

impl Drop for RunGuard<'_> {
    fn drop(&mut self) {
        // SYNC POINT: wake-pending (caller). Releases the lock, fences in `drop_if_closed`, then reads. Pairs with `PoolTask::poll`. The
        // lock's own release and acquire order the task; the fence orders the release before the load.
        self.task = None;
        self.shared_task.drop_if_closed();
        if self.shared_task.wake_pending.load(Ordering::Relaxed) {
            self.pool_waker.wake_by_ref();
        }
    }
}

/// The pool's part: the future that a worker polls.
pub(crate) struct PoolTask(Arc<SharedTask>);

impl Future for PoolTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared_task = &self.0;
        // The executor uses the same waker for a task from its first poll to its last.
        shared_task.pool_waker.get_or_init(|| cx.waker().clone());
        // SYNC POINT: wake-pending (worker). Stores, fences, then tries the lock. Pairs with `RunGuard::drop`.
        shared_task.wake_pending.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let Some(mut task) = shared_task.try_lock() else { return Poll::Pending };
        shared_task.wake_pending.store(false, Ordering::Relaxed);
        let polled = poll(&mut task, cx);
        drop(task);
        shared_task.drop_if_closed();
        polled
    }
}

impl Drop for PoolTask {
    /// Ends the ring kernel with the pool.
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct CountingWaker(AtomicUsize);

    impl Wake for CountingWaker {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A task that counts its polls and is ready after `last`, and a waker that counts its wake-ups.
    fn counting(last: usize) -> (Arc<SharedTask>, PoolTask, Arc<AtomicUsize>, Arc<CountingWaker>) {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let task = std::future::poll_fn(move |_| {
            if counted.fetch_add(1, Ordering::SeqCst) + 1 >= last { Poll::Ready(()) } else { Poll::Pending }
        });
        let (shared_task, pool_task) = SharedTask::new(Box::pin(task));
        (shared_task, pool_task, polls, Arc::default())
    }

    fn poll_pool_task(pool_task: &mut PoolTask, wakes: &Arc<CountingWaker>) -> Poll<()> {
        let waker = Waker::from(Arc::clone(wakes));
        Pin::new(pool_task).poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn a_task_is_acquired_only_after_its_first_poll_on_the_pool() {
        let (shared_task, mut pool_task, polls, wakes) = counting(9);
        assert!(shared_task.try_acquire().is_none());
        assert!(poll_pool_task(&mut pool_task, &wakes).is_pending());
        let guard = shared_task.try_acquire().unwrap();
        assert!(shared_task.try_acquire().is_none(), "one at a time");
        guard.run();
        assert!(shared_task.try_acquire().is_some());
        assert_eq!(polls.load(Ordering::SeqCst), 2);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0, "no worker was turned away");
    }

    #[test]
    fn a_worker_that_found_the_task_acquired_is_woken_again() {
        let (shared_task, mut pool_task, polls, wakes) = counting(9);
        assert!(poll_pool_task(&mut pool_task, &wakes).is_pending());
        for used in [true, false] {
            let guard = shared_task.try_acquire().unwrap();
            assert!(poll_pool_task(&mut pool_task, &wakes).is_pending());
            if used {
                guard.run();
            } else {
                drop(guard);
            }
            assert_eq!(wakes.0.swap(0, Ordering::SeqCst), 1);
            assert!(poll_pool_task(&mut pool_task, &wakes).is_pending());
        }
        assert_eq!(polls.load(Ordering::SeqCst), 4);
        drop(shared_task.try_acquire().unwrap());
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0, "`wake_pending` is reset once the worker has polled");
    }

    #[test]
    fn a_task_that_ends_in_an_inline_run_leaves_the_pool() {
        let (shared_task, mut pool_task, _, wakes) = counting(2);
        assert!(poll_pool_task(&mut pool_task, &wakes).is_pending());
        shared_task.try_acquire().unwrap().run();
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        assert!(poll_pool_task(&mut pool_task, &wakes).is_ready());
    }

    #[test]
    fn the_task_is_dropped_with_the_pool_or_by_the_inline_run() {
        let (shared_task, mut pool_task, polls, wakes) = counting(9);
        assert!(poll_pool_task(&mut pool_task, &wakes).is_pending());
        let guard = shared_task.try_acquire().unwrap();
        drop(pool_task);
        assert_eq!(Arc::strong_count(&polls), 2, "in use");
        guard.run();
        assert_eq!(Arc::strong_count(&polls), 1, "dropped");

        let (shared_task, pool_task, polls, _) = counting(9);
        drop(pool_task);
        assert_eq!(Arc::strong_count(&polls), 1, "dropped");
        drop(shared_task);
    }

    #[test]
    fn closing_drops_the_task_without_a_worker() {
        let (shared_task, mut pool_task, polls, wakes) = counting(9);
        assert!(poll_pool_task(&mut pool_task, &wakes).is_pending());
        shared_task.close();
        assert_eq!(Arc::strong_count(&polls), 1, "dropped, although the pool still has its part");
        assert!(poll_pool_task(&mut pool_task, &wakes).is_ready(), "it leaves the pool");
    }

    #[test]
    fn a_task_that_is_closed_while_it_is_polled_is_dropped_afterwards() {
        let to_close: Arc<OnceLock<Arc<SharedTask>>> = Arc::default();
        let closed_in_poll = Arc::clone(&to_close);
        let (shared_task, mut pool_task) = SharedTask::new(Box::pin(std::future::poll_fn(move |_| {
            // As when a handler drops its runtime.
            closed_in_poll.get().unwrap().close();
            Poll::Pending
        })));
        let _ = to_close.set(shared_task);
        assert!(poll_pool_task(&mut pool_task, &Arc::default()).is_pending());
        assert!(poll_pool_task(&mut pool_task, &Arc::default()).is_ready(), "dropped");
    }

    #[test]
    fn a_task_whose_drop_panics_is_dropped_nevertheless() {
        struct PanicsInDrop;
        impl Drop for PanicsInDrop {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new(()));
            }
        }
        let state = PanicsInDrop;
        let (shared_task, mut pool_task) = SharedTask::new(Box::pin(std::future::poll_fn(move |_| {
            let _ = &state;
            Poll::Pending
        })));
        shared_task.close();
        assert!(poll_pool_task(&mut pool_task, &Arc::default()).is_ready());
    }

    /// One worker and several callers poll one task. Every sent message is seen, although each of them is turned away at times.
    #[test]
    fn no_wake_up_is_lost_between_a_worker_and_inline_runs() {
        const ROUNDS: usize = 20_000;
        let sent = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(AtomicUsize::new(0));
        let (sent_here, seen_here) = (Arc::clone(&sent), Arc::clone(&seen));
        let (shared_task, pool_task) = SharedTask::new(Box::pin(std::future::poll_fn(move |_| {
            seen_here.store(sent_here.load(Ordering::SeqCst), Ordering::SeqCst);
            if seen_here.load(Ordering::SeqCst) == 3 * ROUNDS { Poll::Ready(()) } else { Poll::Pending }
        })));
        let worker = std::thread::spawn(move || futures_lite::future::block_on(pool_task));
        while shared_task.pool_waker.get().is_none() {
            std::thread::yield_now();
        }
        std::thread::scope(|scope| {
            for runs_inline in [true, true, false] {
                let (shared_task, sent) = (&shared_task, &sent);
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let guard = if runs_inline { shared_task.try_acquire() } else { None };
                        sent.fetch_add(1, Ordering::SeqCst);
                        match guard {
                            Some(guard) => guard.run(),
                            None => shared_task.pool_waker.get().unwrap().wake_by_ref(),
                        }
                    }
                });
            }
        });
        // Hangs here if a wake-up was lost.
        worker.join().unwrap();
        assert_eq!(seen.load(Ordering::SeqCst), 3 * ROUNDS);
    }
}
