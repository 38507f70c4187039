//! One-shot kernels on a GPU, concurrent with resident ring kernels.

use std::borrow::Cow;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cudarc::driver::{CudaContext, sys};
use dotcompute_core::accelerator::Properties;
use dotcompute_core::backend::BackendError;
use dotcompute_core::orchestrator::{
    ArgumentError, BoundArgument, Geometry, KernelLaunchError, Launcher, Orchestrator, Origin,
};

use super::accelerators::properties;
use super::deferred_free::DeferredFreeList;
use super::error::device_error;
use super::function::{Function, ModuleGuard};
use super::process_device::ProcessDevice;
use super::streams::Purpose;
use super::streams::Stream;
use super::{CudaOptions, live_context, toolchain, unavailable};
use crate::cache::{Cache, Origin as Cached};
use crate::compile::{Input, Source, Toolchain};
use crate::driver::{Device, Driver, DriverError, MIN_DRIVER_VERSION, Module};

/// Shared memory per block that needs no opt-in, in bytes. Source: CUDA's programming guide, "shared memory" of the compute capabilities.
const SHARED_WITHOUT_OPT_IN: u32 = 48 << 10;

/// The source of a one-shot kernel.
///
/// ```
/// use dotcompute_cuda::cuda::CudaKernel;
///
/// let axpy = CudaKernel::cuda_cpp("axpy.cu", r#"
///     extern "C" __global__ void axpy(float factor, const float *x, float *y, unsigned long long count) {
///         unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
///         if (i < count) y[i] += factor * x[i];
///     }
/// "#).entry("axpy");
/// # let _ = axpy;
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CudaKernel {
    file: Cow<'static, str>,
    text: Cow<'static, str>,
    entry: Cow<'static, str>,
    line: u32,
    fast_math: bool,
}

impl CudaKernel {
    /// Creates a kernel from CUDA C++, which diagnostics call `file`. The entry is the function `kernel`, unless [`entry`](Self::entry)
    /// names another.
    pub fn cuda_cpp(file: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self {
            file: file.into(),
            text: text.into(),
            entry: Cow::Borrowed("kernel"),
            line: 1,
            fast_math: false,
        }
    }

    /// Sets the `extern "C" __global__` function to launch.
    #[must_use]
    pub fn entry(mut self, entry: impl Into<Cow<'static, str>>) -> Self {
        self.entry = entry.into();
        self
    }

    /// Sets the line of the file at which the text begins, for diagnostics.
    #[must_use]
    pub fn line(mut self, line: u32) -> Self {
        self.line = line;
        self
    }

    /// Allows faster floating-point arithmetic that differs in the last bits: see [`Input::fast_math`].
    #[must_use]
    pub fn fast_math(mut self, allowed: bool) -> Self {
        self.fast_math = allowed;
        self
    }
}

/// A one-shot kernel that is loaded onto the device.
pub struct LoadedKernel {
    source: CudaKernel,
    function: Function,
    /// The sizes of the parameters in bytes.
    parameters: Vec<usize>,
    _module: ModuleGuard,
}

/// Compiles one-shot kernels and runs them on a GPU. Each launch uses a hardware queue that no ring kernel uses, so ring kernels stay
/// resident. They leave the device while a kernel is loaded. With 32 hardware queues, two one-shot kernels run at once; a further launch
/// waits for one of them.
///
/// A kernel receives a pointer for each buffer and a value for each value argument, in order.
///
/// ```no_run
/// use dotcompute_core::memory::UnifiedBuffer;
/// use dotcompute_core::orchestrator::{Argument, Geometry};
/// use dotcompute_cuda::cuda::{CudaKernel, CudaLauncher, CudaMemory};
///
/// let orchestrator = CudaLauncher::orchestrator()?;
/// let text = "extern \"C\" __global__ void twice(float *x) { x[threadIdx.x] *= 2; }";
/// orchestrator.compile("twice", CudaKernel::cuda_cpp("twice.cu", text).entry("twice"))?;
/// let mut x = UnifiedBuffer::from_slice(CudaMemory::open(0)?, &[1.0_f32, 2.0])?;
/// let launch = orchestrator.launch("twice", Geometry::linear(2, 2), [Argument::write(&mut x)])?;
/// assert_eq!(x.host()?, [2.0, 4.0]);
/// println!("{:?} on the device", launch.kernel_time);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CudaLauncher {
    device: Device,
    properties: Properties,
    context: Arc<CudaContext>,
    process_device: Arc<ProcessDevice>,
    toolchain: Toolchain,
    cache: Cache,
    quiesce_timeout: Duration,
    /// Timers that no launch uses at present.
    idle_timers: Mutex<Vec<Timer>>,
}

impl CudaLauncher {
    /// Creates an orchestrator for the first device, with default options.
    ///
    /// # Errors
    ///
    /// As for [`with_options`](Self::with_options).
    pub fn orchestrator() -> Result<Orchestrator<Self>, BackendError> {
        Self::with_options(CudaOptions::default()).map(Orchestrator::new)
    }

    /// Creates a launcher. Of the options it uses the device, the search for the compiler and the quiesce timeout.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] without a driver, a device or a compiler; [`BackendError::Device`] with the error of the driver.
    pub fn with_options(options: CudaOptions) -> Result<Self, BackendError> {
        let driver = Driver::open().map_err(|error| unavailable(&error))?;
        let device = driver.device(options.device).map_err(|error| unavailable(&error))?;
        Ok(Self {
            properties: properties(&device),
            toolchain: toolchain(&options.search)?,
            context: live_context(&device).map_err(|error| unavailable(&error))?,
            process_device: ProcessDevice::of(&device),
            cache: Cache::from_environment(),
            quiesce_timeout: options.quiesce_timeout,
            idle_timers: Mutex::default(),
            device,
        })
    }

    fn load(
        &self,
        source: &CudaKernel,
    ) -> Result<(LoadedKernel, Origin), Box<dyn std::error::Error + Send + Sync>> {
        let text = Source::new(source.file.clone(), source.text.clone()).line(source.line);
        let input = Input::new(source.entry.clone(), self.device.architecture)
            .source(text)
            .fast_math(source.fast_math);
        let compiled = self.cache.compile(&self.toolchain, &input)?;
        let origin = match compiled.origin {
            Cached::Cache => Origin::DiskCache,
            _ => Origin::Compiled,
        };
        let loaded = self.process_device.quiesced(self.quiesce_timeout, || {
            let module = Module::load(&self.context, &compiled.kernel.cubin)?;
            let function = Function::named(&module, &source.entry)?;
            let parameters = function.parameters();
            let code = ModuleGuard::new(module, &self.process_device.deferred_free);
            Ok(LoadedKernel { source: source.clone(), function, parameters, _module: code })
        })?;
        let doing =
            || format!("loading it (`{}` must be an `extern \"C\" __global__` function)", source.entry);
        Ok((loaded.map_err(|error: DriverError| device_error(&doing(), &error))?, origin))
    }

    /// Takes an idle timer, or creates one while ring kernels are off the device.
    fn timer(&self) -> Result<Timer, BackendError> {
        let idle = self.idle_timers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        idle.map_or_else(|| self.create(|| Timer::new(&self.context, &self.process_device.deferred_free)), Ok)
    }

    /// Takes a stream. If all hardware queues for one-shot kernels are in use, waits for the end of a launch.
    fn stream(&self) -> Result<Stream, BackendError> {
        let streams = &self.process_device.streams;
        if let Some(idle) = streams.idle_one_shot(&self.context) {
            return Ok(idle);
        }
        self.create(|| match streams.take(&self.context, Purpose::OneShot) {
            Err(DriverError::NoHardwareQueue { .. }) => Ok(None),
            other => other.map(Some),
        })
        .map(|created| created.unwrap_or_else(|| streams.wait_for_one_shot(&self.context)))
    }

    fn create<T>(&self, create: impl FnOnce() -> Result<T, DriverError>) -> Result<T, BackendError> {
        let created = self.process_device.quiesced(self.quiesce_timeout, create)?;
        created.map_err(|error| device_error("creating a stream for the launch", &error))
    }
}

impl Launcher for CudaLauncher {
    type Source = CudaKernel;
    type Kernel = LoadedKernel;

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn compile(
        &self,
        _name: &str,
        source: &CudaKernel,
    ) -> Result<(LoadedKernel, Origin), Box<dyn std::error::Error + Send + Sync>> {
        self.load(source)
    }

    fn is_built_from(&self, kernel: &LoadedKernel, source: &CudaKernel) -> bool {
        kernel.source == *source
    }

    fn launch(
        &self,
        kernel: &LoadedKernel,
        geometry: Geometry,
        arguments: Vec<BoundArgument<'_>>,
    ) -> Result<Duration, KernelLaunchError> {
        let mut values = check(&kernel.parameters, &arguments)?;
        let (timer, stream) = (self.timer()?, self.stream()?);
        // SAFETY: `check` has verified one argument of the right size per parameter. The buffers belong to this device and are borrowed by
        // `arguments` until the kernel has completed. The author of the kernel is responsible for its memory accesses.
        let ran = unsafe { timer.run(&stream, kernel.function, geometry, &mut values) };
        let ran = self.process_device.noted(&self.context, ran);
        drop(arguments);
        if ran.is_ok() {
            self.idle_timers.lock().unwrap_or_else(PoisonError::into_inner).push(timer);
        }
        ran.map_err(|error| KernelLaunchError::Backend(device_error("running it", &error)))
    }
}

/// Returns the bytes of each argument, if number and sizes match the parameters.
fn check(parameters: &[usize], arguments: &[BoundArgument<'_>]) -> Result<Vec<Box<[u8]>>, KernelLaunchError> {
    if parameters.len() != arguments.len() {
        return Err(KernelLaunchError::ArgumentCount { takes: parameters.len(), given: arguments.len() });
    }
    let bytes = |(position, (&size, argument)): (usize, (&usize, &BoundArgument<'_>))| {
        let bytes: Box<[u8]> = match argument {
            BoundArgument::Buffer(buffer) => buffer.address().to_le_bytes().into(),
            BoundArgument::Value(value) => value.bytes().into(),
        };
        if bytes.len() == size {
            return Ok(bytes);
        }
        let takes = format!("a parameter of {size} bytes");
        let given = format!("{}, which takes {}", argument.describe(), bytes.len());
        Err(KernelLaunchError::Argument { position, problem: ArgumentError::TypeMismatch { takes, given } })
    };
    parameters.iter().zip(arguments).enumerate().map(bytes).collect()
}

/// The events that time a launch.
struct Timer {
    start: Event,
    end: Event,
}

impl Timer {
    /// Creates the events. The caller has quiesced the device.
    fn new(context: &Arc<CudaContext>, deferred_free: &Arc<DeferredFreeList>) -> Result<Self, DriverError> {
        let event = || Event::new(context, deferred_free);
        Ok(Self { start: event()?, end: event()? })
    }

    /// Runs a kernel, waits for it and returns its duration on the device.
    ///
    /// # Safety
    ///
    /// `values` must match the parameters of the kernel. Memory that they point to must be valid, and not be accessed by others, until this
    /// method returns.
    unsafe fn run(
        &self,
        stream: &Stream,
        function: Function,
        geometry: Geometry,
        values: &mut [Box<[u8]>],
    ) -> Result<Duration, DriverError> {
        let doing = || DriverError::while_doing(format!("launching {geometry:?}"));
        self.start.context.bind_to_thread().map_err(doing())?;
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect();
        let (stream, [gx, gy, gz], [bx, by, bz]) = (stream.handle(), geometry.grid, geometry.block);
        if geometry.shared > SHARED_WITHOUT_OPT_IN {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the caller passes a function of a loaded module.
            unsafe { sys::cuFuncSetAttribute(function.0, attribute, geometry.shared.cast_signed()) }
                .result()
                .map_err(doing())?;
        }
        self.start.record(stream)?;
        // SAFETY: the caller guarantees that `values` match the parameters; the driver copies the values before it returns.
        unsafe {
            sys::cuLaunchKernel(
                function.0,
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                geometry.shared,
                stream,
                pointers.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
        .result()
        .map_err(doing())?;
        self.end.record(stream)?;
        // SAFETY: `self` owns the stream. The stream waits for no other stream, so a ring kernel does not block this call.
        unsafe { sys::cuStreamSynchronize(stream) }
            .result()
            .map_err(DriverError::while_doing("waiting for a one-shot kernel"))?;
        self.start.elapsed_until(&self.end)
    }
}

/// The type of `cuEventElapsedTime` in every driver. The binding has only the variant of CUDA 12.8, which
/// [`MIN_DRIVER_VERSION`](crate::driver::MIN_DRIVER_VERSION) predates.
type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;

fn elapsed_time() -> Result<ElapsedTime, DriverError> {
    let doing = || DriverError::while_doing("finding cuEventElapsedTime");
    let mut found = std::ptr::null_mut();
    let version = (MIN_DRIVER_VERSION.major * 1000 + MIN_DRIVER_VERSION.minor * 10).cast_signed();
    // SAFETY: the name is NUL-terminated and `found` is writable; the status pointer may be null.
    unsafe {
        let name = c"cuEventElapsedTime".as_ptr();
        sys::cuGetProcAddress_v2(name, &raw mut found, version, 0, std::ptr::null_mut())
    }
    .result()
    .map_err(doing())?;
    if found.is_null() {
        return Err(doing()(cudarc::driver::DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND)));
    }
    // SAFETY: the driver returned the function of this name, which has this type in every version.
    Ok(unsafe { std::mem::transmute::<*mut c_void, ElapsedTime>(found) })
}

/// A point in time in a stream.
struct Event {
    handle: sys::CUevent,
    context: Arc<CudaContext>,
    deferred_free: Arc<DeferredFreeList>,
}

// SAFETY: an event belongs to a context, not to a thread, and the driver locks internally.
unsafe impl Send for Event {}

impl Event {
    fn new(context: &Arc<CudaContext>, deferred_free: &Arc<DeferredFreeList>) -> Result<Self, DriverError> {
        let doing = || DriverError::while_doing("creating an event");
        context.bind_to_thread().map_err(doing())?;
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: `handle` is writable.
        unsafe { sys::cuEventCreate(&raw mut handle, flags) }.result().map_err(doing())?;
        Ok(Self { handle, context: Arc::clone(context), deferred_free: Arc::clone(deferred_free) })
    }

    fn record(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: event and stream are alive.
        unsafe { sys::cuEventRecord(self.handle, stream) }
            .result()
            .map_err(DriverError::while_doing("timing a one-shot kernel"))
    }

    /// Returns the time between this event and `later`. Both must have completed.
    fn elapsed_until(&self, later: &Self) -> Result<Duration, DriverError> {
        let mut milliseconds = 0.0_f32;
        let elapsed = elapsed_time()?;
        // SAFETY: both events are alive; `milliseconds` is writable.
        unsafe { elapsed(&raw mut milliseconds, self.handle, later.handle) }
            .result()
            .map_err(DriverError::while_doing("timing a one-shot kernel"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.deferred_free.defer_destroy(&self.context, self.handle, |handle| {
            // SAFETY: the event was created by `new` and is destroyed only here.
            let _ = unsafe { sys::cuEventDestroy_v2(handle) };
        });
    }
}
