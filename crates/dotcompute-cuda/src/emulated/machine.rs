//! The threads of a ring kernel on the emulated device.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use dotcompute_core::backend::device_port::DeviceProgram;
use dotcompute_core::backend::{BackendError, BackendKind, Residency};

use super::compiler::{Code, Home, Thread};
use crate::account::Share;
use crate::exchange::{Exchange, SharedMemory as _, Words};
use crate::links::LinkMemory;
use crate::memory::HostMemory;
use crate::protocol::{GridLine, Launch};
use crate::tenant::{Places, Stage, Stays, Tenants, launch};

/// How long ring kernels may take to make way for a link.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause between two looks of an idle ring kernel.
const LONGEST_PAUSE: Duration = Duration::from_micros(200);

/// Everything that the threads of a ring kernel use: whoever is the last of them lets go of it.
pub(super) struct Threads {
    /// For threads to keep what they use.
    this: Weak<Self>,
    name: String,
    code: Arc<Code>,
    launch: Launch,
    blocks: u32,
    threads: u32,
    /// Threads that have not left.
    running: AtomicU32,
    ending: Mutex<()>,
    ended: Condvar,
    image: Vec<u8>,
    size: usize,
    state: HostMemory,
    grid: HostMemory,
    _grid_message: HostMemory,
    _words: Arc<Words>,
    _share: Share,
    tenants: Arc<Tenants>,
    links: Mutex<Vec<Arc<dyn LinkMemory>>>,
}

/// A ring kernel on the emulated device, for the runtime.
pub(super) struct EmulatedResidency(pub(super) Arc<Threads>);

impl Threads {
    /// Everything that a ring kernel needs, before it is started.
    pub(super) fn new(
        kernel: &str,
        program: &DeviceProgram,
        exchange: &Exchange,
        code: Arc<Code>,
        stays: Stays,
        share: Share,
        tenants: Arc<Tenants>,
    ) -> Result<Arc<Self>, BackendError> {
        let words = Arc::clone(&exchange.words);
        let (bytes, size) = (&program.state.bytes, program.state.size);
        let state = HostMemory::try_zeroed(size).ok_or_else(|| BackendError::Device {
            backend: BackendKind::Emulated,
            doing: String::from("making room for it"),
            problem: format!("its state has {size} bytes, more than this machine gives; make it smaller"),
        })?;
        state.write(bytes);
        let grid = HostMemory::zeroed(size_of::<GridLine>());
        let grid_message = HostMemory::zeroed(program.input.size);
        let places =
            Places { grid: grid.address(), grid_message: grid_message.address(), state: state.address() };
        let launch = launch(&words, places, program, stays, LONGEST_PAUSE);
        Ok(Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            name: kernel.chars().filter(|&c| c != '\0').take(15).collect(),
            code,
            launch,
            blocks: program.shape.blocks(),
            threads: program.shape.threads(),
            running: AtomicU32::new(0),
            ending: Mutex::default(),
            ended: Condvar::new(),
            image: bytes.clone(),
            size,
            state,
            grid,
            _grid_message: grid_message,
            _words: words,
            _share: share,
            tenants,
            links: Mutex::default(),
        }))
    }

    /// Starts all threads, those of each block with memory of their own.
    fn start_all(self: &Arc<Self>) -> Result<(), BackendError> {
        // Let nobody begin before all have been had: a grid of which a part runs would never end.
        let gate = Arc::new(Gate::default());
        for block in 0..self.blocks {
            let home = Arc::new(BlockHome::new(self.code.block_bytes));
            for thread in 0..self.threads {
                let (stage, home, passed) = (Arc::clone(self), Arc::clone(&home), Arc::clone(&gate));
                self.running.fetch_add(1, Ordering::Relaxed);
                let run = move || {
                    if passed.pass() {
                        stage.run(block, thread, &home);
                    }
                    stage.leave();
                };
                if let Err(source) = std::thread::Builder::new().name(self.name.clone()).spawn(run) {
                    self.leave();
                    gate.open(false);
                    return Err(BackendError::Thread { source });
                }
            }
        }
        gate.open(true);
        Ok(())
    }

    fn run(&self, block: u32, thread: u32, home: &BlockHome) {
        let home: *const Home = &raw const home.home;
        let me = Thread { thread, threads: self.threads, block, blocks: self.blocks, home };
        // SAFETY: the code was compiled from the text whose structs these are (a test compares them); every address in the launch is
        // that of memory which `self` keeps, of the size that the code takes it to have. What the user's handler does with its
        // state and its message is the user's to answer for, as on a GPU.
        unsafe { (self.code.run)(&raw const self.launch, &raw const me) }
    }

    fn leave(&self) {
        let _ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        // Release: whoever sees that none runs may touch what they have used. The lock alone would do; this a race detector sees too.
        if self.running.fetch_sub(1, Ordering::Release) == 1 {
            self.ended.notify_all();
        }
    }

    /// Waits until no thread runs, at most until `deadline`.
    fn wait(&self, deadline: Instant) -> bool {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        // Acquire: pairs with the release of each that has left.
        while self.running.load(Ordering::Acquire) > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            ending = self.ended.wait_timeout(ending, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }
}

impl Stage for Threads {
    fn start(&self) -> Result<(), BackendError> {
        let running = self.running.load(Ordering::Acquire);
        if running > 0 {
            return Err(BackendError::Device {
                backend: BackendKind::Emulated,
                doing: String::from("starting its threads"),
                problem: format!("{running} of its threads from before have not ended"),
            });
        }
        self.grid.write(&[0; size_of::<GridLine>()]);
        // Whoever calls this has it.
        self.this.upgrade().map_or(Ok(()), |this| this.start_all())
    }

    fn wait_gone(&self, deadline: Instant) -> bool {
        self.wait(deadline)
    }

    fn reset_state(&self) -> Result<(), BackendError> {
        // The ring kernel holds, and looks at nothing but its control words.
        self.state.write(&self.image);
        self.state.clear(self.image.len());
        Ok(())
    }

    fn read_state(&self) -> Result<Vec<u8>, BackendError> {
        Ok(self.state.read(self.size))
    }

    fn write_state(&self, bytes: &[u8]) -> Result<(), BackendError> {
        self.has_bytes(bytes)?;
        self.state.write(bytes);
        Ok(())
    }

    fn quiesced(&self, act: &mut dyn FnMut()) -> Result<(), BackendError> {
        let not_quiet = |kernels| BackendError::QuiesceTimeout { kernels, waited: PATIENCE };
        self.tenants.make_way(PATIENCE, act).map_err(not_quiet)
    }

    fn link_memory(&self, bytes: usize) -> Result<Arc<dyn LinkMemory>, BackendError> {
        Ok(Arc::new(HostMemory::zeroed(bytes)))
    }

    fn keep(&self, memory: Arc<dyn LinkMemory>) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }

    fn ground(&self) -> usize {
        Arc::as_ptr(&self.tenants).addr()
    }
}

impl LinkMemory for HostMemory {
    fn address(&self) -> u64 {
        Self::address(self)
    }

    fn read(&self) -> Result<Vec<u8>, BackendError> {
        Ok(Self::read(self, self.len()))
    }
}

impl Threads {
    fn has_bytes(&self, bytes: &[u8]) -> Result<(), BackendError> {
        crate::limits::same_size(self.size, bytes.len()).map_err(|problem| BackendError::Device {
            backend: BackendKind::Emulated,
            doing: String::from("writing its state"),
            problem,
        })
    }
}

impl Residency for EmulatedResidency {
    fn join(&self, deadline: Instant) -> bool {
        self.0.wait(deadline)
    }
}

/// Holds threads back until it is known whether there are all of them.
#[derive(Default)]
struct Gate {
    open: Mutex<Option<bool>>,
    opened: Condvar,
}

impl Gate {
    fn open(&self, complete: bool) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(complete);
        self.opened.notify_all();
    }

    fn pass(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open =
            self.opened.wait_while(open, |open| open.is_none()).unwrap_or_else(PoisonError::into_inner);
        open.unwrap_or(false)
    }
}

/// What the threads of a block share, with its memory.
struct BlockHome {
    home: Home,
    _memory: HostMemory,
}

impl BlockHome {
    fn new(bytes: usize) -> Self {
        let memory = HostMemory::zeroed(bytes);
        Self {
            home: Home { arrived: AtomicU32::new(0), round: AtomicU32::new(0), shared: memory.address() },
            _memory: memory,
        }
    }
}
