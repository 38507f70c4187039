//! The emulated device: the host's C++ compiler compiles the device code of `device/*.cuh`, and threads of this process run it, one per
//! device thread.
//!
//! Everything but the driver is the same as on a GPU: the resident loop, the rings, the shared words, and the host side in Rust. Ring
//! kernels for devices can therefore be written, tested and debugged on a machine without a GPU.
//!
//! ```no_run
//! use dotcompute_core::runtime::{Runtime, RuntimeOptions};
//! use dotcompute_cuda::emulated::EmulatedBackend;
//!
//! let runtime = Runtime::with_options(RuntimeOptions::new().device(EmulatedBackend::new()?))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod host_compiler;
pub(crate) mod host_memory;
mod resident_grid;

use std::sync::Arc;
use std::time::Duration;

use dotcompute_core::backend::device_port::DeviceProgram;
use dotcompute_core::backend::{Backend, BackendError, BackendKind, LaunchPlan, Program, Resident};

use crate::device_port::Port;
use crate::host_device_channel::{ChannelLayout, HostDeviceChannel};
use crate::occupancy::{NoRoom, OccupancyBudget, Unit};
use crate::resident_grid::ResidencyLimits;
use crate::resident_kernel::ResidentKernel;
use crate::resident_kernels::ResidentKernels;
use crate::watchdog::Watchdog;
use host_memory::HostMemory;
use resident_grid::{EmulatedGrid, EmulatedResidency};

pub use host_compiler::{CXXFLAGS_ENV_VAR, CompilerError, KEEP_DIR_ENV_VAR, STRETCH_ENV_VAR, find_compiler};

/// Options of an emulated device.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EmulatedOptions {
    /// Maximum number of blocks that are resident at once. Each of their threads is a thread of this process. Default 64.
    pub blocks: u32,
    /// A ring kernel without a heartbeat for this long is marked lost. A handler that runs longer needs a larger value. Default 10 s.
    pub heartbeat_timeout: Duration,
    /// A ring kernel without a message for this long leaves the device. Zero: it stays. Default 100 ms.
    pub idle_timeout: Duration,
    /// Longest uninterrupted residency: a ring kernel leaves the device after it and is relaunched at once. Zero: it stays. Default 2 s.
    pub max_residency: Duration,
    /// Seed of a device under stress, for tests: its stores become visible late, and its fences take long, at random. Default: the seed in
    /// [`STRETCH_ENV_VAR`], or a device that does neither.
    pub stretch_seed: Option<u64>,
}

impl Default for EmulatedOptions {
    fn default() -> Self {
        Self {
            blocks: 64,
            heartbeat_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_millis(100),
            max_residency: Duration::from_secs(2),
            stretch_seed: None,
        }
    }
}

/// A backend whose device consists of threads of this process.
pub struct EmulatedBackend {
    options: EmulatedOptions,
    occupancy: Arc<OccupancyBudget>,
    watchdog: Arc<Watchdog>,
    kernels: Arc<ResidentKernels>,
}

impl EmulatedBackend {
    /// Creates a device with default options.
    ///
    /// # Errors
    ///
    /// [`BackendError::Thread`] if the watchdog thread cannot be started.
    pub fn new() -> Result<Arc<Self>, BackendError> {
        Self::with_options(EmulatedOptions::default())
    }

    /// Creates a device with these options.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_options(options: EmulatedOptions) -> Result<Arc<Self>, BackendError> {
        let watchdog = Watchdog::start("dc-emulated", options.heartbeat_timeout)
            .map_err(|source| BackendError::Thread { source })?;
        Ok(Arc::new(Self {
            occupancy: OccupancyBudget::new(Unit::Blocks, options.blocks),
            options,
            watchdog,
            kernels: Arc::default(),
        }))
    }

    fn make_resident(&self, kernel: &str, program: &DeviceProgram) -> Result<Resident, BackendError> {
        let failed = |doing: &str, problem: String| BackendError::Device {
            backend: BackendKind::Emulated,
            doing: doing.to_owned(),
            problem,
        };
        crate::launch_checks::check(program).map_err(|problem| failed("checking the launch", problem))?;
        let reservation = self.occupancy.reserve(program.shape.blocks());
        let reservation = reservation.map_err(|error| self.no_room(error))?;
        let layout = ChannelLayout::new(program.input.size, program.output.size, program.queue_capacity);
        let layout = layout.map_err(|error| failed("creating its rings", error.to_string()))?;
        let compiled = host_compiler::compile(kernel, program, self.options.stretch_seed)
            .map_err(|error| failed("compiling its handler", error.to_string()))?;
        let channel = HostDeviceChannel::new(Arc::new(HostMemory::zeroed(layout.bytes())), layout);
        let channel = channel.map_err(|error| failed("creating its rings", error.to_string()))?;
        let limits =
            ResidencyLimits { idle: self.options.idle_timeout, max_stay: self.options.max_residency };
        let kernels = Arc::clone(&self.kernels);
        let grid = EmulatedGrid::new(kernel, program, &channel, compiled, limits, reservation, kernels)?;
        let residency = EmulatedResidency(Arc::clone(&grid));
        let kernel = ResidentKernel::new(kernel, grid, Arc::clone(&channel.memory));
        self.kernels.launch(&kernel, 0)?;
        let port = Port::new(channel, kernel, program, Arc::clone(&self.watchdog));
        Ok(Resident { residency: Box::new(residency), port: Some(Box::new(port)) })
    }

    /// The error of a launch that found no blocks. A ring kernel whose handler does not return may be why.
    fn no_room(&self, error: NoRoom) -> BackendError {
        let mut error = error.into_backend_error(BackendKind::Emulated);
        let hung = self.kernels.hung_names();
        if let BackendError::NoRoom { problem, .. } = &mut error
            && !hung.is_empty()
        {
            problem.push_str("; the handler of ");
            problem.push_str(&hung.join(", "));
            problem.push_str(" does not return, and keeps its blocks");
        }
        error
    }
}

impl Backend for EmulatedBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Emulated
    }

    fn launch(&self, plan: LaunchPlan) -> Result<Resident, BackendError> {
        match plan.program {
            Program::Device(program) => self.make_resident(&plan.kernel, &program),
            _ => Err(BackendError::Unsupported {
                backend: BackendKind::Emulated,
                problem: String::from("it is a task for the host, not code for a device"),
            }),
        }
    }

    fn quiesced(&self, timeout: Duration, act: &mut dyn FnMut()) -> Result<(), BackendError> {
        self.kernels.quiesce(timeout, act).map_err(|error| error.after(timeout))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    use dotcompute_conformance::{DEVICE_HANDLERS, Number, number, watchdog};
    use dotcompute_core::device::{DeviceKernel, Shape};

    use super::*;
    use crate::protocol::{COMMAND_KILL, COMMAND_RUN, InputHeader, STATE_OFF_DEVICE};
    use crate::resident_grid::ResidentGrid as _;

    /// The store of the state and the device's polls for messages are far apart on a device under stress. A message that is posted in between
    /// must not bring the grid back: a host that has seen the state waits for the exit of the grid.
    #[test]
    fn a_grid_that_says_that_it_has_left_exits_whatever_arrives() {
        watchdog!();
        const IDLE: Duration = Duration::from_micros(200);
        let kernel = DeviceKernel::<Number, Number>::cuda_cpp("conformance.cu", DEVICE_HANDLERS);
        let kernel = kernel.entry("sum").state(number(0)).shape(Shape::Block { threads: 1 });
        let program = kernel.program();
        let layout = ChannelLayout::new(8, 8, 512).unwrap();
        let mut channel =
            HostDeviceChannel::new(Arc::new(HostMemory::zeroed(layout.bytes())), layout).unwrap();
        let compiled = host_compiler::compile("sum", program, Some(1)).unwrap();
        let limits = ResidencyLimits { idle: IDLE, max_stay: Duration::ZERO };
        let reservation = OccupancyBudget::new(Unit::Blocks, 1).reserve(1).unwrap();
        let kernels = Arc::default();
        let grid =
            EmulatedGrid::new("sum", program, &channel, compiled, limits, reservation, kernels).unwrap();
        let memory = Arc::clone(&channel.memory);
        let (state, command) = (&memory.control().status.state, &memory.control().host.command);
        command.store(COMMAND_RUN, Ordering::Release);
        for round in 0..60 {
            grid.start().unwrap();
            while state.load(Ordering::Acquire) != STATE_OFF_DEVICE {
                std::thread::yield_now();
            }
            let handled = memory.done();
            assert!(channel.messages.push(InputHeader { wants_reply: 0, priority: 0 }, &[1; 8]));
            assert!(grid.wait_exited(Instant::now() + Duration::from_secs(60)));
            let [state, now] = [u64::from(state.load(Ordering::Acquire)), memory.done()];
            assert_eq!([state, now], [u64::from(STATE_OFF_DEVICE), handled], "in round {round}");
            memory.control().status.state.store(0, Ordering::Release);
            assert_eq!(handled, round, "the grid of this round has handled the message of the last one");
        }
        command.store(COMMAND_KILL, Ordering::Release);
    }
}
