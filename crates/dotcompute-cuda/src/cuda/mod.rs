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
//! # What keeps a resident kernel from hanging the process
//!
//! - The device is steered by plain stores to page-locked host memory. No call to the driver is made for a message.
//! - What needs the driver to wait for the device (loading code, taking and giving back memory) is done while no ring kernel is on
//!   it: a launch has those that are there make way for a moment, at a message boundary.
//! - All work is on streams of our own that wait for no other.
//! - A ring kernel leaves by itself when idle, and comes back with the next message. A busy one leaves for a moment after every
//!   [`max_residency`](CudaOptions::max_residency), so that whoever waits for the whole device gets his turn.
//! - Hearts are watched, and the stream of each ring kernel is looked at: an error of the context fails all that is in it.

mod accelerators;
#[doc(hidden)]
pub mod baseline;
mod ground;
mod memory;
mod memory_pool;
mod one_shot;
mod stage;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaContext, result, sys};
use dotcompute_core::backend::device_port::DeviceProgram;
use dotcompute_core::backend::{Backend, BackendError, BackendKind, LaunchPlan, Program, Resident};

use crate::account::Account;
use crate::cache::Cache;
use crate::compile::Toolchain;
use crate::device_code::compile_input;
use crate::driver::{Device, Driver, DriverError, Module};
use crate::exchange::{Exchange, Plan};
use crate::library::Search;
use crate::port::Port;
use crate::tenant::{Stage, Stays, Tenant};
use crate::watch::Watcher;
use ground::{Ground, device_error};
use memory::Pinned;
use stage::{CudaResidency, CudaStage, Function, Ingredients, fits};

pub use accelerators::{accelerators, memory_info};
pub use memory_pool::CudaMemory;
pub use one_shot::{CudaKernel, CudaLauncher, LoadedKernel};

/// How the CUDA backend is made, where the defaults do not suit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CudaOptions {
    /// The device's number in this process. Default 0.
    pub device: u32,
    /// Multiprocessors that ring kernels may take. Default all; a block takes one.
    pub multiprocessors: Option<u32>,
    /// How long a heart may be silent before its ring kernel is lost. Default 10 seconds; a handler that works longer needs more.
    pub heartbeat_timeout: Duration,
    /// How long a ring kernel stays without a message before it leaves. Default 1 second; zero: it stays.
    pub idle_timeout: Duration,
    /// How long a ring kernel stays at a stretch before it leaves for a moment, at a message boundary: a call of anybody's that waits for the
    /// whole device waits at most so long, and then gets its turn. Default 2 seconds; zero: it stays, and such a call waits for
    /// [`quiesced`](dotcompute_core::runtime::Runtime::quiesced) or for an idle time.
    pub max_residency: Duration,
    /// How long a launch waits for the ring kernels that are there to make way. Default 5 seconds.
    pub quiesce_timeout: Duration,
    /// Where the compiler and the linker are looked for.
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

/// A GPU.
pub struct CudaBackend {
    options: CudaOptions,
    device: Device,
    context: Arc<CudaContext>,
    toolchain: Toolchain,
    cache: Cache,
    ground: Arc<Ground>,
    /// Of what this backend may take of the device.
    account: Arc<Account>,
    watcher: Arc<Watcher>,
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
    /// The first device, with default options.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] without a driver, a device or a compiler; [`BackendError::Device`] with the driver's own word.
    pub fn new() -> Result<Arc<Self>, BackendError> {
        Self::with_options(CudaOptions::default())
    }

    /// A device with these options.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), and if there is no device of that number.
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
        let watcher = Watcher::start("dc-cuda", options.heartbeat_timeout)
            .map_err(|source| BackendError::Thread { source })?;
        let multiprocessors = options.multiprocessors.unwrap_or(u32::MAX).min(device.multiprocessors);
        Ok(Arc::new(Self {
            account: Account::new(multiprocessors),
            ground: Ground::of(&device),
            options,
            device,
            context,
            toolchain,
            cache: Cache::from_environment(),
            watcher,
        }))
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    fn make_resident(&self, kernel: &str, program: &DeviceProgram) -> Result<Resident, BackendError> {
        crate::limits::check(program).map_err(|problem| device_error("checking the launch", &problem))?;
        let plan = Plan::new(program.input.size, program.output.size, program.queue_capacity)
            .map_err(|error| device_error("laying out its rings", &error))?;
        let input = compile_input(kernel, program, self.device.architecture).ok_or_else(|| {
            device_error(
                "compiling its handler",
                &"its code is of a kind that this version does not know; give CUDA C++",
            )
        })?;
        let compiled = self.cache.compile(&self.toolchain, &input);
        let compiled = compiled.map_err(|error| device_error("compiling its handler", &error))?;
        // Loading code and taking memory waits for the device.
        self.ground.quiesced(self.options.quiesce_timeout, || {
            let module = Module::load(&self.context, &compiled.kernel.cubin)
                .map_err(|error| device_error("loading its code", &error))?;
            self.start(kernel, program, plan, module)
        })?
    }

    fn start(
        &self,
        kernel: &str,
        program: &DeviceProgram,
        plan: Plan,
        module: Module,
    ) -> Result<Resident, BackendError> {
        let function = Function::of(&module).map_err(|error| device_error("loading its code", &error))?;
        let refused = |problem: &dyn std::fmt::Display| device_error("making room for it", problem);
        let takes = fits(&self.device, function, program.shape).map_err(|problem| refused(&problem))?;
        let take = |account: &Arc<Account>| account.take(takes).map_err(|full| refused(&full));
        let shares = [take(&self.account)?, take(&self.ground.account)?];
        let memory = Pinned::zeroed(&self.context, &self.ground.graveyard, plan.bytes());
        let memory = memory.map_err(|error| refused(&error))?;
        let exchange = Exchange::new(Arc::new(memory), plan).map_err(|error| refused(&error))?;
        let ingredients = Ingredients {
            context: Arc::clone(&self.context),
            ground: Arc::clone(&self.ground),
            module,
            function,
            words: Arc::clone(&exchange.words),
            patience: self.options.quiesce_timeout,
            stays: Stays { idle: self.options.idle_timeout, longest: self.options.max_residency },
            shares,
        };
        let stage = Arc::new(CudaStage::new(kernel, program, ingredients).map_err(|error| refused(&error))?);
        stage.start()?;
        let residency = CudaResidency(Arc::clone(&stage));
        let tenant = Tenant::new(kernel, stage, Arc::clone(&exchange.words));
        self.ground.tenants.add(&tenant);
        let port = Port::new(exchange, tenant, program, Arc::clone(&self.watcher));
        Ok(Resident { residency: Box::new(residency), port: Some(Box::new(port)) })
    }
}

/// The primary context. One that was lost to an error before is made anew: nothing in it can be used any more, by anybody.
fn live_context(device: &Device) -> Result<Arc<CudaContext>, DriverError> {
    let context = device.context()?;
    let Err(error) = result::mem_get_info().map_err(DriverError::while_doing("looking at the context"))
    else {
        return Ok(context);
    };
    if !error.context_is_lost() {
        return Err(error);
    }
    drop(context);
    let doing = || DriverError::while_doing("making a context anew after it was lost");
    let ordinal = i32::try_from(device.index).unwrap_or(i32::MAX);
    let raw = result::device::get(ordinal).map_err(doing())?;
    // SAFETY: a device that the driver has given. What others of the process have in the context is lost already.
    unsafe { sys::cuDevicePrimaryCtxReset_v2(raw) }.result().map_err(doing())?;
    device.context()
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

    fn quiesced(&self, patience: Duration, act: &mut dyn FnMut()) -> Result<(), BackendError> {
        self.ground.quiesced(patience, act)
    }
}
