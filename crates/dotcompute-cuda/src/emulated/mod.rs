//! The emulated device: the device code of `device/*.cuh`, compiled by the host's C++ compiler and run by threads of this process,
//! one for each thread of the GPU.
//!
//! Everything but the driver is the same as on a GPU: the same loop, the same rings and words, the same Rust on the host's side.
//! So ring kernels for devices are written, tested and debugged on a machine without one.
//!
//! ```no_run
//! use dotcompute_core::runtime::{Runtime, RuntimeOptions};
//! use dotcompute_cuda::emulated::EmulatedBackend;
//!
//! let runtime = Runtime::with_options(RuntimeOptions::new().device(EmulatedBackend::new()?))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compiler;
mod machine;

use std::sync::Arc;
use std::time::Duration;

use dotcompute_core::backend::device_port::DeviceProgram;
use dotcompute_core::backend::{Backend, BackendError, BackendKind, LaunchPlan, Program, Resident};

use crate::account::Account;
use crate::exchange::{Exchange, Plan};
use crate::memory::HostMemory;
use crate::port::Port;
use crate::tenant::{Stage, Stays, Tenant, Tenants};
use crate::watch::Watcher;
use machine::{EmulatedResidency, Threads};

pub use compiler::{CXXFLAGS_ENV_VAR, CompilerError, KEEP_DIR_ENV_VAR, find_compiler};

/// How an emulated device is made, where the defaults do not suit.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EmulatedOptions {
    /// Blocks that can be resident at once. Default 64; each of their threads is one of this process.
    pub blocks: u32,
    /// How long a heart may be silent before its ring kernel is lost. Default 10 seconds; a handler that works longer needs more.
    pub heartbeat_timeout: Duration,
    /// How long a ring kernel stays without a message before it leaves. Default 100 milliseconds; zero: it stays.
    pub idle_timeout: Duration,
    /// How long a ring kernel stays at a stretch before it leaves for a moment. Default 2 seconds; zero: it stays.
    pub max_residency: Duration,
}

impl Default for EmulatedOptions {
    fn default() -> Self {
        Self {
            blocks: 64,
            heartbeat_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_millis(100),
            max_residency: Duration::from_secs(2),
        }
    }
}

/// A device made of threads.
pub struct EmulatedBackend {
    options: EmulatedOptions,
    account: Arc<Account>,
    watcher: Arc<Watcher>,
    tenants: Arc<Tenants>,
}

impl EmulatedBackend {
    /// A device with default options.
    ///
    /// # Errors
    ///
    /// [`BackendError::Thread`] if the thread that watches it cannot be started.
    pub fn new() -> Result<Arc<Self>, BackendError> {
        Self::with_options(EmulatedOptions::default())
    }

    /// A device with these options.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn with_options(options: EmulatedOptions) -> Result<Arc<Self>, BackendError> {
        let watcher = Watcher::start("dc-emulated", options.heartbeat_timeout)
            .map_err(|source| BackendError::Thread { source })?;
        Ok(Arc::new(Self {
            account: Account::new(options.blocks),
            options,
            watcher,
            tenants: Arc::default(),
        }))
    }

    fn make_resident(&self, kernel: &str, program: &DeviceProgram) -> Result<Resident, BackendError> {
        let refused = |doing: &str, problem: String| BackendError::Device {
            backend: BackendKind::Emulated,
            doing: doing.to_owned(),
            problem,
        };
        crate::limits::check(program).map_err(|problem| refused("checking the launch", problem))?;
        let share = self.account.take(program.shape.blocks());
        let share = share.map_err(|full| refused("making room for it", full.to_string()))?;
        let plan = Plan::new(program.input.size, program.output.size, program.queue_capacity);
        let plan = plan.map_err(|error| refused("laying out its rings", error.to_string()))?;
        let code = compiler::compile(kernel, program)
            .map_err(|error| refused("compiling its handler", error.to_string()))?;
        let exchange = Exchange::new(Arc::new(HostMemory::zeroed(plan.bytes())), plan);
        let exchange = exchange.map_err(|error| refused("laying out its rings", error.to_string()))?;
        let stays = Stays { idle: self.options.idle_timeout, longest: self.options.max_residency };
        let threads =
            Threads::new(kernel, program, &exchange, code, stays, share, Arc::clone(&self.tenants))?;
        threads.start()?;
        let residency = EmulatedResidency(Arc::clone(&threads));
        let tenant = Tenant::new(kernel, threads, Arc::clone(&exchange.words));
        self.tenants.add(&tenant);
        let port = Port::new(exchange, tenant, program, Arc::clone(&self.watcher));
        Ok(Resident { residency: Box::new(residency), port: Some(Box::new(port)) })
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

    fn quiesced(&self, patience: Duration, act: &mut dyn FnMut()) -> Result<(), BackendError> {
        self.tenants
            .make_way(patience, act)
            .map_err(|kernels| BackendError::QuiesceTimeout { kernels, waited: patience })
    }
}
