//! Handlers that are written once in Rust and run on the CPU and on devices.

use std::fmt;
use std::time::Instant;

use super::device_kernel::DeviceKernel;
use super::device_unit::{DeviceUnit, FIRST_FAULT};
use super::operations::{fail, handle};
use crate::backend::device_port::Shape;
use crate::error::HandlerResult;
use crate::kernel::{Context, RingKernel};
use crate::message::Message;
use crate::message::record::{DeviceRecord, RecordMessage};

/// Number of codes below which a [`DeviceError`] has none: they are those of faults.
const FIRST_ERROR: i32 = -(1 << 30);

/// Why a device handler did not handle a message: a code of the user's choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceError {
    code: i32,
}

impl DeviceError {
    /// An error with this code, which is not 0 and not below -1073741824.
    ///
    /// # Panics
    ///
    /// With another code. In a handler, the message then fails with this line.
    #[must_use]
    #[track_caller]
    pub fn new(code: i32) -> Self {
        if code == 0 || code < FIRST_ERROR {
            fail("the code of a `DeviceError` is 0 or below -1073741824; use another one");
        }
        Self { code }
    }

    /// Returns the code.
    #[must_use]
    pub const fn code(self) -> i32 {
        self.code
    }
}

impl fmt::Display for DeviceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the device's handler returned {}", self.code)
    }
}

impl std::error::Error for DeviceError {}

/// What a device handler returns.
pub type DeviceResult = Result<(), DeviceError>;

/// Passed to a device handler with each message: replies, sends, and reads the header.
pub struct DeviceContext<'a, O> {
    context: &'a mut Context<O>,
}

impl<O: Message> DeviceContext<'_, O> {
    /// Replies to the caller that asked; see [`Context::reply`].
    pub fn reply(&mut self, output: O) {
        self.context.reply(output);
    }

    /// Sends an output; see [`Context::send`].
    pub fn send(&mut self, output: O) {
        self.context.send(output);
    }

    /// Whether a caller waits for a reply.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.context.was_asked()
    }

    /// Returns the priority of the message, 0 to 255.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.context.header().map_or(0, |header| header.priority.get())
    }

    /// Returns the nanoseconds since an arbitrary origin.
    #[must_use]
    pub fn now(&self) -> u64 {
        static ORIGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        ORIGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// The state of a handler without one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NoState;

/// A state: a record, or [`NoState`].
pub trait HandlerState: Copy + Send + 'static {
    /// Sets the state of a kernel.
    #[doc(hidden)]
    fn set<I: DeviceRecord, O: DeviceRecord>(self, kernel: DeviceKernel<I, O>) -> DeviceKernel<I, O>;
}

impl HandlerState for NoState {
    fn set<I: DeviceRecord, O: DeviceRecord>(self, kernel: DeviceKernel<I, O>) -> DeviceKernel<I, O> {
        kernel
    }
}

impl<S: RecordMessage> HandlerState for S {
    fn set<I: DeviceRecord, O: DeviceRecord>(self, kernel: DeviceKernel<I, O>) -> DeviceKernel<I, O> {
        kernel.state(self)
    }
}

type Write = fn(&mut DeviceUnit) -> String;
type Run<S, I, O> = fn(&mut DeviceContext<'_, O>, &mut S, &I) -> DeviceResult;

/// A handler that needs its initial state: [`state`](Self::state).
pub struct DeviceHandlerWithoutState<S, I, O> {
    file: &'static str,
    write: Write,
    run: Run<S, I, O>,
}

impl<S, I, O> DeviceHandlerWithoutState<S, I, O> {
    /// For `#[device_handler]`.
    #[doc(hidden)]
    #[must_use]
    pub fn new(file: &'static str, write: Write, run: Run<S, I, O>) -> Self {
        Self { file, write, run }
    }

    /// Sets the state at launch and after each restart.
    #[must_use]
    pub fn state(self, state: S) -> DeviceHandler<S, I, O> {
        let Self { file, write, run } = self;
        DeviceHandler { file, write, run, state, shape: Shape::Block { threads: 1 }, queue_capacity: None }
    }
}

/// A handler that was written in Rust with `#[device_handler]`, to be launched on the CPU with
/// [`Runtime::launch_with`](crate::runtime::Runtime::launch_with), or on a device with
/// [`Runtime::launch_on_device`](crate::runtime::Runtime::launch_on_device).
///
/// ```
/// use dotcompute_core::Message;
/// use dotcompute_core::device::{DeviceContext, DeviceError, DeviceResult, device_handler};
/// use dotcompute_core::runtime::Runtime;
///
/// #[derive(Message, Clone, Copy, Debug)]
/// #[message(record)]
/// #[repr(C)]
/// struct Amount { value: i64 }
///
/// #[device_handler]
/// fn deposit(ctx: &mut DeviceContext<Amount>, balance: &mut Amount, amount: &Amount) -> DeviceResult {
///     if balance.value + amount.value < 0 {
///         return Err(DeviceError::new(1));
///     }
///     balance.value += amount.value;
///     ctx.reply(Amount { value: balance.value });
///     Ok(())
/// }
///
/// let runtime = Runtime::new()?;
/// let account = runtime.launch("account", deposit::handler().state(Amount { value: 0 }))?;
/// account.activate()?;
/// assert_eq!(account.ask(Amount { value: 40 })?.value, 40);
/// assert!(account.ask(Amount { value: i64::MAX }).unwrap_err().to_string().contains("attempt to add with overflow"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct DeviceHandler<S, I, O> {
    file: &'static str,
    write: Write,
    run: Run<S, I, O>,
    state: S,
    shape: Shape,
    queue_capacity: Option<usize>,
}

impl<I, O> DeviceHandler<NoState, I, O> {
    /// For `#[device_handler]`.
    #[doc(hidden)]
    #[must_use]
    pub fn new(file: &'static str, write: Write, run: Run<NoState, I, O>) -> Self {
        DeviceHandlerWithoutState { file, write, run }.state(NoState)
    }
}

impl<S, I, O> DeviceHandler<S, I, O> {
    /// Sets how many threads handle a message on a device. A handler is sequential code: with [`Shape::Block`] and [`Shape::Grid`] one thread
    /// runs it, whatever their number. With [`Shape::Thread`] each thread handles a message of its own, which needs a handler without state.
    /// Default: one thread. The CPU has one thread.
    #[must_use]
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// Sets the capacity of the device's input ring, in messages; see [`DeviceKernel::queue_capacity`].
    #[must_use]
    pub fn queue_capacity(mut self, messages: usize) -> Self {
        self.queue_capacity = Some(messages);
        self
    }
}

/// What can be launched on a device: a [`DeviceKernel`] or a [`DeviceHandler`].
pub trait DeviceLaunch {
    /// Messages that it handles.
    type Input: DeviceRecord;
    /// Its replies and outputs.
    type Output: DeviceRecord;

    /// Returns the kernel, or why it cannot be launched and what to do.
    ///
    /// # Errors
    ///
    /// The problem and the advice, for [`LaunchError::Options`](crate::error::LaunchError::Options).
    fn into_kernel(self) -> Result<DeviceKernel<Self::Input, Self::Output>, [&'static str; 2]>;
}

impl<I: DeviceRecord, O: DeviceRecord> DeviceLaunch for DeviceKernel<I, O> {
    type Input = I;
    type Output = O;

    fn into_kernel(self) -> Result<Self, [&'static str; 2]> {
        Ok(self)
    }
}

impl<S: HandlerState, I: RecordMessage, O: RecordMessage> DeviceLaunch for DeviceHandler<S, I, O> {
    type Input = I;
    type Output = O;

    fn into_kernel(self) -> Result<DeviceKernel<I, O>, [&'static str; 2]> {
        let each_thread = matches!(self.shape, Shape::Thread { .. });
        if each_thread && self.shape.threads() > 1 && size_of::<S>() > 0 {
            return Err([
                "threads that handle a message each would change its state at the same time",
                "use `Shape::Block`, or a handler without state",
            ]);
        }
        let mut unit = DeviceUnit::default();
        let handler = (self.write)(&mut unit);
        let (text, records, faults) = unit.finish(&handler, each_thread).map_err(|_| {
            [
                "one of its `#[device_fn]`s calls itself through others, and a device has a small stack",
                "use a loop",
            ]
        })?;
        let kernel =
            DeviceKernel::<I, O>::cuda_cpp(self.file, text).shape(self.shape).made_from_rust(records, faults);
        let kernel = match self.queue_capacity {
            Some(messages) => kernel.queue_capacity(messages),
            None => kernel,
        };
        Ok(self.state.set(kernel))
    }
}

/// What creates ring kernels in handler form for [`Runtime::launch`](crate::runtime::Runtime::launch): a closure, or a [`DeviceHandler`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not create a ring kernel",
    note = "pass a closure that returns a `RingKernel`, or a `#[device_handler]` with its state, `name::handler().state(...)`"
)]
pub trait KernelFactory: Send + 'static {
    /// The ring kernel.
    type Kernel: RingKernel;

    /// Creates it, at launch and for each restart.
    fn create(&self) -> Self::Kernel;
}

impl<K: RingKernel, F: Fn() -> K + Send + 'static> KernelFactory for F {
    type Kernel = K;

    fn create(&self) -> K {
        self()
    }
}

impl<S: HandlerState, I: RecordMessage, O: RecordMessage> KernelFactory for DeviceHandler<S, I, O> {
    type Kernel = HostHandler<S, I, O>;

    fn create(&self) -> HostHandler<S, I, O> {
        HostHandler { state: self.state, run: self.run }
    }
}

/// A [`DeviceHandler`] on the CPU.
pub struct HostHandler<S, I, O> {
    state: S,
    run: Run<S, I, O>,
}

impl<S: HandlerState, I: RecordMessage, O: RecordMessage> RingKernel for HostHandler<S, I, O> {
    type Input = I;
    type Output = O;

    fn handle(&mut self, message: I, context: &mut Context<O>) -> HandlerResult {
        // A fault is a panic here and an error on a device: the caller gets an error in both cases.
        match handle(|| (self.run)(&mut DeviceContext { context }, &mut self.state, &message)) {
            Ok(result) => result.map_err(Into::into),
            Err(text) => Err(text.into()),
        }
    }
}

/// Returns the text of an error code of a device handler with these texts of faults.
pub(crate) fn error_text(code: i32, faults: &[String]) -> String {
    let fault = code.checked_sub(FIRST_FAULT).and_then(|index| faults.get(index as usize));
    // It ends with the return code, which the Python package reads.
    fault.cloned().unwrap_or_else(|| format!("the device's handler returned {code}"))
}
