//! A ring kernel as the watchdog sees it: the task that waits for it, its heartbeat, and whether it is lost.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::host_device_channel::ChannelMemory;
use crate::protocol::{STATE_OFF_DEVICE, STATE_STOPPED};
use crate::resident_grid::ResidentGrid;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The progress of a ring kernel at its last poll.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    /// Messages completed.
    pub(crate) done: u64,
    /// Sequence number of the next event.
    pub(crate) event: u64,
}

/// The value of [`Registered::event`] while only a change of the state wakes the task.
const NO_EVENT: u64 = u64::MAX;

/// The task that waits for the ring kernel, and the values whose change wakes it.
///
/// The task stores the values; the watchdog loads them. Each value is what the task has seen of the device. A watchdog that loads an older one
/// wakes a task that has nothing to do, and one that finds no change compares again at its next poll.
#[derive(Default)]
struct Registered {
    waker: Mutex<Option<Waker>>,
    /// Whether `waker` has a waker. Changes under its lock.
    is_registered: AtomicBool,
    state: AtomicU32,
    done: AtomicU64,
    event: AtomicU64,
}

impl Registered {
    /// As [`WatchedKernel::register`].
    ///
    /// A task that polls while it spins registers at every poll: without a lock while its waker is still registered.
    fn register(
        &self,
        last: &mut Option<Waker>,
        waker: &Waker,
        state: u32,
        progress: Option<Progress>,
    ) -> bool {
        let Progress { done, event } = progress.unwrap_or(Progress { done: 0, event: NO_EVENT });
        self.state.store(state, Ordering::Relaxed);
        self.done.store(done, Ordering::Relaxed);
        self.event.store(event, Ordering::Relaxed);
        let is_same = last.as_ref().is_some_and(|last| last.will_wake(waker));
        // A waker that is taken meanwhile is woken: the task polls and registers again.
        if is_same && self.is_registered.load(Ordering::Relaxed) {
            return false;
        }
        let mut slot = lock(&self.waker);
        *slot = Some(waker.clone());
        // Release: pairs with the acquire load in `check_and_wake`; publishes the values.
        self.is_registered.store(true, Ordering::Release);
        *last = Some(waker.clone());
        true
    }
}

/// A ring kernel that can be relaunched.
pub(crate) trait Relaunch: Send + Sync {
    /// Has the ring kernel relaunched if it is off the device and messages wait in its incoming links: the ring kernel that sent them
    /// cannot do that. Does not wait.
    fn relaunch_for_links(&self);
}

/// A ring kernel that the watchdog watches.
pub(crate) struct WatchedKernel {
    memory: Arc<ChannelMemory>,
    grid: Arc<dyn ResidentGrid>,
    registered: Registered,
    /// Set once, together with `reason`.
    lost: AtomicBool,
    reason: Mutex<String>,
    heartbeat: Mutex<LastHeartbeat>,
    kernel: OnceLock<Weak<dyn Relaunch>>,
}

/// The last heartbeat value, and when it was first seen.
struct LastHeartbeat {
    value: u64,
    seen: Instant,
}

impl WatchedKernel {
    pub(crate) fn new(memory: Arc<ChannelMemory>, grid: Arc<dyn ResidentGrid>) -> Arc<Self> {
        Arc::new(Self {
            memory,
            grid,
            registered: Registered::default(),
            lost: AtomicBool::new(false),
            reason: Mutex::default(),
            heartbeat: Mutex::new(LastHeartbeat { value: 0, seen: Instant::now() }),
            kernel: OnceLock::new(),
        })
    }

    /// Sets the ring kernel to relaunch. Called once, when the ring kernel is created.
    pub(crate) fn set_kernel(&self, kernel: Weak<dyn Relaunch>) {
        let _ = self.kernel.set(kernel);
    }

    /// Has the ring kernel relaunched for messages that no host thread has posted.
    pub(crate) fn relaunch_for_links(&self) {
        if let Some(kernel) = self.kernel.get().and_then(Weak::upgrade) {
            kernel.relaunch_for_links();
        }
    }

    /// Returns why the ring kernel is lost, if it is.
    pub(crate) fn lost(&self) -> Option<String> {
        // Acquire: pairs with the release store in `mark_lost`. `reason` is set before.
        self.lost.load(Ordering::Acquire).then(|| lock(&self.reason).clone())
    }

    /// Marks the ring kernel as lost. A later reason does not replace the first.
    pub(crate) fn mark_lost(&self, reason: &str) {
        {
            let mut text = lock(&self.reason);
            if !text.is_empty() {
                return;
            }
            reason.clone_into(&mut text);
            // Release: pairs with the acquire load in `lost`; publishes `reason`.
            self.lost.store(true, Ordering::Release);
        }
        self.wake();
    }

    /// Registers the task of `waker`, which is woken once the state differs from `state`, or the ring kernel has progressed past `progress`.
    /// `last` is the waker that this task registered last. Returns true if the watchdog did not have it any more.
    pub(crate) fn register(
        &self,
        last: &mut Option<Waker>,
        waker: &Waker,
        state: u32,
        progress: Option<Progress>,
    ) -> bool {
        self.registered.register(last, waker, state, progress)
    }

    /// Wakes the registered task, if there is one.
    pub(crate) fn wake(&self) {
        let waker = {
            let mut slot = lock(&self.registered.waker);
            self.registered.is_registered.store(false, Ordering::Relaxed);
            slot.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Wakes the registered task if the state or the progress has changed. Returns whether a task remains registered.
    pub(crate) fn check_and_wake(&self) -> bool {
        let registered = &self.registered;
        if !registered.is_registered.load(Ordering::Acquire) {
            return false;
        }
        let done = registered.done.load(Ordering::Relaxed);
        let event = registered.event.load(Ordering::Relaxed);
        // Relaxed: the woken task loads the words again, with acquire.
        let state = self.memory.control().status.state.load(Ordering::Relaxed);
        let changed = state != registered.state.load(Ordering::Relaxed)
            || (event != NO_EVENT && self.has_progressed(Progress { done, event }));
        if changed {
            self.wake();
        }
        !changed
    }

    fn has_progressed(&self, Progress { done, event }: Progress) -> bool {
        self.memory.done() != done || self.memory.event_seq(event).load(Ordering::Relaxed) == event + 1
    }

    /// Marks the ring kernel as lost if the device reports an error, or if the heartbeat has stopped for longer than the timeout.
    pub(crate) fn check_heartbeat(&self, heartbeat_timeout: Duration) {
        if let Some(error) = self.grid.device_error() {
            self.mark_lost(&error);
            return;
        }
        let control = self.memory.control();
        let value = control.device.heartbeat.load(Ordering::Relaxed);
        let state = control.status.state.load(Ordering::Relaxed);
        let mut heartbeat = lock(&self.heartbeat);
        if matches!(state, STATE_STOPPED | STATE_OFF_DEVICE) || value != heartbeat.value {
            *heartbeat = LastHeartbeat { value, seen: Instant::now() };
            return;
        }
        let silent = heartbeat.seen.elapsed();
        drop(heartbeat);
        if silent > heartbeat_timeout {
            let at = match control.device.current_message.load(Ordering::Relaxed) {
                0 => String::from("between messages"),
                current => format!("in the handler, at message number {}", current - 1),
            };
            if self.lost().is_none() {
                self.grid.abandon();
            }
            self.mark_lost(&format!("no heartbeat for {silent:.1?}; last seen {at}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use dotcompute_conformance::watchdog;

    use super::*;

    #[test]
    fn a_task_that_spins_registers_again_without_the_lock() {
        watchdog!();
        let (registered, mut last) = (Registered::default(), None);
        let progress = |done| Some(Progress { done, event: 3 });
        assert!(registered.register(&mut last, Waker::noop(), 1, progress(7)), "the watchdog had no waker");
        {
            // Would wait here forever.
            let _held = lock(&registered.waker);
            assert!(!registered.register(&mut last, Waker::noop(), 2, progress(8)));
        }
        let done = registered.done.load(Ordering::Relaxed);
        assert_eq!((registered.state.load(Ordering::Relaxed), done), (2, 8));
        // Once the watchdog has taken the waker, the task registers it anew.
        registered.is_registered.store(false, Ordering::Relaxed);
        assert!(registered.register(&mut last, Waker::noop(), 2, None));
        assert_eq!(registered.event.load(Ordering::Relaxed), NO_EVENT);
    }
}
