//! A ring kernel's tenancy of a device: it is there, it leaves for a while, it comes back.
//!
//! It leaves by itself when there is nothing to do, and when it is asked to make way ([`Tenants::make_way`]): its state stays in device
//! memory, its messages in the rings, its counts in the control words. While it is away its side of the words is the host's.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use dotcompute_core::backend::BackendError;
use dotcompute_core::backend::device_port::{AfterFault, DeviceProgram};

use crate::exchange::Words;
use crate::links::{LinkMemory, Links};
use crate::protocol::{
    COMMAND_LEAVE, COMMAND_MASK, COMMAND_RUN, Launch, STATE_IDLE, STATE_LAUNCHED, STATE_STOPPED,
};
use crate::watch::Watched;

/// A heart beats so often.
const BEAT: Duration = Duration::from_millis(5);
/// How long one that has said that it leaves may take to be gone.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// How long a ring kernel stays on the device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stays {
    /// Without a message; zero for as long as it likes.
    pub(crate) idle: Duration,
    /// At a stretch; zero for as long as it likes.
    pub(crate) longest: Duration,
}

/// Where a ring kernel's memory on the device is.
pub(crate) struct Places {
    pub(crate) grid: u64,
    pub(crate) grid_message: u64,
    pub(crate) state: u64,
}

/// The argument of a ring kernel's launches.
pub(crate) fn launch(
    words: &Words,
    places: Places,
    program: &DeviceProgram,
    stays: Stays,
    longest_pause: Duration,
) -> Launch {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let short = |duration: Duration| u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX);
    Launch {
        input: words.device_input(),
        events: words.device_events(),
        control: words.device_control(),
        grid: places.grid,
        grid_message: places.grid_message,
        state: places.state,
        holds_after_fault: u32::from(program.after_fault == AfterFault::Hold),
        beat_ns: short(BEAT),
        longest_pause_ns: short(longest_pause),
        reserved: 0,
        grace_ns: nanos(stays.idle),
        stay_ns: nanos(stays.longest),
    }
}

/// What a device can do with a ring kernel that cannot be done by writing words.
pub(crate) trait Stage: Send + Sync {
    /// Makes it resident. It is not, at that moment.
    fn start(&self) -> Result<(), BackendError>;

    /// Waits until nothing of it runs any more, at most until `deadline`.
    fn wait_gone(&self, deadline: Instant) -> bool;

    /// Makes the state anew, while the ring kernel holds after a fault.
    fn reset_state(&self) -> Result<(), BackendError>;

    /// The state's bytes, while no handler runs.
    fn read_state(&self) -> Result<Vec<u8>, BackendError>;

    /// Overwrites the state, while no handler runs.
    fn write_state(&self, bytes: &[u8]) -> Result<(), BackendError>;

    /// Runs `act` with no ring kernel on the device.
    fn quiesced(&self, act: &mut dyn FnMut()) -> Result<(), BackendError>;

    /// Zeroed memory of the device, for a link. The device is quiet.
    fn link_memory(&self, bytes: usize) -> Result<Arc<dyn LinkMemory>, BackendError>;

    /// Keeps the memory of a link until nothing of the ring kernel runs any more.
    fn keep(&self, memory: Arc<dyn LinkMemory>);

    /// What all ring kernels of its device have in common, and no other.
    fn ground(&self) -> usize;

    /// What is wrong with the device, so that the ring kernel cannot go on. Never waits.
    fn trouble(&self) -> Option<String> {
        None
    }
}

/// A ring kernel on a device.
pub(crate) struct Tenant {
    pub(crate) name: String,
    pub(crate) stage: Arc<dyn Stage>,
    pub(crate) words: Arc<Words>,
    pub(crate) watched: Arc<Watched>,
    pub(crate) links: Links,
    /// Held while it is brought back: two posts must not bring it back twice.
    coming: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Tenant {
    pub(crate) fn new(name: &str, stage: Arc<dyn Stage>, words: Arc<Words>) -> Arc<Self> {
        let watched = Watched::new(Arc::clone(&words), Arc::clone(&stage));
        Arc::new_cyclic(|this| {
            watched.set_tenant(Weak::clone(this));
            let (links, coming) = (Links::default(), Mutex::default());
            Self { name: name.to_owned(), stage, words, watched, links, coming }
        })
    }

    /// What the device says that it is doing.
    pub(crate) fn state(&self) -> u32 {
        // Acquire: whoever sees a state sees the events that came before it.
        self.words.control().device.state.load(Ordering::Acquire)
    }

    /// Gives a command; what was added to the one before stays.
    pub(crate) fn command(&self, command: u32) {
        let word = &self.words.control().host.command;
        // One writer towards the device, several threads here. Release: what the host wrote before comes before it.
        let _ = word
            .fetch_update(Ordering::Release, Ordering::Relaxed, |now| Some(now & !COMMAND_MASK | command));
    }

    /// Whether it has been asked to make way.
    pub(crate) fn is_to_leave(&self) -> bool {
        self.words.control().host.command.load(Ordering::Relaxed) & COMMAND_LEAVE != 0
    }

    /// Brings it back if it is away and need not be.
    pub(crate) fn return_if_away(&self) {
        if self.state() != STATE_IDLE {
            return;
        }
        let _coming = lock(&self.coming);
        if self.state() != STATE_IDLE || self.is_to_leave() || self.watched.lost().is_some() {
            return;
        }
        if !self.stage.wait_gone(Instant::now() + LAST_STEPS) {
            self.watched.lose("it said that it left the device, and did not");
            return;
        }
        // Not the device's word at this moment: it is gone, and is started after this.
        self.words.control().device.state.store(STATE_LAUNCHED, Ordering::Release);
        if let Err(error) = self.stage.start() {
            self.watched.lose(&format!("it could not return to the device: {error}"));
        }
    }

    /// Brings it back if it is away and messages wait that came over a link: their sender could not.
    pub(crate) fn return_for_links(&self) {
        let command = self.words.control().host.command.load(Ordering::Relaxed) & COMMAND_MASK;
        if self.state() == STATE_IDLE && command == COMMAND_RUN && self.links.have_messages() {
            self.return_if_away();
        }
    }

    fn is_away(&self) -> bool {
        matches!(self.state(), STATE_IDLE | STATE_STOPPED) || self.watched.lost().is_some()
    }
}

/// All ring kernels of a device.
#[derive(Default)]
pub(crate) struct Tenants {
    all: Mutex<Vec<Weak<Tenant>>>,
    /// Held by whoever has made them make way.
    way: Mutex<()>,
}

impl Tenants {
    pub(crate) fn add(&self, tenant: &Arc<Tenant>) {
        let mut all = lock(&self.all);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(tenant));
    }

    fn present(&self) -> Vec<Arc<Tenant>> {
        lock(&self.all).iter().filter_map(Weak::upgrade).collect()
    }

    /// Has all of them leave at a message boundary, runs `act` with none on the device, and brings them back.
    ///
    /// # Errors
    ///
    /// The names of those that had not left after `patience`; `act` was not run then.
    pub(crate) fn make_way<T>(&self, patience: Duration, act: impl FnOnce() -> T) -> Result<T, Vec<String>> {
        let _way = lock(&self.way);
        let tenants = self.present();
        let away = Away(&tenants);
        for tenant in &tenants {
            tenant.words.control().host.command.fetch_or(COMMAND_LEAVE, Ordering::Release);
            // Whoever attends to it takes its events now.
            tenant.watched.wake();
        }
        let deadline = Instant::now() + patience;
        let stays = |tenant: &&Arc<Tenant>| !left(tenant, deadline);
        let stuck: Vec<String> = tenants.iter().filter(stays).map(|tenant| tenant.name.clone()).collect();
        if !stuck.is_empty() {
            return Err(stuck);
        }
        let result = act();
        drop(away);
        Ok(result)
    }
}

fn left(tenant: &Tenant, deadline: Instant) -> bool {
    let mut pause = Duration::from_micros(2);
    while !tenant.is_away() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_micros(200));
    }
    // One that is lost may be there for ever; whoever needs the device finds that out.
    tenant.watched.lost().is_some() || tenant.stage.wait_gone(deadline)
}

/// Ring kernels that have made way; they come back when this is dropped, also by a panic.
struct Away<'a>(&'a [Arc<Tenant>]);

impl Drop for Away<'_> {
    fn drop(&mut self) {
        for tenant in self.0 {
            tenant.words.control().host.command.fetch_and(!COMMAND_LEAVE, Ordering::Release);
            tenant.return_if_away();
        }
    }
}
