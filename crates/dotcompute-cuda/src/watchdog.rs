//! Watchdog thread.
//!
//! A device cannot wake a host thread. Spinning callers poll the device's control words themselves; this thread polls them for parked
//! callers and wakes those. It also checks heartbeats: a ring kernel whose heartbeat stops for longer than the timeout is marked lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::host_device_channel::ChannelMemory;
use crate::protocol::{STATE_OFF_DEVICE, STATE_STOPPED};
use crate::resident_grid::ResidentGrid;

/// Interval between polls for registered wakers: the first, and the longest after polls without a change.
const POLL_INTERVALS: [Duration; 2] = [Duration::from_micros(10), Duration::from_micros(250)];
/// Interval between heartbeat checks.
const HEARTBEAT_CHECK_INTERVAL: Duration = Duration::from_millis(50);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A waker, and the values whose change wakes it.
struct RegisteredWaker {
    waker: Waker,
    state: u32,
    /// `None` if only a change of the state wakes.
    progress: Option<Progress>,
}

/// The progress of a ring kernel at its last poll.
#[derive(Clone, Copy)]
pub(crate) struct Progress {
    /// Messages completed.
    pub(crate) done: u64,
    /// Sequence number of the next event.
    pub(crate) event: u64,
}

/// A ring kernel that can be relaunched.
pub(crate) trait Relaunch: Send + Sync {
    /// Relaunches the ring kernel if it is off the device and messages wait in its incoming links: the ring kernel that sent them
    /// cannot do that.
    fn relaunch_for_links(&self);
}

/// A ring kernel that the watchdog watches.
pub(crate) struct WatchedKernel {
    memory: Arc<ChannelMemory>,
    grid: Arc<dyn ResidentGrid>,
    registered: Mutex<Option<RegisteredWaker>>,
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
            registered: Mutex::new(None),
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

    /// Relaunches the ring kernel for messages that no host thread has posted.
    fn relaunch_for_links(&self) {
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

    /// Wakes the registered waker, if there is one.
    pub(crate) fn wake(&self) {
        let registered = lock(&self.registered).take();
        if let Some(RegisteredWaker { waker, .. }) = registered {
            waker.wake();
        }
    }

    /// Wakes the registered waker if the state or the progress has changed. Returns whether a waker remains registered.
    fn check_and_wake(&self) -> bool {
        let changed = match &*lock(&self.registered) {
            None => return false,
            Some(RegisteredWaker { state, progress, .. }) => {
                // Relaxed: the woken task loads the words again, with acquire.
                self.memory.control().device.state.load(Ordering::Relaxed) != *state
                    || progress.is_some_and(|progress| self.has_progressed(progress))
            }
        };
        if changed {
            self.wake();
        }
        !changed
    }

    fn has_progressed(&self, Progress { done, event }: Progress) -> bool {
        self.memory.done() != done || self.memory.event_seq(event).load(Ordering::Relaxed) == event + 1
    }

    /// Marks the ring kernel as lost if the device reports an error, or if the heartbeat has stopped for longer than the timeout.
    fn check_heartbeat(&self, heartbeat_timeout: Duration) {
        if let Some(error) = self.grid.device_error() {
            self.mark_lost(&error);
            return;
        }
        let device = &self.memory.control().device;
        let value = device.heartbeat.load(Ordering::Relaxed);
        let mut heartbeat = lock(&self.heartbeat);
        let is_off_device = matches!(device.state.load(Ordering::Relaxed), STATE_STOPPED | STATE_OFF_DEVICE);
        if is_off_device || value != heartbeat.value {
            *heartbeat = LastHeartbeat { value, seen: Instant::now() };
            return;
        }
        let silent = heartbeat.seen.elapsed();
        drop(heartbeat);
        if silent > heartbeat_timeout {
            let at = match device.current_message.load(Ordering::Relaxed) {
                0 => String::from("between messages"),
                current => format!("in the handler, at message number {}", current - 1),
            };
            self.mark_lost(&format!("no heartbeat for {silent:.1?}; last seen {at}"));
        }
    }
}

/// Handle to the watchdog thread. The thread stops when the handle is dropped.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
}

struct Shared {
    watched: Mutex<Vec<Weak<WatchedKernel>>>,
    /// Whether a waker was registered since the last poll.
    registered: Mutex<bool>,
    registered_cv: Condvar,
    stopped: AtomicBool,
}

impl Watchdog {
    /// Starts the thread `name`. A ring kernel without a heartbeat for longer than `heartbeat_timeout` is marked lost.
    pub(crate) fn start(name: &str, heartbeat_timeout: Duration) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            watched: Mutex::default(),
            registered: Mutex::default(),
            registered_cv: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        let thread_shared = Arc::clone(&shared);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || thread_shared.run(heartbeat_timeout))?;
        Ok(Arc::new(Self { shared }))
    }

    /// Watches `watched` until it is dropped.
    pub(crate) fn add(&self, watched: &Arc<WatchedKernel>) {
        lock(&self.shared.watched).push(Arc::downgrade(watched));
    }

    /// Registers `waker`: it is woken once the state differs from `state`, or the ring kernel has progressed past `progress`.
    pub(crate) fn register(
        &self,
        watched: &WatchedKernel,
        waker: &Waker,
        state: u32,
        progress: Option<Progress>,
    ) {
        {
            let mut registered = lock(&watched.registered);
            match &mut *registered {
                // A spinning task registers at every poll: update the values, without notifying the thread again.
                Some(same) if same.waker.will_wake(waker) => {
                    (same.state, same.progress) = (state, progress);
                    return;
                }
                other => *other = Some(RegisteredWaker { waker: waker.clone(), state, progress }),
            }
        }
        let mut registered = lock(&self.shared.registered);
        if !std::mem::replace(&mut *registered, true) {
            self.shared.registered_cv.notify_one();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.registered_cv.notify_one();
    }
}

impl Shared {
    fn run(&self, heartbeat_timeout: Duration) {
        let mut poll_interval = POLL_INTERVALS[0];
        let mut next_heartbeat_check = Instant::now();
        while !self.stopped.load(Ordering::Acquire) {
            let watched: Vec<Arc<WatchedKernel>> = {
                let mut watched = lock(&self.watched);
                watched.retain(|kernel| kernel.strong_count() > 0);
                watched.iter().filter_map(Weak::upgrade).collect()
            };
            watched.iter().for_each(|kernel| kernel.relaunch_for_links());
            let waiting = watched.iter().filter(|kernel| kernel.check_and_wake()).count();
            if Instant::now() >= next_heartbeat_check {
                watched.iter().for_each(|kernel| kernel.check_heartbeat(heartbeat_timeout));
                next_heartbeat_check = Instant::now() + HEARTBEAT_CHECK_INTERVAL;
            }
            drop(watched);
            poll_interval = if self.pause(waiting > 0, poll_interval) {
                POLL_INTERVALS[0]
            } else {
                (poll_interval * 2).min(POLL_INTERVALS[1])
            };
        }
    }

    /// Pauses for `poll_interval` while a waker is registered, otherwise until one is registered or the next heartbeat check is due.
    /// Returns true if a waker was registered.
    fn pause(&self, has_waiters: bool, poll_interval: Duration) -> bool {
        let registered = lock(&self.registered);
        let max_pause = if has_waiters { poll_interval } else { HEARTBEAT_CHECK_INTERVAL };
        let waited = self.registered_cv.wait_timeout_while(registered, max_pause, |registered| !*registered);
        let (mut registered, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *registered)
    }
}
