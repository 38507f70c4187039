//! Launching: taking the name, the rings, and the place to run.

use std::sync::{Arc, Weak};

use dotcompute_ring::fence::Fence;
use dotcompute_ring::mailbox;

use super::Runtime;
use crate::backend::device_port::DevicePort;
use crate::backend::{Backend, BackendError, BackendKind, LaunchPlan, Program, Residency, Resident};
use crate::cell::any_kernel::AnyKernel;
use crate::cell::kernel_cell::{Core, Unregister};
use crate::cell::typed_cell::{NewShared, Shared};
use crate::device::DeviceKernel;
use crate::device::device_proxy::{self, Attendant};
use crate::envelope::Received;
use crate::error::{HandlerResult, LaunchError, panic_text};
use crate::handle::KernelHandle;
use crate::kernel::RingKernel;
use crate::kernel::handler_driver::HandlerDriver;
use crate::kernel::inbox::Intake;
use crate::kernel::loop_driver::{LoopDriver, LoopFactory};
use crate::kernel::loops::LoopContext;
use crate::lifecycle::State;
use crate::message::Message;
use crate::message::record::DeviceRecord;
use crate::options::{Backpressure, KernelOptions, Placement};

impl Runtime {
    /// Launches a ring kernel with default options; see [`launch_with`](Self::launch_with).
    ///
    /// # Errors
    ///
    /// As for `launch_with`.
    pub fn launch<K, F>(
        &self,
        name: &str,
        factory: F,
    ) -> Result<KernelHandle<K::Input, K::Output>, LaunchError>
    where
        K: RingKernel,
        F: Fn() -> K + Send + 'static,
    {
        self.launch_with(name, KernelOptions::default(), factory)
    }

    /// Launches a ring kernel in handler form: makes its state with `factory`, its rings and its thread or task. It handles nothing,
    /// and nothing may be sent to it, until it is [activated](KernelHandle::activate). The factory is kept for restarts.
    ///
    /// # Errors
    ///
    /// [`LaunchError`]: the name is empty or taken, a capacity is zero or too large, there is no thread or core for it, the factory
    /// panicked, or the runtime is shut down. No resource is held then.
    pub fn launch_with<K, F>(
        &self,
        name: &str,
        options: KernelOptions,
        factory: F,
    ) -> Result<KernelHandle<K::Input, K::Output>, LaunchError>
    where
        K: RingKernel,
        F: Fn() -> K + Send + 'static,
    {
        let (shared, receiver) = self.reserve::<K::Input, K::Output>(name, options)?;
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&factory));
        let kernel = match made {
            Ok(kernel) => kernel,
            Err(panic) => {
                shared.core.end(State::Terminated);
                return Err(LaunchError::FactoryPanicked { kernel: name.into(), text: panic_text(&*panic) });
            }
        };
        let intake = Intake::new(Arc::clone(&shared), receiver);
        self.make_resident(shared, Program::Host(Box::pin(HandlerDriver::new(intake, kernel, factory))), None)
    }

    /// Launches a ring kernel in loop form: an async function that receives and sends until it is told to stop. It is first called
    /// at activation, and again by supervision after a panic or an error.
    ///
    /// ```
    /// # use dotcompute_core::options::KernelOptions;
    /// # use dotcompute_core::runtime::Runtime;
    /// # use dotcompute_core::loops::LoopContext;
    /// # let runtime = Runtime::new()?;
    /// let echo = runtime.launch_loop("echo", KernelOptions::new(), |mut ctx: LoopContext<u32, u32>| async move {
    ///     while let Some(message) = ctx.receive_async().await {
    ///         ctx.reply(message);
    ///     }
    ///     Ok(())
    /// })?;
    /// echo.activate()?;
    /// assert_eq!(echo.ask(7)?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`launch_with`](Self::launch_with).
    pub fn launch_loop<I, O, F, R>(
        &self,
        name: &str,
        options: KernelOptions,
        body: F,
    ) -> Result<KernelHandle<I, O>, LaunchError>
    where
        I: Message,
        O: Message,
        F: Fn(LoopContext<I, O>) -> R + Send + 'static,
        R: Future<Output = HandlerResult> + Send + 'static,
    {
        self.launch_boxed_loop(name, options, Box::new(move |ctx| Box::pin(body(ctx))))
    }

    /// Launches a ring kernel in loop form on a thread of its own: a plain function that may block.
    ///
    /// ```
    /// # use dotcompute_core::options::KernelOptions;
    /// # use dotcompute_core::runtime::Runtime;
    /// # use dotcompute_core::loops::LoopContext;
    /// # let runtime = Runtime::new()?;
    /// let options = KernelOptions::new().dedicated();
    /// let echo = runtime.launch_thread_loop("echo", options, |mut ctx: LoopContext<u32, u32>| {
    ///     while let Some(message) = ctx.receive() {
    ///         ctx.reply(message);
    ///     }
    ///     Ok(())
    /// })?;
    /// echo.activate()?;
    /// assert_eq!(echo.ask(7)?, 7);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`launch_with`](Self::launch_with), and if the options place it on the pool, where it would block a worker.
    pub fn launch_thread_loop<I, O, F>(
        &self,
        name: &str,
        options: KernelOptions,
        body: F,
    ) -> Result<KernelHandle<I, O>, LaunchError>
    where
        I: Message,
        O: Message,
        F: Fn(LoopContext<I, O>) -> HandlerResult + Send + Sync + 'static,
    {
        if options.placement == Placement::Pool {
            return Err(LaunchError::Options {
                kernel: name.into(),
                problem: "a loop that blocks is placed on the shared pool, where it would keep a worker from all others",
                advice: "use `KernelOptions::dedicated` or `pinned`, or write it as an async loop",
            });
        }
        let body = Arc::new(body);
        self.launch_boxed_loop(
            name,
            options,
            Box::new(move |ctx| {
                let body = Arc::clone(&body);
                Box::pin(async move { body(ctx) })
            }),
        )
    }

    fn launch_boxed_loop<I: Message, O: Message>(
        &self,
        name: &str,
        options: KernelOptions,
        factory: LoopFactory<I, O>,
    ) -> Result<KernelHandle<I, O>, LaunchError> {
        let (shared, receiver) = self.reserve::<I, O>(name, options)?;
        let intake = Intake::new(Arc::clone(&shared), receiver);
        self.make_resident(shared, Program::Host(Box::pin(LoopDriver::new(intake, factory))), None)
    }

    /// Makes the rings and takes the name.
    fn reserve<I: Message, O: Message>(
        &self,
        name: &str,
        options: KernelOptions,
    ) -> Result<NewShared<I, O>, LaunchError> {
        if name.is_empty() {
            return Err(LaunchError::EmptyName);
        }
        let name: Arc<str> = name.into();
        let overflow = match options.backpressure {
            Backpressure::DropOldest => mailbox::Overflow::DropOldest,
            _ => mailbox::Overflow::Reject,
        };
        // A thread of its own sleeps rarely and is sent to often: its senders should not pay for a full fence. A task on the pool
        // goes idle at every lull, and a barrier across all threads each time would cost more than the fences.
        let fence = match options.placement {
            Placement::Pool => Fence::Symmetric,
            Placement::Dedicated | Placement::Pinned(_) => Fence::Asymmetric,
        };
        let mailbox = mailbox::Options { capacity: options.capacity, overflow, fence };
        mailbox::check_capacity::<Received<O>>(options.output_capacity)
            .map_err(|source| LaunchError::Capacity { kernel: Arc::clone(&name), ring: "output", source })?;
        let core = Core::new(
            Arc::clone(&name),
            (I::TYPE_NAME, O::TYPE_NAME),
            options,
            Arc::clone(&self.dead_letters),
            Arc::downgrade(&self.registry) as Weak<dyn Unregister>,
        );
        let (shared, receiver) = Shared::new(core, mailbox).map_err(|source| LaunchError::Capacity {
            kernel: name,
            ring: "input",
            source,
        })?;
        self.registry.add(Arc::clone(&shared) as Arc<dyn AnyKernel>)?;
        Ok((shared, receiver))
    }

    /// Launches a ring kernel on the runtime's device. It handles nothing until it is [activated](KernelHandle::activate); from then
    /// on its handle cannot be told from that of a ring kernel on a thread.
    ///
    /// `options` place the task that attends to it on the host: on the pool, or on a thread of its own.
    ///
    /// # Errors
    ///
    /// As for [`launch_with`](Self::launch_with), and [`BackendError`] if there is no device, if the handler does not compile, or if it does
    /// not fit. No resource is held then.
    pub fn launch_on_device<I: DeviceRecord, O: DeviceRecord>(
        &self,
        name: &str,
        options: KernelOptions,
        kernel: DeviceKernel<I, O>,
    ) -> Result<KernelHandle<I, O>, LaunchError> {
        let after_fault = device_proxy::after_fault(options.supervision);
        let (shared, receiver) = self.reserve::<I, O>(name, options)?;
        // Made now, so that giving up from here on ends the ring kernel.
        let intake = Intake::new(Arc::clone(&shared), receiver);
        let program = Program::Device(Box::new(kernel.into_program(after_fault)));
        let device = self.device.as_ref().ok_or_else(no_device);
        match device.and_then(|device| reside_on(&**device, &shared.core, program)) {
            Ok((device, port)) => {
                shared.core.links.open(port.peer());
                let task = Program::Host(Box::pin(Attendant::new(intake, port)));
                self.make_resident(shared, task, Some(device))
            }
            Err(source) => Err(self.not_resident(&shared.core, source)),
        }
    }

    fn make_resident<I: Message, O: Message>(
        &self,
        shared: Arc<Shared<I, O>>,
        program: Program,
        device: Option<Box<dyn Residency>>,
    ) -> Result<KernelHandle<I, O>, LaunchError> {
        let core = &shared.core;
        let plan = LaunchPlan { kernel: Arc::clone(&core.name), placement: core.options.placement, program };
        match self.cpu.launch(plan) {
            Ok(Resident { residency, .. }) => {
                shared.set_residency(residency, device);
                // Created until now; only a shutdown at this very moment could have changed it.
                let _ = core.life.change(State::Launched, |state| state == State::Created);
                Ok(KernelHandle::new(shared))
            }
            Err(source) => Err(self.not_resident(core, source)),
        }
    }

    fn not_resident(&self, core: &Core, source: BackendError) -> LaunchError {
        core.end(State::Terminated);
        LaunchError::Backend { kernel: Arc::clone(&core.name), source }
    }
}

fn no_device() -> BackendError {
    BackendError::Unavailable {
        backend: BackendKind::Cuda,
        missing: String::from("this runtime was made without a device"),
        advice: String::from("give it one with `RuntimeOptions::device`"),
    }
}

/// The runtime's hold on a ring kernel on a device, and the way to it.
type OnDevice = (Box<dyn Residency>, Box<dyn DevicePort>);

/// Makes a program resident on a device.
fn reside_on(device: &dyn Backend, core: &Core, program: Program) -> Result<OnDevice, BackendError> {
    let plan = LaunchPlan { kernel: Arc::clone(&core.name), placement: core.options.placement, program };
    let Resident { residency, port } = device.launch(plan)?;
    let port = port.ok_or_else(|| BackendError::Unsupported {
        backend: device.kind(),
        problem: String::from("it gave no port for a device program: it is not a device's backend"),
    })?;
    Ok((residency, port))
}
