//! Watchdog: two threads that watch the ring kernels of a backend.
//!
//! A device cannot wake a host thread. Spinning callers poll the device's control words themselves; the *waking* thread polls them for parked
//! callers and wakes those. It makes no driver call and takes no lock for long. The *heartbeat* thread asks the driver for errors and marks a
//! ring kernel lost whose heartbeat stops for longer than the timeout. Neither launches a grid: [`relauncher`](crate::relauncher) does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use crate::watched_kernel::{Progress, WatchedKernel};

/// Interval between polls for registered wakers: the first, and the longest after polls without a change.
const POLL_INTERVALS: [Duration; 2] = [Duration::from_micros(10), Duration::from_micros(250)];
/// Interval between heartbeat checks, and between polls of links while no waker is registered.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Handle to the watchdog's threads. They stop when the handle is dropped.
pub(crate) struct Watchdog {
    shared: Arc<Shared>,
}

struct Shared {
    watched: Mutex<Vec<Weak<WatchedKernel>>>,
    /// Whether a waker was registered since the last poll.
    registered: Mutex<bool>,
    registered_cv: Condvar,
    /// For the heartbeat thread, which sleeps between its checks.
    stop_lock: Mutex<()>,
    stop_cv: Condvar,
    stopped: AtomicBool,
}

impl Watchdog {
    /// Starts the threads, whose names begin with `name`. A ring kernel without a heartbeat for longer than `heartbeat_timeout` is marked lost.
    pub(crate) fn start(name: &str, heartbeat_timeout: Duration) -> std::io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            watched: Mutex::default(),
            registered: Mutex::default(),
            registered_cv: Condvar::new(),
            stop_lock: Mutex::default(),
            stop_cv: Condvar::new(),
            stopped: AtomicBool::new(false),
        });
        // The handle comes first: if the second thread cannot be started, dropping it stops the first.
        let watchdog = Arc::new(Self { shared });
        let waking = Arc::clone(&watchdog.shared);
        let beating = Arc::clone(&watchdog.shared);
        let spawn = |thread: &str| std::thread::Builder::new().name(format!("{name}-{thread}"));
        spawn("wake").spawn(move || waking.wake_tasks())?;
        spawn("beat").spawn(move || beating.check_heartbeats(heartbeat_timeout))?;
        Ok(watchdog)
    }

    /// Watches `watched` until it is dropped.
    pub(crate) fn add(&self, watched: &Arc<WatchedKernel>) {
        lock(&self.shared.watched).push(Arc::downgrade(watched));
    }

    /// Registers a task: see [`WatchedKernel::register`].
    pub(crate) fn register(
        &self,
        watched: &WatchedKernel,
        last: &mut Option<Waker>,
        waker: &Waker,
        state: u32,
        progress: Option<Progress>,
    ) {
        if watched.register(last, waker, state, progress) {
            let mut registered = lock(&self.shared.registered);
            if !std::mem::replace(&mut *registered, true) {
                self.shared.registered_cv.notify_one();
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        *lock(&self.shared.registered) = true;
        self.shared.registered_cv.notify_one();
        drop(lock(&self.shared.stop_lock));
        self.shared.stop_cv.notify_one();
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn alive(&self) -> Vec<Arc<WatchedKernel>> {
        let mut watched = lock(&self.watched);
        watched.retain(|kernel| kernel.strong_count() > 0);
        watched.iter().filter_map(Weak::upgrade).collect()
    }

    fn wake_tasks(&self) {
        let mut poll_interval = POLL_INTERVALS[0];
        while !self.is_stopped() {
            let watched = self.alive();
            watched.iter().for_each(|kernel| kernel.relaunch_for_links());
            let waiting = watched.iter().filter(|kernel| kernel.check_and_wake()).count();
            drop(watched);
            poll_interval = if self.pause(waiting > 0, poll_interval) {
                POLL_INTERVALS[0]
            } else {
                (poll_interval * 2).min(POLL_INTERVALS[1])
            };
        }
    }

    /// Pauses for `poll_interval` while a waker is registered, otherwise until one is registered or links are to be polled. Returns true if
    /// a waker was registered.
    fn pause(&self, has_waiters: bool, poll_interval: Duration) -> bool {
        let registered = lock(&self.registered);
        let max_pause = if has_waiters { poll_interval } else { CHECK_INTERVAL };
        let waited = self.registered_cv.wait_timeout_while(registered, max_pause, |registered| !*registered);
        let (mut registered, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *registered)
    }

    fn check_heartbeats(&self, heartbeat_timeout: Duration) {
        while !self.is_stopped() {
            self.alive().iter().for_each(|kernel| kernel.check_heartbeat(heartbeat_timeout));
            let guard = lock(&self.stop_lock);
            let waited = self.stop_cv.wait_timeout_while(guard, CHECK_INTERVAL, |()| !self.is_stopped());
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }
}
