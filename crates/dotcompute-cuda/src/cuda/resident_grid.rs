//! A ring kernel on a GPU: its module, its memory, its streams, and the launch of its grid.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, result, sys};
use dotcompute_core::backend::device_port::{DeviceProgram, Shape};
use dotcompute_core::backend::{BackendError, Residency};

use super::device_allocation::DeviceAllocation;
use super::error::device_error;
use super::function::{Function, ModuleGuard};
use super::launch_attributes::launch_attributes;
use super::launch_mode::{self, LaunchMode};
use super::link_memory::CudaLink;
use super::pinned_memory::PinnedMemory;
use super::process_device::{ExitWaiter, ProcessDevice};
use super::streams::{COPY_TIMEOUT, Purpose, Stream};
use crate::Architecture;
use crate::driver::{DriverError, Module};
use crate::host_device_channel::ChannelMemory;
use crate::occupancy::Reservation;
use crate::protocol::{GridLine, Launch, STATE_LAUNCHED, STATE_OFF_DEVICE};
use crate::resident_grid::{
    DeviceAddresses, LinkMemory, ResidencyLimits, ResidentGrid, launch, launched_threads, limited,
};
use crate::resident_kernels::HungGrid;

/// Longest pause between two polls of an idle ring kernel.
const MAX_POLL_PAUSE: Duration = Duration::from_micros(4);
/// Bytes of one copy of a state. Larger states are copied in several chunks.
const STATE_CHUNK_BYTES: usize = 16 << 20;
/// Longest wait for a launched grid to start.
const START_TIMEOUT: Duration = Duration::from_millis(1);

/// The grid of a ring kernel on a GPU.
pub(super) struct CudaGrid {
    resources: Arc<GridResources>,
}

/// What the grid uses on the device. [`ProcessDevice`] keeps it until the grid has exited.
struct GridResources {
    name: String,
    launch: Launch,
    shape: Shape,
    architecture: Architecture,
    function: Function,
    context: Arc<CudaContext>,
    /// The stream of the grid's launches, alone in its hardware queue.
    launch_stream: Stream,
    /// The stream of copies to and from the state, which run while the grid is resident. All ring kernels share it.
    copy_stream: Stream,
    /// The first bytes of the initial state.
    image: Vec<u8>,
    /// Bytes of the state. Those after the image start as zeros.
    size: usize,
    /// Staging memory for copies of the state, one chunk at a time.
    staging: Mutex<PinnedMemory>,
    state: DeviceAllocation,
    grid: DeviceAllocation,
    _grid_message: DeviceAllocation,
    memory: Arc<ChannelMemory>,
    _module: ModuleGuard,
    _reservations: [Reservation; 3],
    process_device: Arc<ProcessDevice>,
    quiesce_timeout: Duration,
    links: Mutex<Vec<Arc<dyn LinkMemory>>>,
    /// Whether a thread is in a launch that may block.
    launching: AtomicBool,
    /// The error of such a launch.
    launch_error: Mutex<Option<String>>,
}

/// The parameters of a grid.
pub(super) struct GridParams {
    pub(super) context: Arc<CudaContext>,
    pub(super) architecture: Architecture,
    pub(super) process_device: Arc<ProcessDevice>,
    pub(super) module: Module,
    pub(super) function: Function,
    pub(super) memory: Arc<ChannelMemory>,
    pub(super) limits: ResidencyLimits,
    /// Longest wait for ring kernels to leave the device.
    pub(super) quiesce_timeout: Duration,
    pub(super) reservations: [Reservation; 3],
}

impl CudaGrid {
    /// Allocates everything that the ring kernel needs. The caller has quiesced the device.
    pub(super) fn new(name: &str, program: &DeviceProgram, params: GridParams) -> Result<Self, DriverError> {
        let GridParams {
            context,
            architecture,
            process_device,
            module,
            function,
            memory,
            limits,
            quiesce_timeout,
            reservations,
        } = params;
        let deferred_free = Arc::clone(&process_device.deferred_free);
        let module = ModuleGuard::new(module, &deferred_free);
        let launch_stream = process_device.streams.take(&context, Purpose::RingKernel)?;
        let copy_stream = process_device.streams.take(&context, Purpose::Copies)?;
        let (image, size) = (program.state.bytes.clone(), program.state.size);
        let staging = PinnedMemory::zeroed(&context, &deferred_free, size.min(STATE_CHUNK_BYTES))?;
        let state = DeviceAllocation::new(&context, &deferred_free, size)?;
        let grid = DeviceAllocation::new(&context, &deferred_free, size_of::<GridLine>())?;
        let grid_message = DeviceAllocation::new(&context, &deferred_free, program.input.size)?;
        let addresses = DeviceAddresses {
            grid: grid.address(),
            grid_message: grid_message.address(),
            state: state.address(),
        };
        let launch = launch(&memory, addresses, program, limits, MAX_POLL_PAUSE);
        let resources = GridResources {
            name: name.to_owned(),
            launch,
            shape: program.shape,
            architecture,
            function,
            context,
            launch_stream,
            copy_stream,
            image,
            size,
            staging: Mutex::new(staging),
            state,
            grid,
            _grid_message: grid_message,
            memory,
            _module: module,
            _reservations: reservations,
            process_device: Arc::clone(&process_device),
            quiesce_timeout,
            links: Mutex::default(),
            launching: AtomicBool::new(false),
            launch_error: Mutex::default(),
        };
        resources.initialize_state()?;
        resources.clear_grid_line()?;
        let resources = Arc::new(resources);
        process_device.keep_until_exit(Arc::clone(&resources) as Arc<dyn ExitWaiter>);
        Ok(Self { resources })
    }
}

impl ExitWaiter for GridResources {
    fn name(&self) -> &str {
        &self.name
    }

    fn wait_exited(&self, deadline: Instant) -> Result<bool, DriverError> {
        Self::wait_exited(self, deadline)
    }
}

impl HungGrid for GridResources {
    fn name(&self) -> &str {
        &self.name
    }

    fn has_exited(&self) -> bool {
        // An error means that the context is lost, and the grid with it.
        self.launch_stream.is_done().unwrap_or(true)
    }

    fn kill(&self) {
        // SYNC POINT: kill
        // The watching warp traps (`watch_for_kill`, ring_kernel.cuh), which ends everything in the context.
        self.memory.control().kill.kill.store(1, Ordering::Release);
    }
}

impl GridResources {
    /// Passes on the outcome of driver calls, and notes the loss of the context.
    fn noted<T>(&self, outcome: Result<T, DriverError>) -> Result<T, DriverError> {
        self.process_device.noted(&self.context, outcome)
    }

    /// Writes the initial state: the image, then zeros.
    fn initialize_state(&self) -> Result<(), DriverError> {
        self.write_state(&self.image)?;
        let (at, rest) = (self.image.len(), self.size - self.image.len());
        if rest == 0 {
            return Ok(());
        }
        let doing = || format!("clearing a state of {} bytes", self.size);
        // SAFETY: `rest` bytes from offset `at` are within the state, which `self` keeps allocated until the copy stream is drained.
        unsafe {
            result::memset_d8_async(self.state.address() + at as u64, 0, rest, self.copy_stream.handle())
        }
        .map_err(DriverError::while_doing(doing()))?;
        self.wait_for_copy(doing)
    }

    /// Zeroes the words that the blocks of the grid share. Each launch leaves them ready for the next.
    fn clear_grid_line(&self) -> Result<(), DriverError> {
        let doing = || String::from("clearing the words that the blocks of a grid share");
        let (at, stream) = (self.grid.address(), self.copy_stream.handle());
        // SAFETY: the allocation has the size of a `GridLine`, and no grid runs yet.
        unsafe { result::memset_d8_async(at, 0, size_of::<GridLine>(), stream) }
            .map_err(DriverError::while_doing(doing()))?;
        self.wait_for_copy(doing)
    }

    /// Copies bytes to the state. The copy engine works beside the resident grid.
    fn write_state(&self, bytes: &[u8]) -> Result<(), DriverError> {
        let doing = || format!("writing a state of {} bytes", bytes.len());
        self.context.bind_to_thread().map_err(DriverError::while_doing(doing()))?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, chunk) in bytes.chunks(STATE_CHUNK_BYTES).enumerate() {
            staging.bytes_mut()[..chunk.len()].copy_from_slice(chunk);
            let to = self.state.address() + (index * STATE_CHUNK_BYTES) as u64;
            let from = &staging.bytes()[..chunk.len()];
            // SAFETY: callers pass at most as many bytes as the state has. `self` keeps both sides allocated. The staging memory is
            // page-locked, and the lock is held until the copy is complete, so it is not written meanwhile.
            unsafe { result::memcpy_htod_async(to, from, self.copy_stream.handle()) }
                .map_err(DriverError::while_doing(doing()))?;
            self.wait_for_copy(doing)?;
        }
        Ok(())
    }

    /// Copies the state to the host, in the same way.
    fn read_state(&self) -> Result<Vec<u8>, DriverError> {
        let doing = || format!("reading a state of {} bytes", self.size);
        self.context.bind_to_thread().map_err(DriverError::while_doing(doing()))?;
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = Vec::new();
        state.try_reserve_exact(self.size).map_err(|_| DriverError::OutOfMemory { doing: doing() })?;
        while state.len() < self.size {
            let length = (self.size - state.len()).min(STATE_CHUNK_BYTES);
            let (to, from) = (&mut staging.bytes_mut()[..length], self.state.address() + state.len() as u64);
            // SAFETY: as for `write_state`. The chunk is within the state, and the staging memory is read only after the copy.
            unsafe { result::memcpy_dtoh_async(to, from, self.copy_stream.handle()) }
                .map_err(DriverError::while_doing(doing()))?;
            self.wait_for_copy(doing)?;
            state.extend_from_slice(&staging.bytes()[..length]);
        }
        Ok(state)
    }

    fn wait_for_copy(&self, doing: impl Fn() -> String) -> Result<(), DriverError> {
        if self.copy_stream.wait(Instant::now() + COPY_TIMEOUT)? {
            Ok(())
        } else {
            Err(DriverError::TimedOut { doing: doing(), waited: COPY_TIMEOUT })
        }
    }

    /// Launches the grid. If launches are known to block, on a thread of its own.
    fn start(self: &Arc<Self>) -> Result<(), BackendError> {
        let launched = match launch_mode::known() {
            Some(LaunchMode::Resident) => self.launch(self.launch),
            Some(LaunchMode::WhileBusy(_)) => return self.start_beside(),
            None => self.probe(),
        };
        self.noted(launched).map_err(|error| device_error("launching it", &error))
    }

    /// Launches the grid for the first time in this process, and finds out whether launches block.
    fn probe(&self) -> Result<(), DriverError> {
        let state = &self.memory.control().status.state;
        // Its first stay without a message is short, whatever the options say; the next message relaunches it. Twice: a thread that is not
        // scheduled for a while looks blocked.
        for _ in 0..2 {
            // SYNC POINT: relaunch
            // No grid of this ring kernel runs, so the host may write the device's word.
            state.store(STATE_LAUNCHED, Ordering::Release);
            self.launch(Launch {
                idle_timeout_ns: launch_mode::PROBE_STAY.as_nanos() as u64,
                ..self.launch
            })?;
            if state.load(Ordering::Acquire) != STATE_OFF_DEVICE {
                launch_mode::record(LaunchMode::Resident);
                return Ok(());
            }
            if !self.launch_stream.wait(Instant::now() + COPY_TIMEOUT)? {
                let doing = String::from("waiting for the exit of a ring kernel that has left the device");
                return Err(DriverError::TimedOut { doing, waited: COPY_TIMEOUT });
            }
        }
        let reason = "a launch returned only after its kernel had left the device, as under a debugger";
        launch_mode::record(LaunchMode::WhileBusy(reason.to_owned()));
        Ok(())
    }

    /// Launches the grid from a thread that may be blocked until it ends. Others wait for the thread in [`wait_exited`](Self::wait_exited).
    fn start_beside(self: &Arc<Self>) -> Result<(), BackendError> {
        // Release: pairs with the acquire load in `wait_exited`, as the store below does.
        self.launching.store(true, Ordering::Release);
        let this = Arc::clone(self);
        let launch = move || {
            let launched = this.noted(this.launch(limited(this.launch, launch_mode::WHILE_BUSY)));
            if let Err(error) = launched {
                *this.launch_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            }
            this.launching.store(false, Ordering::Release);
        };
        let spawned = std::thread::Builder::new().name(String::from("dc-launch")).spawn(launch);
        spawned.map(drop).map_err(|source| {
            self.launching.store(false, Ordering::Release);
            BackendError::Thread { source }
        })
    }

    /// Waits until no launch is under way and the grid has exited, at most until `deadline`. Returns false on timeout.
    fn wait_exited(&self, deadline: Instant) -> Result<bool, DriverError> {
        while self.launching.load(Ordering::Acquire) {
            if Instant::now() >= deadline {
                return Ok(false);
            }
            self.process_device.check()?;
            std::thread::sleep(Duration::from_micros(50));
        }
        self.launch_stream.wait(deadline)
    }

    /// Makes one launch with this argument.
    fn launch(&self, mut argument: Launch) -> Result<(), DriverError> {
        let doing = || DriverError::while_doing("launching a ring kernel");
        self.context.bind_to_thread().map_err(doing())?;
        let stream = self.launch_stream.handle();
        let mut arguments: [*mut c_void; 1] = [(&raw mut argument).cast()];
        let mut attributes = launch_attributes(self.shape, self.architecture);
        let config = sys::CUlaunchConfig {
            gridDimX: self.shape.blocks(),
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: launched_threads(self.shape.threads()),
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SYNC POINT: grid launch
        // The launch orders earlier writes of this thread before every read of the grid (`Leader::start`, `find_links`).
        // SAFETY: the function takes one `Launch`, which the driver copies before it returns, as it does the attributes. All addresses in it
        // point to memory that `self` keeps allocated, and `ProcessDevice` keeps `self` until the launch stream is complete.
        let launched = unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.function.0,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        };
        launched.result().map_err(doing())?;
        self.await_start()
    }

    /// Waits a moment for the first heartbeat of the grid. The driver may hold a launch back until the host makes another call: CUDA
    /// guarantees that a launched kernel starts only while calls such as `cuStreamQuery` are made. If the device is busy, the queries of the
    /// watchdog take over.
    fn await_start(&self) -> Result<(), DriverError> {
        let heartbeat = &self.memory.control().device.heartbeat;
        let (before, deadline) = (heartbeat.load(Ordering::Relaxed), Instant::now() + START_TIMEOUT);
        while !self.launch_stream.is_done()? && Instant::now() < deadline {
            // Relaxed: nothing is read because of it.
            if heartbeat.load(Ordering::Relaxed) != before {
                break;
            }
            std::hint::spin_loop();
        }
        Ok(())
    }
}

impl ResidentGrid for CudaGrid {
    fn start(&self) -> Result<(), BackendError> {
        self.resources.start()
    }

    fn wait_exited(&self, deadline: Instant) -> bool {
        // SYNC POINT: grid exit
        // The driver reports the stream complete only after the grid's last access to memory (`Leader::leave`, leader.cuh).
        // An error counts as an exit: waiting longer does not help, and the watchdog reports it.
        self.resources.noted(self.resources.wait_exited(deadline)).unwrap_or(true)
    }

    fn reset_state(&self) -> Result<(), BackendError> {
        let reset = self.resources.noted(self.resources.initialize_state());
        reset.map_err(|error| device_error("resetting its state", &error))
    }

    fn read_state(&self) -> Result<Vec<u8>, BackendError> {
        let read = self.resources.noted(self.resources.read_state());
        read.map_err(|error| device_error("reading its state", &error))
    }

    fn write_state(&self, bytes: &[u8]) -> Result<(), BackendError> {
        let doing = "writing its state";
        let checked = crate::launch_checks::same_size(self.resources.size, bytes.len());
        checked.map_err(|problem| device_error(doing, &problem))?;
        let written = self.resources.noted(self.resources.write_state(bytes));
        written.map_err(|error| device_error(doing, &error))
    }

    fn quiesced(&self, act: &mut dyn FnMut()) -> Result<(), BackendError> {
        self.resources.process_device.quiesced(self.resources.quiesce_timeout, act)
    }

    fn link_memory(&self, bytes: usize) -> Result<Arc<dyn LinkMemory>, BackendError> {
        let memory = CudaLink::new(&self.resources.context, &self.resources.process_device, bytes);
        Ok(Arc::new(memory.map_err(|error| device_error("allocating memory for a link", &error))?))
    }

    fn keep_alive(&self, memory: Arc<dyn LinkMemory>) {
        self.resources.links.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }

    fn device_key(&self) -> usize {
        // A handler may wait for a free slot of a link. Where launches block, the consumer may not be able to run until that handler has
        // returned, so outputs go through the host: no ring kernel is on the same device as another.
        if launch_mode::is_while_busy() {
            return Arc::as_ptr(&self.resources).addr();
        }
        Arc::as_ptr(&self.resources.process_device).addr()
    }

    fn abandon(&self) {
        let resources: Weak<GridResources> = Arc::downgrade(&self.resources);
        self.resources.process_device.kernels.add_hung(resources);
    }

    fn device_error(&self) -> Option<String> {
        let resources = &self.resources;
        if let Some(error) = &*resources.launch_error.lock().unwrap_or_else(PoisonError::into_inner) {
            return Some(format!("launching it: {error}"));
        }
        let lost = resources.process_device.check();
        let queried = lost.and_then(|()| resources.noted(resources.launch_stream.is_done()));
        queried.err().map(|error| error.to_string())
    }
}

/// The runtime's handle to the residency of a ring kernel on a GPU.
pub(super) struct CudaResidency(pub(super) Arc<CudaGrid>);

impl Residency for CudaResidency {
    fn join(&self, deadline: Instant) -> bool {
        self.0.wait_exited(deadline)
    }
}
