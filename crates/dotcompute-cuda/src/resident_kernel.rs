//! Residency of ring kernels on a device: leave, relaunch and quiesce.
//!
//! A ring kernel leaves the device when it is idle, and when the host quiesces the device ([`ResidentKernels::quiesce`]). Its state
//! stays in device memory, its messages in the rings and its counters in the control block. While it is off the device, the host may
//! write the words that otherwise belong to the device.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use dotcompute_core::deadline;

use crate::host_device_channel::ChannelMemory;
use crate::links::{LinkSource, Links};
use crate::protocol::{
    COMMAND_LEAVE, COMMAND_MASK, COMMAND_RUN, STATE_LAUNCHED, STATE_OFF_DEVICE, STATE_STOPPED,
};
use crate::resident_grid::ResidentGrid;
use crate::watchdog::{Relaunch, WatchedKernel};

/// Time allowed between `STATE_OFF_DEVICE` and the end of the grid.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A ring kernel on a device.
pub(crate) struct ResidentKernel {
    pub(crate) name: String,
    pub(crate) grid: Arc<dyn ResidentGrid>,
    pub(crate) memory: Arc<ChannelMemory>,
    pub(crate) watched: Arc<WatchedKernel>,
    pub(crate) links: Links,
    /// Held during a relaunch, so that two concurrent posts do not launch the grid twice.
    relaunch_lock: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ResidentKernel {
    pub(crate) fn new(name: &str, grid: Arc<dyn ResidentGrid>, memory: Arc<ChannelMemory>) -> Arc<Self> {
        let watched = WatchedKernel::new(Arc::clone(&memory), Arc::clone(&grid));
        Arc::new_cyclic(|this: &Weak<Self>| {
            let kernel: Weak<Self> = Weak::clone(this);
            watched.set_kernel(kernel);
            let (links, relaunch_lock) = (Links::default(), Mutex::default());
            Self { name: name.to_owned(), grid, memory, watched, links, relaunch_lock }
        })
    }

    /// Returns the state that the device has published.
    pub(crate) fn state(&self) -> u32 {
        // SYNC POINT: state
        // Acquire: pairs with the release store in `Leader::set_state` (leader.cuh). The events that the device published before this
        // state are visible after the load.
        self.memory.control().device.state.load(Ordering::Acquire)
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

    /// Whether the host wants the ring kernel to handle messages: its command is to run, and it does not quiesce the device.
    fn may_run(&self) -> bool {
        let word = self.memory.control().host.command.load(Ordering::Relaxed);
        word & (COMMAND_MASK | COMMAND_LEAVE) == COMMAND_RUN
    }

    /// Relaunches the grid if it is off the device and may run.
    pub(crate) fn relaunch_if_off_device(&self) {
        if self.state() != STATE_OFF_DEVICE {
            return;
        }
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
        let state = &self.memory.control().device.state;
        // SYNC POINT: relaunch
        // The grid has exited, so the host may write the device's word. The new grid reads it in `Leader::start` (leader.cuh), after its
        // launch. Store, fence, load of the command; `Port::command` and `Link::close` store to the command, fence and load the state. Either
        // they find that the ring kernel is about to run, or this thread finds what they command.
        state.store(STATE_LAUNCHED, Ordering::Release);
        fence(Ordering::SeqCst);
        if !self.may_run() {
            state.store(STATE_OFF_DEVICE, Ordering::Release);
        } else if let Err(error) = self.grid.start() {
            self.watched.mark_lost(&format!("relaunching it on the device failed: {error}"));
        }
    }

    /// Whether the ring kernel has been asked to leave the device and no grid of it is launched any more. Its last grid may be exiting.
    fn has_left(&self) -> bool {
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

/// The ring kernels of one device.
#[derive(Default)]
pub(crate) struct ResidentKernels {
    all: Mutex<Vec<Weak<ResidentKernel>>>,
    /// Held while the device is quiesced: one thread at a time.
    quiesce_lock: Mutex<()>,
}

impl ResidentKernels {
    pub(crate) fn add(&self, kernel: &Arc<ResidentKernel>) {
        let mut all = lock(&self.all);
        all.retain(|kernel| kernel.strong_count() > 0);
        all.push(Arc::downgrade(kernel));
    }

    fn alive(&self) -> Vec<Arc<ResidentKernel>> {
        lock(&self.all).iter().filter_map(Weak::upgrade).collect()
    }

    /// Asks every ring kernel to leave the device at its next message boundary, runs `act` while none is resident, and relaunches them.
    ///
    /// # Errors
    ///
    /// The names of the ring kernels that were still resident after `timeout`; `act` is not run then.
    pub(crate) fn quiesce<T>(&self, timeout: Duration, act: impl FnOnce() -> T) -> Result<T, Vec<String>> {
        let _quiesce = lock(&self.quiesce_lock);
        let kernels = self.alive();
        let guard = RelaunchGuard(&kernels);
        for kernel in &kernels {
            // SYNC POINT: quiesce leave
            // `Leader::wait` (leader.cuh) reads the flag at every poll, and responds with `STATE_OFF_DEVICE`. A device thread that waits for
            // a free slot of a link reads it too.
            kernel.memory.control().host.command.fetch_or(COMMAND_LEAVE, Ordering::Release);
            // The device proxy drains the event ring now, so that a full ring does not delay the exit.
            kernel.watched.wake();
        }
        let deadline = deadline::after(timeout);
        let is_resident = |kernel: &&Arc<ResidentKernel>| !wait_off_device(kernel, deadline);
        let stuck: Vec<String> =
            kernels.iter().filter(is_resident).map(|kernel| kernel.name.clone()).collect();
        if !stuck.is_empty() {
            return Err(stuck);
        }
        let result = act();
        drop(guard);
        Ok(result)
    }
}

fn wait_off_device(kernel: &ResidentKernel, deadline: Instant) -> bool {
    let mut pause = Duration::from_micros(2);
    while !kernel.has_left() {
        // A lost kernel may never exit; a later operation that needs the whole device reports it.
        if kernel.watched.lost().is_some() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_micros(200));
    }
    kernel.watched.lost().is_some() || kernel.grid.wait_exited(deadline)
}

/// Relaunches quiesced ring kernels when it is dropped, also if `act` panics.
struct RelaunchGuard<'a>(&'a [Arc<ResidentKernel>]);

impl Drop for RelaunchGuard<'_> {
    fn drop(&mut self) {
        for kernel in self.0 {
            kernel.memory.control().host.command.fetch_and(!COMMAND_LEAVE, Ordering::Release);
            kernel.relaunch_if_off_device();
        }
    }
}
