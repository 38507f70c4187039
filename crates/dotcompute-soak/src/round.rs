//! One round: a runtime, its ring kernels, the threads that call them, and the checks at the end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use dotcompute::cuda::emulated::EmulatedBackend;
use dotcompute::prelude::*;
use fastrand::Rng;

use crate::error::SoakError;
use crate::kernels::{Directory, Handle, launch};
use crate::watchdog::Watchdog;

/// A round launches a ring kernel on the device if its number is a multiple of this: compiling takes a second.
const DEVICE_EVERY: u64 = 4;

/// How long calls may take to end after their runtime has ended: handlers sleep for milliseconds, and a busy machine adds its own.
const MAX_ENDING: Duration = Duration::from_secs(20);

/// Counts over all rounds, or over one.
#[derive(Debug, Default)]
pub struct Totals {
    rounds: u64,
    kernels: u64,
    sent: u64,
    handled: u64,
    dead_letters: u64,
    pub took: Duration,
}

impl Totals {
    pub fn add(&mut self, other: &Self) {
        self.rounds += 1;
        self.kernels += other.kernels;
        self.sent += other.sent;
        self.handled += other.handled;
        self.dead_letters += other.dead_letters;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, kernels, sent, handled, dead_letters, took } = self;
        if *rounds > 0 {
            write!(f, "{rounds} rounds in {:.1} s: ", took.as_secs_f64())?;
        }
        write!(f, "{kernels} ring kernels, {sent} messages = {handled} handled + {dead_letters} dead letters")
    }
}

/// One round.
pub struct Round {
    number: u64,
    seed: u64,
    pub directory: Arc<Directory>,
    /// Every handle ever launched in this round, for the checks at its end.
    launched: Directory,
    /// `None` once the runtime has ended.
    runtime: RwLock<Option<Runtime>>,
    stop: AtomicBool,
    watchdog: RwLock<Option<Arc<Watchdog>>>,
    device: Arc<EmulatedBackend>,
}

impl Round {
    pub fn new(number: u64, seed: u64, device: Arc<EmulatedBackend>) -> Self {
        Self {
            number,
            seed,
            directory: Arc::default(),
            launched: Directory::default(),
            runtime: RwLock::new(None),
            stop: AtomicBool::new(false),
            watchdog: RwLock::new(None),
            device,
        }
    }

    /// Registers a launched ring kernel.
    pub fn add(&self, handle: Handle) {
        self.launched.add(handle.clone());
        self.directory.add(handle);
    }

    /// Uses the runtime, if it has not ended.
    pub fn with_runtime<T>(&self, use_it: impl FnOnce(&Runtime) -> T) -> Option<T> {
        self.runtime.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(use_it)
    }

    pub fn watchdog(&self) -> Arc<Watchdog> {
        let watchdog = self.watchdog.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(watchdog.as_ref().expect("set before the threads start"))
    }

    /// Runs the round. Its threads make calls with `call_once`, which gets the number of the thread.
    ///
    /// # Errors
    ///
    /// What it found wrong.
    pub fn run(
        self,
        watchdog: &Arc<Watchdog>,
        call_once: fn(&Self, usize, &mut Rng),
    ) -> Result<Totals, SoakError> {
        let mut rng = Rng::with_seed(self.seed);
        *self.watchdog.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(watchdog));
        let main_thread = watchdog.callers();
        watchdog.watch(main_thread, "launching", "all", || self.start(&mut rng))?;
        let ending = std::thread::scope(|scope| {
            for thread in 0..watchdog.callers() {
                let (round, mut rng) = (&self, Rng::with_seed(rng.u64(..)));
                scope.spawn(move || {
                    while !round.stop.load(Ordering::Relaxed) {
                        call_once(round, thread, &mut rng);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(rng.u64(20..400)));
            self.stop.store(true, Ordering::Relaxed);
            watchdog.watch(main_thread, "ending the runtime", "all", || self.end(&mut rng));
            Instant::now()
        });
        if ending.elapsed() > MAX_ENDING {
            return Err(SoakError::Slow { took: ending.elapsed() });
        }
        watchdog.watch(main_thread, "checking", "all", || self.check())
    }

    fn start(&self, rng: &mut Rng) -> Result<(), SoakError> {
        let options = RuntimeOptions::new().workers(rng.usize(1..4)).max_blocked_handlers(rng.usize(1..40));
        let runtime = Runtime::with_options(options.dead_letter_capacity(16).device(self.device.clone()))
            .map_err(|error| SoakError::Setup(error.to_string()))?;
        for index in 0..rng.usize(3..12) {
            let handle = launch(&runtime, &format!("k{index}"), rng, &self.directory, false);
            handle.into_iter().for_each(|handle| self.activate(handle));
        }
        if self.number.is_multiple_of(DEVICE_EVERY) {
            let handle = launch(&runtime, "device", rng, &self.directory, true);
            let handle =
                handle.ok_or_else(|| SoakError::Setup(String::from("the device launches nothing")))?;
            self.activate(handle);
        }
        *self.runtime.write().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
        Ok(())
    }

    fn activate(&self, handle: Handle) {
        drop(handle.activate());
        self.add(handle);
    }

    /// Ends the runtime while calls go on.
    fn end(&self, rng: &mut Rng) {
        let runtime = self.runtime.write().unwrap_or_else(PoisonError::into_inner).take();
        match (runtime, rng.u8(..3)) {
            (Some(runtime), 0) => drop(runtime.shutdown(Duration::from_millis(rng.u64(..200)))),
            (Some(runtime), 1) => drop(runtime.shutdown(Duration::from_secs(2))),
            (runtime, _) => drop(runtime),
        }
    }

    fn check(&self) -> Result<Totals, SoakError> {
        let mut totals = Totals::default();
        drop(self.directory.take());
        for handle in self.launched.take() {
            let kernel = handle.name().to_owned();
            let deadline = Instant::now() + MAX_ENDING;
            // A handler that was still running when its ring kernel was declared failed settles its messages when it returns.
            let stats = loop {
                let stats = handle.stats();
                if stats.state.has_ended() && stats.queued == 0 && stats.is_conserved() {
                    break stats;
                }
                if Instant::now() >= deadline {
                    return Err(if stats.state.has_ended() {
                        SoakError::NotConserved { kernel, stats: format!("{stats:?}") }
                    } else {
                        SoakError::NotEnded { kernel, status: stats.status().to_string() }
                    });
                }
                std::thread::sleep(Duration::from_millis(1));
            };
            totals.kernels += 1;
            totals.sent += stats.sent;
            totals.handled += stats.handled;
            totals.dead_letters += stats.dead_letters;
        }
        Ok(totals)
    }
}
