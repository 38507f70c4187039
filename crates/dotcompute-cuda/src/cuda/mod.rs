//! The CUDA backend: ring kernels that stay resident on a GPU.
//!
//! ```no_run
//! use dotcompute_core::runtime::{Runtime, RuntimeOptions};
//! use dotcompute_cuda::cuda::CudaBackend;
//!
//! let runtime = Runtime::with_options(RuntimeOptions::new().device(CudaBackend::new()?))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How a resident kernel does not hang the process
//!
//! - The host controls the device by plain stores to page-locked host memory. Messages need no driver call.
//! - Driver calls that wait for the device (loading code, allocating and freeing memory) run while no ring kernel is resident: a launch
//!   quiesces the resident ring kernels at their next message boundary.
//! - All work goes to non-blocking streams that wait for no other stream, and each ring kernel has a hardware queue of its own.
//! - An idle ring kernel leaves the device, and the next message relaunches it. A busy ring kernel leaves the device every
//!   [`max_residency`](CudaOptions::max_residency) and is relaunched at once, so that driver calls that synchronize the whole device
//!   complete.
//! - The watchdog checks heartbeats and each ring kernel's stream; an error that loses the context fails everything on the device at
//!   once, with the cause. The process then has to be replaced: the backend refuses to open the device again.

mod accelerators;
#[doc(hidden)]
pub mod baseline;
mod deferred_free;
mod device_allocation;
mod error;
mod function;
mod launch_attributes;
mod launch_mode;
mod link_memory;
mod memory_pool;
mod one_shot;
mod pinned_memory;
mod process_device;
mod resident_grid;
mod streams;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaContext, result};
use dotcompute_core::backend::device_port::DeviceProgram;
use dotcompute_core::backend::{Backend, BackendError, BackendKind, LaunchPlan, Program, Resident};

use crate::cache::Cache;
use crate::compile::Toolchain;
use crate::device_code::compile_input;
use crate::device_port::Port;
use crate::driver::{Device, Driver, DriverError, Module};
use crate::host_device_channel::{ChannelLayout, HostDeviceChannel};
use crate::library::Search;
use crate::occupancy::{OccupancyBudget, Unit};
use crate::resident_grid::ResidencyLimits;
use crate::resident_kernel::ResidentKernel;
use crate::resident_kernels::HungGrid;
use crate::watchdog::Watchdog;
use error::{device_error, launch_error, no_room};
use function::{Function, required_multiprocessors};
use pinned_memory::PinnedMemory;
use process_device::ProcessDevice;
use resident_grid::{CudaGrid, CudaResidency, GridParams};

pub use accelerators::{accelerators, memory_info};
pub use memory_pool::CudaMemory;
pub use one_shot::{CudaKernel, CudaLauncher, LoadedKernel};

/// Options of the CUDA backend.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CudaOptions {
    /// The device's index in this process. Default 0.
    pub device: u32,
    /// Maximum number of multiprocessors that ring kernels occupy; a block occupies one. Default: all.
    pub multiprocessors: Option<u32>,
    /// A ring kernel without a heartbeat for this long is marked lost. A handler that runs longer needs a larger value. Default 10 s.
    pub heartbeat_timeout: Duration,
    /// A ring kernel without a message for this long leaves the device. Zero: it stays. Default 1 s.
    pub idle_timeout: Duration,
    /// Longest uninterrupted residency. A ring kernel leaves the device after it, at a message boundary, and is relaunched at once. Any
    /// call in the process that synchronizes the whole device waits at most about this long. Zero: it stays, and such a call waits for
    /// [`quiesced`](dotcompute_core::runtime::Runtime::quiesced) or an idle time. Default 2 s.
    pub max_residency: Duration,
    /// Longest wait of a launch for the resident ring kernels to leave the device. Default 5 s.
    pub quiesce_timeout: Duration,
    /// Where the compiler and the linker are searched.
    pub search: Search,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            device: 0,
            multiprocessors: None,
            heartbeat_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(1),
            max_residency: Duration::from_secs(2),
            quiesce_timeout: Duration::from_secs(5),
            search: Search::from_environment(),
        }
    }
}

/// A backend for one GPU.
pub struct CudaBackend {
    options: CudaOptions,
    device: Device,
    context: Arc<CudaContext>,
    toolchain: Toolchain,
    cache: Cache,
    process_device: Arc<ProcessDevice>,
    /// The multiprocessors that ring kernels of this backend may occupy.
    occupancy: Arc<OccupancyBudget>,
    watchdog: Arc<Watchdog>,
}

fn unavailable(error: &DriverError) -> BackendError {
    match error {
        DriverError::Unavailable { missing, advice } => BackendError::Unavailable {
            backend: BackendKind::Cuda,
            missing: missing.clone(),
            advice: advice.clone(),
        },
        other => device_error("opening the device", other),
    }
}

fn toolchain(search: &Search) -> Result<Toolchain, BackendError> {
    Toolchain::load(search).map_err(|missing| BackendError::Unavailable {
        backend: BackendKind::Cuda,
        missing: missing.to_string(),
        advice: String::from("install what it names"),
    })
}

impl CudaBackend {
    /// Opens the first device, with default options.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] without a driver, a device or a compiler; [`BackendError::Device`] with the driver's error text.
    pub fn new() -> Result<Arc<Self>, BackendError> {
        Self::with_options(CudaOptions::default())
    }

    /// Opens the device that `options` names.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), and if there is no device of that index.
    pub fn with_options(options: CudaOptions) -> Result<Arc<Self>, BackendError> {
        let driver = Driver::open().map_err(|error| unavailable(&error))?;
        let device = driver.device(options.device).map_err(|error| unavailable(&error))?;
        if !device.maps_host_memory {
            return Err(BackendError::Unavailable {
                backend: BackendKind::Cuda,
                missing: format!("{} cannot map host memory", device.name),
                advice: String::from("use another device"),
            });
        }
        let toolchain = toolchain(&options.search)?;
        let context = live_context(&device).map_err(|error| unavailable(&error))?;
        let watchdog = Watchdog::start("dc-cuda", options.heartbeat_timeout)
            .map_err(|source| BackendError::Thread { source })?;
        let multiprocessors = options.multiprocessors.unwrap_or(u32::MAX).min(device.multiprocessors);
        Ok(Arc::new(Self {
            occupancy: OccupancyBudget::new(Unit::Blocks, multiprocessors),
            process_device: ProcessDevice::of(&device),
            options,
            device,
            context,
            toolchain,
            cache: Cache::from_environment(),
            watchdog,
        }))
    }

    /// Returns the device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Ends the ring kernels of this process on the device whose handlers do not return, and returns their names.
    ///
    /// A GPU ends such a kernel only together with **everything in the CUDA context of this process**: all of its ring kernels, and what CuPy
    /// or PyTorch hold on the device. The GPU is then free for other processes; this one cannot use it any more. Without such a kernel, the
    /// call does nothing.
    ///
    /// # Errors
    ///
    /// [`BackendError::QuiesceTimeout`] if one is still on the device after `timeout`. A handler of more than 960 threads per block leaves no
    /// space for the warp that ends it.
    pub fn kill_hung(&self, timeout: Duration) -> Result<Vec<String>, BackendError> {
        let hung = self.process_device.kernels.hung();
        hung.iter().for_each(|grid| grid.kill());
        let deadline = dotcompute_core::deadline::after(timeout);
        while Instant::now() < deadline && hung.iter().any(|grid| !grid.has_exited()) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let names = |grids: &[Arc<dyn HungGrid>]| grids.iter().map(|grid| grid.name().to_owned()).collect();
        let left: Vec<_> = hung.iter().filter(|grid| !grid.has_exited()).cloned().collect();
        if left.is_empty() {
            Ok(names(&hung))
        } else {
            Err(BackendError::QuiesceTimeout { kernels: names(&left), waited: timeout })
        }
    }

    fn make_resident(&self, kernel: &str, program: &DeviceProgram) -> Result<Resident, BackendError> {
        crate::launch_checks::check(program)
            .map_err(|problem| device_error("checking the launch", &problem))?;
        let layout = ChannelLayout::new(program.input.size, program.output.size, program.queue_capacity)
            .map_err(|error| device_error("creating its rings", &error))?;
        let input = compile_input(kernel, program, self.device.architecture).ok_or_else(|| {
            device_error(
                "compiling its handler",
                &"this version does not support its kind of code; pass CUDA C++",
            )
        })?;
        let compiled = self.cache.compile(&self.toolchain, &input);
        let compiled = compiled.map_err(|error| device_error("compiling its handler", &error))?;
        // Loading code and allocating memory synchronize with the device.
        self.process_device.quiesced(self.options.quiesce_timeout, || {
            let module = Module::load(&self.context, &compiled.kernel.cubin);
            let module = self
                .process_device
                .noted(&self.context, module)
                .map_err(|error| device_error("loading its code", &error))?;
            self.start(kernel, program, layout, module)
        })?
    }

    fn start(
        &self,
        kernel: &str,
        program: &DeviceProgram,
        layout: ChannelLayout,
        module: Module,
    ) -> Result<Resident, BackendError> {
        let function = Function::of(&module).map_err(|error| device_error("loading its code", &error))?;
        let failed = |problem: &dyn std::fmt::Display| device_error("reserving resources for it", problem);
        let required = required_multiprocessors(&self.device, function, program.shape)
            .map_err(|problem| failed(&problem))?;
        let reserve = |budget: &Arc<OccupancyBudget>, units| budget.reserve(units).map_err(no_room);
        let device = &self.process_device;
        let reservations = [
            reserve(&self.occupancy, required)?,
            reserve(&device.occupancy, required)?,
            reserve(&device.grids, 1)?,
        ];
        let backing = PinnedMemory::zeroed(&self.context, &self.process_device.deferred_free, layout.bytes());
        let backing = backing.map_err(|error| failed(&error))?;
        let channel = HostDeviceChannel::new(Arc::new(backing), layout).map_err(|error| failed(&error))?;
        let params = GridParams {
            context: Arc::clone(&self.context),
            architecture: self.device.architecture,
            process_device: Arc::clone(&self.process_device),
            module,
            function,
            memory: Arc::clone(&channel.memory),
            quiesce_timeout: self.options.quiesce_timeout,
            limits: ResidencyLimits { idle: self.options.idle_timeout, max_stay: self.options.max_residency },
            reservations,
        };
        let grid = self
            .process_device
            .noted(&self.context, CudaGrid::new(kernel, program, params))
            .map_err(|error| launch_error("reserving resources for it", &error))?;
        let grid = Arc::new(grid);
        let residency = CudaResidency(Arc::clone(&grid));
        let kernel = ResidentKernel::new(kernel, grid, Arc::clone(&channel.memory));
        self.process_device.kernels.launch(&kernel, 1)?;
        let port = Port::new(channel, kernel, program, Arc::clone(&self.watchdog));
        Ok(Resident { residency: Box::new(residency), port: Some(Box::new(port)) })
    }
}

/// Returns the primary context of the device, unless it is lost to an earlier error.
fn live_context(device: &Device) -> Result<Arc<CudaContext>, DriverError> {
    let process_device = ProcessDevice::of(device);
    process_device.check()?;
    let context = device.context()?;
    let doing = || DriverError::while_doing("checking the context");
    let usable = context.bind_to_thread().and_then(|()| result::mem_get_info()).map_err(doing());
    process_device.noted(&context, usable)?;
    Ok(context)
}

impl Backend for CudaBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn launch(&self, plan: LaunchPlan) -> Result<Resident, BackendError> {
        match plan.program {
            Program::Device(program) => self.make_resident(&plan.kernel, &program),
            _ => Err(BackendError::Unsupported {
                backend: BackendKind::Cuda,
                problem: String::from("it is a task for the host, not code for a device"),
            }),
        }
    }

    fn quiesced(&self, timeout: Duration, act: &mut dyn FnMut()) -> Result<(), BackendError> {
        self.process_device.quiesced(timeout, act)
    }
}
