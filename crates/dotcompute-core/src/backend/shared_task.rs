//! A ring kernel's seat on the pool: its task, for whoever runs it next.
//!
//! A worker of the pool does as a rule. An asker who finds the ring kernel idle may do it in the worker's place
//! ([`SharedTask::try_sit`]): the answer then costs neither a wake-up nor the way to another core and back.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError};
use std::task::{Context, Poll, Waker};

use super::launch_plan::HostTask;

/// Where the task of a ring kernel on the pool is run, by one thread at a time.
///
/// # No call is lost
///
/// A worker that is called to a taken seat goes away again, leaving a note (`called`); whoever gets up reads
/// the note and calls the worker once more. Both write, then fence, then read what the other writes (the worker the note, then
/// the lock; who gets up the lock, then the note), so that at least one of them sees the other.
pub struct SharedTask {
    /// None once the ring kernel has ended.
    task: Mutex<Option<HostTask>>,
    called: AtomicBool,
    /// The pool has dropped its part: nobody is left who would be called.
    abandoned: AtomicBool,
    /// Calls a worker; known from the first time that one came.
    worker: OnceLock<Waker>,
}

impl SharedTask {
    /// A seat, and the future for the pool to run.
    pub(crate) fn new(task: HostTask) -> (Arc<Self>, PoolTask) {
        let shared_task = Arc::new(Self {
            task: Mutex::new(Some(task)),
            called: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            worker: OnceLock::new(),
        });
        (Arc::clone(&shared_task), PoolTask(shared_task))
    }

    /// Takes the seat if it is free. Never waits.
    pub(crate) fn try_sit(&self) -> Option<Turn<'_>> {
        let worker = self.worker.get()?;
        Some(Turn { task: Some(self.try_lock()?), shared_task: self, worker })
    }

    /// None if somebody has it. A panic does not get as far as here: drivers catch those of user code, and one of ours leaves
    /// nothing half done that another poll could trip over.
    fn try_lock(&self) -> Option<MutexGuard<'_, Option<HostTask>>> {
        match self.task.try_lock() {
            Ok(task) => Some(task),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Polls the task, if there is one still; forgets it when it is done.
fn poll(task: &mut Option<HostTask>, cx: &mut Context<'_>) -> Poll<()> {
    let polled = task.as_mut().map_or(Poll::Ready(()), |task| task.as_mut().poll(cx));
    if polled.is_ready() {
        *task = None;
    }
    polled
}

/// The right to run a ring kernel once, in place of a worker.
pub(crate) struct Turn<'a> {
    /// None only while getting up.
    task: Option<MutexGuard<'a, Option<HostTask>>>,
    shared_task: &'a SharedTask,
    worker: &'a Waker,
}

impl Turn<'_> {
    /// Runs the ring kernel on this thread until it has nothing to do or has had its turn; then gets up.
    pub(crate) fn run(mut self) {
        if let Some(task) = &mut self.task {
            // Whatever wakes it later calls a worker of the pool.
            if poll(task, &mut Context::from_waker(self.worker)).is_ready() {
                // The worker finds the seat empty and takes the task off the pool.
                self.worker.wake_by_ref();
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.task = None;
        fence(Ordering::SeqCst);
        if self.shared_task.called.load(Ordering::Relaxed) {
            self.worker.wake_by_ref();
        }
        if self.shared_task.abandoned.load(Ordering::Relaxed)
            && let Some(mut task) = self.shared_task.try_lock()
        {
            *task = None;
        }
    }
}

/// The pool's part: what a worker polls.
pub(crate) struct PoolTask(Arc<SharedTask>);

impl Future for PoolTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared_task = &self.0;
        // The executor has one waker for a task, from its first poll to its last.
        shared_task.worker.get_or_init(|| cx.waker().clone());
        shared_task.called.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let Some(mut task) = shared_task.try_lock() else { return Poll::Pending };
        shared_task.called.store(false, Ordering::Relaxed);
        poll(&mut task, cx)
    }
}

impl Drop for PoolTask {
    /// Ends the ring kernel with the pool. If somebody is sitting, they see to it when they get up.
    fn drop(&mut self) {
        self.0.abandoned.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if let Some(mut task) = self.0.try_lock() {
            *task = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Calls(AtomicUsize);

    impl Wake for Calls {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A task that counts its polls and is done after `last`; and what counts the calls of its worker.
    fn counting(last: usize) -> (Arc<SharedTask>, PoolTask, Arc<AtomicUsize>, Arc<Calls>) {
        let polls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&polls);
        let task = std::future::poll_fn(move |_| {
            if counted.fetch_add(1, Ordering::SeqCst) + 1 >= last { Poll::Ready(()) } else { Poll::Pending }
        });
        let (shared_task, on_pool) = SharedTask::new(Box::pin(task));
        (shared_task, on_pool, polls, Arc::default())
    }

    fn poll_on_pool(on_pool: &mut PoolTask, calls: &Arc<Calls>) -> Poll<()> {
        let waker = Waker::from(Arc::clone(calls));
        Pin::new(on_pool).poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn a_seat_is_nobodys_before_a_worker_has_come_and_anybodys_after() {
        let (shared_task, mut on_pool, polls, calls) = counting(9);
        assert!(shared_task.try_sit().is_none());
        assert!(poll_on_pool(&mut on_pool, &calls).is_pending());
        let turn = shared_task.try_sit().unwrap();
        assert!(shared_task.try_sit().is_none(), "one at a time");
        turn.run();
        assert!(shared_task.try_sit().is_some());
        assert_eq!(polls.load(Ordering::SeqCst), 2);
        assert_eq!(calls.0.load(Ordering::SeqCst), 0, "nobody was kept from working");
    }

    #[test]
    fn a_worker_that_found_the_seat_taken_is_called_again() {
        let (shared_task, mut on_pool, polls, calls) = counting(9);
        assert!(poll_on_pool(&mut on_pool, &calls).is_pending());
        for used in [true, false] {
            let turn = shared_task.try_sit().unwrap();
            assert!(poll_on_pool(&mut on_pool, &calls).is_pending());
            if used {
                turn.run();
            } else {
                drop(turn);
            }
            assert_eq!(calls.0.swap(0, Ordering::SeqCst), 1);
            assert!(poll_on_pool(&mut on_pool, &calls).is_pending());
        }
        assert_eq!(polls.load(Ordering::SeqCst), 4);
        drop(shared_task.try_sit().unwrap());
        assert_eq!(calls.0.load(Ordering::SeqCst), 0, "the note is taken off once the worker has been");
    }

    #[test]
    fn a_task_done_in_another_seat_leaves_the_pool() {
        let (shared_task, mut on_pool, _, calls) = counting(2);
        assert!(poll_on_pool(&mut on_pool, &calls).is_pending());
        shared_task.try_sit().unwrap().run();
        assert_eq!(calls.0.load(Ordering::SeqCst), 1);
        assert!(poll_on_pool(&mut on_pool, &calls).is_ready());
    }

    #[test]
    fn the_task_is_dropped_with_the_pool_or_by_who_sits_then() {
        let (shared_task, mut on_pool, polls, calls) = counting(9);
        assert!(poll_on_pool(&mut on_pool, &calls).is_pending());
        let turn = shared_task.try_sit().unwrap();
        drop(on_pool);
        assert_eq!(Arc::strong_count(&polls), 2, "in use");
        turn.run();
        assert_eq!(Arc::strong_count(&polls), 1, "dropped");

        let (shared_task, on_pool, polls, _) = counting(9);
        drop(on_pool);
        assert_eq!(Arc::strong_count(&polls), 1, "dropped");
        drop(shared_task);
    }

    /// A worker and several others at one seat: whatever was sent is seen, though each is turned away at times.
    #[test]
    fn nothing_is_overlooked_when_all_sit_at_once() {
        const ROUNDS: usize = 20_000;
        let sent = Arc::new(AtomicUsize::new(0));
        let seen = Arc::new(AtomicUsize::new(0));
        let (sent_here, seen_here) = (Arc::clone(&sent), Arc::clone(&seen));
        let (shared_task, on_pool) = SharedTask::new(Box::pin(std::future::poll_fn(move |_| {
            seen_here.store(sent_here.load(Ordering::SeqCst), Ordering::SeqCst);
            if seen_here.load(Ordering::SeqCst) == 3 * ROUNDS { Poll::Ready(()) } else { Poll::Pending }
        })));
        let worker = std::thread::spawn(move || futures_lite::future::block_on(on_pool));
        while shared_task.worker.get().is_none() {
            std::thread::yield_now();
        }
        std::thread::scope(|scope| {
            for sits in [true, true, false] {
                let (shared_task, sent) = (&shared_task, &sent);
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let turn = if sits { shared_task.try_sit() } else { None };
                        sent.fetch_add(1, Ordering::SeqCst);
                        match turn {
                            Some(turn) => turn.run(),
                            None => shared_task.worker.get().unwrap().wake_by_ref(),
                        }
                    }
                });
            }
        });
        // Hangs here if a call was lost.
        worker.join().unwrap();
        assert_eq!(seen.load(Ordering::SeqCst), 3 * ROUNDS);
    }
}
