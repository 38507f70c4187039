//! Residency of a ring kernel on a device: launch, leave and relaunch.
//!
//! A ring kernel leaves the device when it is idle, and when the host quiesces the device ([`ResidentKernels::quiesce`]). Its state
//! stays in device memory, its messages in the rings and its counters in the control block. While it is off the device, the host may
//! write the words that otherwise belong to the device.
//!
//! [`ResidentKernels::quiesce`]: crate::resident_kernels::ResidentKernels::quiesce

use std::sync::atomic::{AtomicU8, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use dotcompute_core::backend::BackendError;

use crate::host_device_channel::ChannelMemory;
use crate::links::{LinkSource, Links};
use crate::protocol::{
    COMMAND_LEAVE, COMMAND_MASK, COMMAND_RUN, STATE_LAUNCHED, STATE_OFF_DEVICE, STATE_STOPPED,
};
use crate::relauncher;
use crate::resident_grid::ResidentGrid;
use crate::watched_kernel::{Relaunch, WatchedKernel};

/// Time allowed between `STATE_OFF_DEVICE` and the end of the grid.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A ring kernel on a device.
pub(crate) struct ResidentKernel {
    pub(crate) name: String,
    pub(crate) grid: Arc<dyn ResidentGrid>,
    pub(crate) memory: Arc<ChannelMemory>,
    pub(crate) watched: Arc<WatchedKernel>,
    pub(crate) links: Links,
    /// Held while a grid is launched.
    relaunch_lock: Mutex<()>,
    /// A `RELAUNCH_*` constant.
    relaunch: AtomicU8,
    /// For the threads that relaunch it.
    this: Weak<Self>,
}

// Whether a relaunch was requested. A request stores one of the latter two; the thread that relaunches stores one of the others.

/// No request since the last one was served.
const RELAUNCH_NONE: u8 = 0;
/// A thread is about to serve a request, or is serving one.
const RELAUNCH_RUNNING: u8 = 1;
/// As [`RELAUNCH_RUNNING`], and another request has come since it began.
const RELAUNCH_AGAIN: u8 = 2;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ResidentKernel {
    pub(crate) fn new(name: &str, grid: Arc<dyn ResidentGrid>, memory: Arc<ChannelMemory>) -> Arc<Self> {
        let watched = WatchedKernel::new(Arc::clone(&memory), Arc::clone(&grid));
        Arc::new_cyclic(|this: &Weak<Self>| {
            let kernel: Weak<Self> = Weak::clone(this);
            watched.set_kernel(kernel);
            Self {
                name: name.to_owned(),
                grid,
                memory,
                watched,
                links: Links::default(),
                relaunch_lock: Mutex::default(),
                relaunch: AtomicU8::new(RELAUNCH_NONE),
                this: Weak::clone(this),
            }
        })
    }

    /// Returns the state that the device has published.
    pub(crate) fn state(&self) -> u32 {
        // SYNC POINT: state
        // Acquire: pairs with the release store in `Leader::set_state` (leader.cuh). The events that the device published before this
        // state are visible after the load.
        self.memory.control().status.state.load(Ordering::Acquire)
    }

    /// Stores a command. The flags in the command word stay as they are.
    pub(crate) fn command(&self, command: u32) {
        let word = &self.memory.control().host.command;
        // SYNC POINT: command
        // A read-modify-write: several host threads write this word. Release: pairs with the acquire fence after the relaxed load in
        // `Leader::wait` (leader.cuh); publishes what the host wrote before the command.
        let _ = word
            .fetch_update(Ordering::Release, Ordering::Relaxed, |now| Some(now & !COMMAND_MASK | command));
    }

    /// Whether the host has asked the ring kernel to leave the device.
    pub(crate) fn is_quiescing(&self) -> bool {
        self.memory.control().host.command.load(Ordering::Relaxed) & COMMAND_LEAVE != 0
    }

    /// Launches the first grid, unless `starts_off_device` returns true, which it decides while no other thread launches the ring kernel.
    pub(crate) fn launch(&self, starts_off_device: impl FnOnce() -> bool) -> Result<(), BackendError> {
        let _relaunch = lock(&self.relaunch_lock);
        if starts_off_device() { Ok(()) } else { self.grid.start() }
    }

    /// Marks the ring kernel, which has not been launched yet, as one that the host has brought off the device.
    pub(crate) fn start_off_device(&self) {
        let control = self.memory.control();
        control.host.command.fetch_or(COMMAND_LEAVE, Ordering::Release);
        control.status.state.store(STATE_OFF_DEVICE, Ordering::Release);
    }

    /// Whether the host wants the ring kernel to handle messages: its command is to run, and it does not quiesce the device.
    fn may_run(&self) -> bool {
        // Acquire: what the thread that stored the command did before, such as creating a link, comes before a launch that obeys it.
        let word = self.memory.control().host.command.load(Ordering::Acquire);
        word & (COMMAND_MASK | COMMAND_LEAVE) == COMMAND_RUN
    }

    /// Has the grid relaunched, on another thread, if it is off the device and may run. Does not wait.
    pub(crate) fn relaunch_if_off_device(&self) {
        if self.state() != STATE_OFF_DEVICE || !self.may_run() {
            return;
        }
        // A request that comes while an earlier one is served is served after it: that one may have looked at the state too early.
        let next = |now| match now {
            RELAUNCH_NONE => Some(RELAUNCH_RUNNING),
            RELAUNCH_RUNNING => Some(RELAUNCH_AGAIN),
            _ => None,
        };
        // Release: the thread that serves the request, which acquires, sees what the requesting thread has seen and done.
        let before = self.relaunch.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        if before == Ok(RELAUNCH_NONE)
            && let Some(this) = self.this.upgrade()
        {
            relauncher::submit(move || this.run_relaunches());
        }
    }

    /// Serves requests until none is left.
    pub(crate) fn run_relaunches(&self) {
        loop {
            // Acquire: pairs with the release in `relaunch_if_off_device`.
            self.relaunch.swap(RELAUNCH_RUNNING, Ordering::AcqRel);
            self.relaunch();
            let [from, to] = [RELAUNCH_RUNNING, RELAUNCH_NONE];
            if self.relaunch.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return;
            }
        }
    }

    fn relaunch(&self) {
        let _relaunch = lock(&self.relaunch_lock);
        if self.state() != STATE_OFF_DEVICE || !self.may_run() || self.watched.lost().is_some() {
            return;
        }
        // SYNC POINT: grid exit
        // `STATE_OFF_DEVICE` is final, so the wait ends: the grid touches no shared word but `event_tail` after it. A second grid must not
        // start first.
        if !self.grid.wait_exited(Instant::now() + EXIT_TIMEOUT) {
            self.watched.mark_lost("it reported that it left the device, but its grid did not exit");
            return;
        }
        let state = &self.memory.control().status.state;
        // SYNC POINT: relaunch
        // The grid has exited, so the host may write the device's word. The new grid reads it in `Leader::start` (leader.cuh), after its
        // launch. This thread stores the state, fences and loads the command. `Port::command`, `Link::close` and the thread that releases a
        // quiesced device store the command, fence and load the state. Either they find that the ring kernel is about to run, or this
        // thread finds what they command.
        loop {
            state.store(STATE_LAUNCHED, Ordering::Release);
            fence(Ordering::SeqCst);
            if self.may_run() {
                break;
            }
            state.store(STATE_OFF_DEVICE, Ordering::Release);
            fence(Ordering::SeqCst);
            // The command may have changed back: a thread that changed it and read `STATE_LAUNCHED` has requested nothing.
            if !self.may_run() {
                return;
            }
        }
        if let Err(error) = self.grid.start() {
            self.watched.mark_lost(&format!("relaunching it on the device failed: {error}"));
        }
    }

    /// Whether the ring kernel has been asked to leave the device and no grid of it is launched any more. Its last grid may be exiting.
    pub(crate) fn has_left(&self) -> bool {
        // A relaunch that does not know of the request holds the lock until its grid is launched. A later one finds the request.
        let _relaunch = match self.relaunch_lock.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        matches!(self.state(), STATE_OFF_DEVICE | STATE_STOPPED)
    }
}

impl Relaunch for ResidentKernel {
    fn relaunch_for_links(&self) {
        if self.state() == STATE_OFF_DEVICE && self.may_run() && self.links.have_messages() {
            self.relaunch_if_off_device();
        }
    }
}

impl LinkSource for ResidentKernel {
    fn state(&self) -> u32 {
        Self::state(self)
    }

    fn is_lost(&self) -> bool {
        self.watched.lost().is_some()
    }
}
