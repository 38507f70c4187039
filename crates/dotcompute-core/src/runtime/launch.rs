//! Launching: registers the name, creates mailbox and output ring, and places the driver.

use std::sync::{Arc, Weak};

use dotcompute_ring::fence::Fence;
use dotcompute_ring::mailbox;

use super::Runtime;
use crate::backend::device_port::DevicePort;
use crate::backend::{Backend, BackendError, BackendKind, LaunchPlan, Program, Residency, Resident};
use crate::cell::any_kernel::AnyKernel;
use crate::cell::kernel_cell::{EndObserver, KernelCell};
use crate::cell::typed_cell::{NewTypedCell, TypedCell};
use crate::device::device_proxy::{self, DeviceProxy};
use crate::device::{DeviceLaunch, KernelFactory};
use crate::envelope::Received;
use crate::error::{HandlerResult, LaunchError};
use crate::handle::KernelHandle;
use crate::kernel::RingKernel;
use crate::kernel::handler_driver::HandlerDriver;
use crate::kernel::inbox::Inbox;
use crate::kernel::loop_driver::{LoopDriver, LoopFactory};
use crate::kernel::loops::LoopContext;
use crate::lifecycle::State;
use crate::message::Message;
use crate::options::{Backpressure, KernelOptions, Placement};
use crate::stack;
use crate::user_code::catch_panic;

type InputOf<F> = <<F as KernelFactory>::Kernel as RingKernel>::Input;
type OutputOf<F> = <<F as KernelFactory>::Kernel as RingKernel>::Output;
/// The handle of the ring kernels that `F` creates.
type HandleOf<F> = KernelHandle<InputOf<F>, OutputOf<F>>;

impl Runtime {
    /// Launches a ring kernel with default options; see [`launch_with`](Self::launch_with).
    ///
    /// # Errors
    ///
    /// As for `launch_with`.
    pub fn launch<F: KernelFactory>(&self, name: &str, factory: F) -> Result<HandleOf<F>, LaunchError> {
        self.launch_with(name, KernelOptions::default(), factory)
    }

    /// Launches a ring kernel in handler form: creates its state with `factory`, its rings, and its thread or task. It handles no messages
    /// and accepts none until it is [activated](KernelHandle::activate). The factory is called again for restarts.
    ///
    /// # Errors
    ///
    /// [`LaunchError`]: the name is empty or in use, a capacity is zero or too large, no thread or core is available, the factory panicked,
    /// or the runtime is shut down. No resource is held then.
    pub fn launch_with<F: KernelFactory>(
        &self,
        name: &str,
        options: KernelOptions,
        factory: F,
    ) -> Result<HandleOf<F>, LaunchError> {
        let factory = move || factory.create();
        let (cell, receiver) = self.reserve::<InputOf<F>, OutputOf<F>>(name, options)?;
        let kernel = match catch_panic(&factory) {
            Ok(kernel) => kernel,
            Err(text) => {
                cell.untyped.end(State::Terminated);
                return Err(LaunchError::FactoryPanicked { kernel: name.into(), text });
            }
        };
        let inbox = Inbox::new(Arc::clone(&cell), receiver);
        self.launch_task(cell, Program::Host(Box::pin(HandlerDriver::new(inbox, kernel, factory))), None)
    }

    /// Launches a ring kernel in loop form: an async function that receives and sends until it is told to stop. The function is first
    /// called at activation, and again by supervision after a panic or an error.
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

    /// Launches a ring kernel in loop form on a dedicated thread: a plain function that may block.
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
                problem: "a blocking loop is placed on the shared pool, where it would block a worker",
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
        let (cell, receiver) = self.reserve::<I, O>(name, options)?;
        let inbox = Inbox::new(Arc::clone(&cell), receiver);
        self.launch_task(cell, Program::Host(Box::pin(LoopDriver::new(inbox, factory))), None)
    }

    /// Creates the rings and registers the name.
    fn reserve<I: Message, O: Message>(
        &self,
        name: &str,
        options: KernelOptions,
    ) -> Result<NewTypedCell<I, O>, LaunchError> {
        if name.is_empty() {
            return Err(LaunchError::EmptyName);
        }
        let name: Arc<str> = name.into();
        let needed = stack::for_handler::<I, O>();
        if options.placement == Placement::Pool && needed > stack::WORKER_STACK {
            let message_bytes = size_of::<I>().max(size_of::<O>());
            return Err(LaunchError::MessageTooLarge {
                kernel: name,
                message_bytes,
                needed,
                limit: stack::WORKER_STACK,
            });
        }
        let overflow = match options.backpressure {
            Backpressure::DropOldest => mailbox::Overflow::DropOldest,
            _ => mailbox::Overflow::Reject,
        };
        // A dedicated thread parks rarely and gets many messages, so its senders should not pay for a full fence. A task on the pool goes
        // idle at every pause in the traffic, and a process-wide barrier each time would cost more than the senders' fences.
        let fence = match options.placement {
            Placement::Pool => Fence::Symmetric,
            Placement::Dedicated | Placement::Pinned(_) => Fence::Asymmetric,
        };
        let mailbox =
            mailbox::Options { capacity: options.capacity, overflow, fence, order: options.band_order };
        mailbox::check_capacity::<Received<O>>(options.output_capacity)
            .map_err(|source| LaunchError::Capacity { kernel: Arc::clone(&name), ring: "output", source })?;
        let untyped = KernelCell::new(
            Arc::clone(&name),
            (I::TYPE_NAME, O::TYPE_NAME),
            options,
            Arc::clone(&self.dead_letters),
            Arc::downgrade(&self.registry) as Weak<dyn EndObserver>,
        );
        let (cell, receiver) = TypedCell::new(untyped, mailbox).map_err(|source| LaunchError::Capacity {
            kernel: name,
            ring: "input",
            source,
        })?;
        self.registry.add(Arc::clone(&cell) as Arc<dyn AnyKernel>)?;
        Ok((cell, receiver))
    }

    /// Launches a ring kernel on the runtime's device. It handles no messages until it is [activated](KernelHandle::activate). Its handle
    /// behaves like that of a ring kernel on the host.
    ///
    /// `options` place its device proxy on the host: on the pool, or on a dedicated thread.
    ///
    /// # Errors
    ///
    /// As for [`launch_with`](Self::launch_with), and [`BackendError`] if there is no device, or the handler does not compile or does not
    /// fit. No resource is held then.
    pub fn launch_on_device<K: DeviceLaunch>(
        &self,
        name: &str,
        options: KernelOptions,
        kernel: K,
    ) -> Result<KernelHandle<K::Input, K::Output>, LaunchError> {
        let kernel = kernel.into_kernel().map_err(|[problem, advice]| LaunchError::Options {
            kernel: name.into(),
            problem,
            advice,
        })?;
        let after_fault = device_proxy::after_fault(options.supervision);
        let (cell, receiver) = self.reserve::<K::Input, K::Output>(name, options)?;
        // Created first: dropping the inbox on an error ends the ring kernel.
        let inbox = Inbox::new(Arc::clone(&cell), receiver);
        let program = kernel.into_program(after_fault);
        let faults = Arc::clone(&program.faults);
        let program = Program::Device(Box::new(program));
        let device = self.device.as_ref().ok_or_else(no_device);
        match device.and_then(|device| launch_on(&**device, &cell.untyped, program)) {
            Ok((device, port)) => {
                cell.untyped.links.open(port.peer());
                let task = Program::Host(Box::pin(DeviceProxy::new(inbox, port, faults)));
                self.launch_task(cell, task, Some(device))
            }
            Err(source) => Err(self.launch_failed(&cell.untyped, source)),
        }
    }

    fn launch_task<I: Message, O: Message>(
        &self,
        cell: Arc<TypedCell<I, O>>,
        program: Program,
        device: Option<Box<dyn Residency>>,
    ) -> Result<KernelHandle<I, O>, LaunchError> {
        let untyped = &cell.untyped;
        let plan = LaunchPlan {
            kernel: Arc::clone(&untyped.name),
            placement: untyped.options.placement,
            stack_bytes: stack::for_handler::<I, O>(),
            program,
        };
        match self.cpu.launch(plan) {
            Ok(Resident { residency, .. }) => {
                cell.set_residency(residency, device);
                // The state is `Created`, unless the runtime is being shut down at this moment.
                let _ = untyped.lifecycle.transition(State::Launched, |state| state == State::Created);
                Ok(KernelHandle::new(cell))
            }
            Err(source) => Err(self.launch_failed(untyped, source)),
        }
    }

    fn launch_failed(&self, untyped: &KernelCell, source: BackendError) -> LaunchError {
        untyped.end(State::Terminated);
        LaunchError::Backend { kernel: Arc::clone(&untyped.name), source }
    }
}

fn no_device() -> BackendError {
    BackendError::Unavailable {
        backend: BackendKind::Cuda,
        missing: String::from("this runtime was created without a device"),
        advice: String::from("set one with `RuntimeOptions::device`"),
    }
}

/// Residency and port of a ring kernel on a device.
type OnDevice = (Box<dyn Residency>, Box<dyn DevicePort>);

/// Launches a program on a device.
fn launch_on(device: &dyn Backend, untyped: &KernelCell, program: Program) -> Result<OnDevice, BackendError> {
    let plan = LaunchPlan {
        kernel: Arc::clone(&untyped.name),
        placement: untyped.options.placement,
        stack_bytes: 0,
        program,
    };
    let Resident { residency, port } = device.launch(plan)?;
    let port = port.ok_or_else(|| BackendError::Unsupported {
        backend: device.kind(),
        problem: String::from("it returned no port for a device program: it is not the backend of a device"),
    })?;
    Ok((residency, port))
}
