//! The grid of a ring kernel on the emulated device: one operating-system thread per device thread.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use dotcompute_core::backend::device_port::DeviceProgram;
use dotcompute_core::backend::{BackendError, BackendKind, Residency};

use super::host_compiler::{BlockShared, DeviceThread, HostKernel};
use super::host_memory::HostMemory;
use crate::host_device_channel::{ChannelMemory, HostDeviceChannel, SharedMemory as _};
use crate::occupancy::Reservation;
use crate::protocol::{GridLine, Launch};
use crate::resident_grid::{DeviceAddresses, LinkMemory, ResidencyLimits, ResidentGrid, launch};
use crate::resident_kernels::{HungGrid, ResidentKernels};

/// Longest wait for ring kernels to leave the device before a link is created.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest pause between two polls of an idle ring kernel.
const MAX_POLL_PAUSE: Duration = Duration::from_micros(200);

/// A grid of threads, and everything that they use. Each thread owns a reference, so the last one to exit may drop it.
pub(super) struct EmulatedGrid {
    /// For the references that threads own.
    this: Weak<Self>,
    name: String,
    kernel: Arc<HostKernel>,
    launch: Launch,
    blocks: u32,
    threads: u32,
    /// Number of threads that have not exited.
    running: AtomicU32,
    exit_lock: Mutex<()>,
    exit_cv: Condvar,
    /// The first bytes of the initial state.
    image: Vec<u8>,
    /// Bytes of the state. Those after the image start as zeros.
    size: usize,
    state: HostMemory,
    grid: HostMemory,
    _grid_message: HostMemory,
    memory: Arc<ChannelMemory>,
    /// Released early if the grid is killed: handles of the lost ring kernel may keep the grid.
    reservation: Mutex<Option<Reservation>>,
    kernels: Arc<ResidentKernels>,
    links: Mutex<Vec<Arc<dyn LinkMemory>>>,
}

/// The runtime's handle to the residency of a ring kernel on the emulated device.
pub(super) struct EmulatedResidency(pub(super) Arc<EmulatedGrid>);

impl EmulatedGrid {
    /// Allocates everything that the ring kernel needs, without starting threads.
    pub(super) fn new(
        name: &str,
        program: &DeviceProgram,
        channel: &HostDeviceChannel,
        kernel: Arc<HostKernel>,
        limits: ResidencyLimits,
        reservation: Reservation,
        kernels: Arc<ResidentKernels>,
    ) -> Result<Arc<Self>, BackendError> {
        let memory = Arc::clone(&channel.memory);
        let (bytes, size) = (&program.state.bytes, program.state.size);
        let state = HostMemory::try_zeroed(size).ok_or_else(|| BackendError::Device {
            backend: BackendKind::Emulated,
            doing: String::from("reserving resources for it"),
            problem: format!(
                "its state has {size} bytes, more than the host can allocate; use a smaller state"
            ),
        })?;
        state.write(bytes);
        let grid = HostMemory::zeroed(size_of::<GridLine>());
        let grid_message = HostMemory::zeroed(program.input.size);
        let addresses = DeviceAddresses {
            grid: grid.address(),
            grid_message: grid_message.address(),
            state: state.address(),
        };
        let launch = launch(&memory, addresses, program, limits, MAX_POLL_PAUSE);
        Ok(Arc::new_cyclic(|this| Self {
            this: Weak::clone(this),
            name: name.chars().filter(|&c| c != '\0').take(15).collect(),
            kernel,
            launch,
            blocks: program.shape.blocks(),
            threads: program.shape.threads(),
            running: AtomicU32::new(0),
            exit_lock: Mutex::default(),
            exit_cv: Condvar::new(),
            image: bytes.clone(),
            size,
            state,
            grid,
            _grid_message: grid_message,
            memory,
            reservation: Mutex::new(Some(reservation)),
            kernels,
            links: Mutex::default(),
        }))
    }

    /// Starts all threads. The threads of a block share memory of their own.
    fn start_all(self: &Arc<Self>) -> Result<(), BackendError> {
        // Threads wait at the gate until all of them exist: a grid that runs only in part would hang in its first barrier.
        let gate = Arc::new(StartGate::default());
        for block in 0..self.blocks {
            let block_memory = Arc::new(BlockMemory::new(self.kernel.block_bytes));
            for thread in 0..self.threads {
                let (grid, block_memory, thread_gate) =
                    (Arc::clone(self), Arc::clone(&block_memory), Arc::clone(&gate));
                self.running.fetch_add(1, Ordering::Relaxed);
                let run = move || {
                    if thread_gate.wait() {
                        grid.run(block, thread, &block_memory);
                    }
                    grid.exit();
                };
                // SYNC POINT: grid launch
                // `spawn` orders earlier writes of this thread before every read of the new thread (`Leader::start`, `find_links`).
                if let Err(source) = std::thread::Builder::new().name(self.name.clone()).spawn(run) {
                    self.exit();
                    gate.open(false);
                    return Err(BackendError::Thread { source });
                }
            }
        }
        gate.open(true);
        Ok(())
    }

    fn run(&self, block: u32, thread: u32, block_memory: &BlockMemory) {
        let block_state: *const BlockShared = &raw const block_memory.block_state;
        let thread = DeviceThread { thread, threads: self.threads, block, blocks: self.blocks, block_state };
        // SAFETY: the host compiler built the code from the headers that declare these structs (a test compares their layout). Every
        // address in `launch` points to memory of the expected size that `self` keeps allocated while the thread runs. As on a GPU, the
        // author of the handler is responsible for what it does with its state and its message.
        unsafe { (self.kernel.run)(&raw const self.launch, &raw const thread) }
    }

    fn exit(&self) {
        let _exit = self.exit_lock.lock().unwrap_or_else(PoisonError::into_inner);
        // SYNC POINT: grid exit
        // Release: pairs with the acquire load in `wait`; publishes what the thread has written. The lock alone would do, but a race
        // detector sees the atomics too.
        if self.running.fetch_sub(1, Ordering::Release) == 1 {
            self.exit_cv.notify_all();
            if self.memory.control().kill.kill.load(Ordering::Relaxed) != 0 {
                *self.reservation.lock().unwrap_or_else(PoisonError::into_inner) = None;
            }
        }
    }

    /// Waits until every thread has exited, at most until `deadline`. Returns false on timeout.
    fn wait(&self, deadline: Instant) -> bool {
        let mut exit = self.exit_lock.lock().unwrap_or_else(PoisonError::into_inner);
        // Acquire: pairs with the release in `exit` of each thread.
        while self.running.load(Ordering::Acquire) > 0 {
            let Some(remaining) = deadline.checked_duration_since(Instant::now()) else { return false };
            exit = self.exit_cv.wait_timeout(exit, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    fn check_state_size(&self, bytes: &[u8]) -> Result<(), BackendError> {
        crate::launch_checks::same_size(self.size, bytes.len()).map_err(|problem| BackendError::Device {
            backend: BackendKind::Emulated,
            doing: String::from("writing its state"),
            problem,
        })
    }
}

impl ResidentGrid for EmulatedGrid {
    fn start(&self) -> Result<(), BackendError> {
        let running = self.running.load(Ordering::Acquire);
        if running > 0 {
            return Err(BackendError::Device {
                backend: BackendKind::Emulated,
                doing: String::from("starting its threads"),
                problem: format!("{running} threads of its previous launch have not exited"),
            });
        }
        self.grid.write(&[0; size_of::<GridLine>()]);
        // The caller owns a reference, so the upgrade succeeds.
        self.this.upgrade().map_or(Ok(()), |this| this.start_all())
    }

    fn wait_exited(&self, deadline: Instant) -> bool {
        self.wait(deadline)
    }

    fn reset_state(&self) -> Result<(), BackendError> {
        // The ring kernel holds after a fault: its leader polls the control words, and no thread accesses the state.
        self.state.write(&self.image);
        self.state.clear(self.image.len());
        Ok(())
    }

    fn read_state(&self) -> Result<Vec<u8>, BackendError> {
        Ok(self.state.read(self.size))
    }

    fn write_state(&self, bytes: &[u8]) -> Result<(), BackendError> {
        self.check_state_size(bytes)?;
        self.state.write(bytes);
        Ok(())
    }

    fn quiesced(&self, act: &mut dyn FnMut()) -> Result<(), BackendError> {
        self.kernels.quiesce(QUIESCE_TIMEOUT, act).map_err(|error| error.after(QUIESCE_TIMEOUT))
    }

    fn link_memory(&self, bytes: usize) -> Result<Arc<dyn LinkMemory>, BackendError> {
        Ok(Arc::new(HostMemory::zeroed(bytes)))
    }

    fn keep_alive(&self, memory: Arc<dyn LinkMemory>) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }

    fn device_key(&self) -> usize {
        Arc::as_ptr(&self.kernels).addr()
    }

    fn abandon(&self) {
        let this: Weak<Self> = Weak::clone(&self.this);
        self.kernels.add_hung(this);
        // Nothing else is lost with it here.
        self.kill();
    }
}

impl HungGrid for EmulatedGrid {
    fn name(&self) -> &str {
        &self.name
    }

    fn has_exited(&self) -> bool {
        self.wait(Instant::now())
    }

    fn kill(&self) {
        // SYNC POINT: kill
        // The threads leave the handler when it next calls a function of the emulated device (`check_kill`, emulated.cuh).
        self.memory.control().kill.kill.store(1, Ordering::Release);
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

impl Residency for EmulatedResidency {
    fn join(&self, deadline: Instant) -> bool {
        self.0.wait(deadline)
    }
}

/// Blocks threads until it is known whether all of them could be spawned.
#[derive(Default)]
struct StartGate {
    open: Mutex<Option<bool>>,
    opened: Condvar,
}

impl StartGate {
    /// Lets the threads continue: with `complete` they run the kernel, without it they exit.
    fn open(&self, complete: bool) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(complete);
        self.opened.notify_all();
    }

    /// Waits for [`open`](Self::open) and returns its argument.
    fn wait(&self) -> bool {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let open =
            self.opened.wait_while(open, |open| open.is_none()).unwrap_or_else(PoisonError::into_inner);
        open.unwrap_or(false)
    }
}

/// The barrier and the shared memory of a block.
struct BlockMemory {
    block_state: BlockShared,
    _memory: HostMemory,
}

impl BlockMemory {
    fn new(bytes: usize) -> Self {
        let memory = HostMemory::zeroed(bytes);
        Self {
            block_state: BlockShared {
                arrived: AtomicU32::new(0),
                round: AtomicU32::new(0),
                shared: memory.address(),
            },
            _memory: memory,
        }
    }
}
