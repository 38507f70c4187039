//! One-shot kernels on a GPU, beside the ring kernels that are resident there.

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
use super::stream::Stream;
use super::{CudaOptions, live_context, toolchain, unavailable};
use crate::cache::{Cache, Origin as Cached};
use crate::compile::{Input, Source, Toolchain};
use crate::driver::{Device, Driver, DriverError, Module, OLDEST};

/// Shared memory that a block may have without asking for more, in bytes: CUDA's programming guide, "shared memory" of the compute
/// capabilities.
const SHARED_UNASKED: u32 = 48 << 10;

/// A one-shot kernel as text.
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
}

impl CudaKernel {
    /// CUDA C++, which errors call `file`. The kernel is its function `kernel`, unless [`entry`](Self::entry) says otherwise.
    pub fn cuda_cpp(file: impl Into<Cow<'static, str>>, text: impl Into<Cow<'static, str>>) -> Self {
        Self { file: file.into(), text: text.into(), entry: Cow::Borrowed("kernel"), line: 1 }
    }

    /// Which of its `extern "C" __global__` functions it is.
    #[must_use]
    pub fn entry(mut self, entry: impl Into<Cow<'static, str>>) -> Self {
        self.entry = entry.into();
        self
    }

    /// The line of the file on which the text begins, for compile errors.
    #[must_use]
    pub fn line(mut self, line: u32) -> Self {
        self.line = line;
        self
    }
}

/// A one-shot kernel on the device.
pub struct LoadedKernel {
    source: CudaKernel,
    function: Function,
    /// The sizes of its parameters, in bytes.
    parameters: Vec<usize>,
    _module: ModuleGuard,
}

/// Compiles one-shot kernels and runs them on a GPU, each launch in a stream that waits for no other: ring kernels stay where they are. To
/// load a kernel has them make way for a moment.
///
/// A kernel gets a pointer for each buffer and a value for each value, in their order.
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
    patience: Duration,
    /// Those that no launch uses at this moment.
    lanes: Mutex<Vec<Lane>>,
}

impl CudaLauncher {
    /// An orchestrator of the first device, with default options.
    ///
    /// # Errors
    ///
    /// As for [`with_options`](Self::with_options).
    pub fn orchestrator() -> Result<Orchestrator<Self>, BackendError> {
        Self::with_options(CudaOptions::default()).map(Orchestrator::new)
    }

    /// One for the device of these options, of which it uses the compiler's place and the patience too.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] without a driver, a device or a compiler; [`BackendError::Device`] with the driver's own word.
    pub fn with_options(options: CudaOptions) -> Result<Self, BackendError> {
        let driver = Driver::open().map_err(|error| unavailable(&error))?;
        let device = driver.device(options.device).map_err(|error| unavailable(&error))?;
        Ok(Self {
            properties: properties(&device),
            toolchain: toolchain(&options.search)?,
            context: live_context(&device).map_err(|error| unavailable(&error))?,
            process_device: ProcessDevice::of(&device),
            cache: Cache::from_environment(),
            patience: options.quiesce_timeout,
            lanes: Mutex::default(),
            device,
        })
    }

    fn load(
        &self,
        source: &CudaKernel,
    ) -> Result<(LoadedKernel, Origin), Box<dyn std::error::Error + Send + Sync>> {
        let text = Source::new(source.file.clone(), source.text.clone()).line(source.line);
        let input = Input::new(source.entry.clone(), self.device.architecture).source(text);
        let compiled = self.cache.compile(&self.toolchain, &input)?;
        let origin = match compiled.origin {
            Cached::Cache => Origin::DiskCache,
            _ => Origin::Compiled,
        };
        let loaded = self.process_device.quiesced(self.patience, || {
            let module = Module::load(&self.context, &compiled.kernel.cubin)?;
            let function = Function::named(&module, &source.entry)?;
            let parameters = function.parameters();
            let code = ModuleGuard::new(module, &self.process_device.deferred_free);
            Ok(LoadedKernel { source: source.clone(), function, parameters, _module: code })
        })?;
        let doing = || format!("loading it (is `{}` an `extern \"C\" __global__` function?)", source.entry);
        Ok((loaded.map_err(|error: DriverError| device_error(&doing(), &error))?, origin))
    }

    /// A lane of this launch's own. It takes one that is idle, or has ring kernels make way and makes one.
    fn lane(&self) -> Result<Lane, BackendError> {
        let idle = self.lanes.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(idle) = idle {
            return Ok(idle);
        }
        let made = self
            .process_device
            .quiesced(self.patience, || Lane::new(&self.context, &self.process_device.deferred_free))?;
        made.map_err(|error| device_error("making a stream for it", &error))
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
        let lane = self.lane()?;
        // SAFETY: `check` has found an argument of its size for each parameter. The buffers are of this device and borrowed by
        // `arguments` until the kernel has run; what the kernel does with them is the user's to answer for.
        let ran = unsafe { lane.run(kernel.function, geometry, &mut values) };
        drop(arguments);
        if ran.is_ok() {
            self.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
        }
        ran.map_err(|error| KernelLaunchError::Backend(device_error("running it", &error)))
    }
}

/// The bytes of each argument, if the kernel takes such.
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

/// A stream, and what it is timed with.
struct Lane {
    stream: Stream,
    begun: Event,
    ended: Event,
}

impl Lane {
    /// The device is quiet.
    fn new(context: &Arc<CudaContext>, deferred_free: &Arc<DeferredFreeList>) -> Result<Self, DriverError> {
        let event = || Event::new(context, deferred_free);
        Ok(Self { stream: Stream::new(context, deferred_free)?, begun: event()?, ended: event()? })
    }

    /// Runs a kernel and waits for it.
    ///
    /// # Safety
    ///
    /// The values are what the kernel takes, and what they point to is the kernel's until this returns.
    unsafe fn run(
        &self,
        function: Function,
        geometry: Geometry,
        values: &mut [Box<[u8]>],
    ) -> Result<Duration, DriverError> {
        let doing = || DriverError::while_doing(format!("launching {geometry:?}"));
        self.begun.context.bind_to_thread().map_err(doing())?;
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect();
        let (stream, [gx, gy, gz], [bx, by, bz]) = (self.stream.handle(), geometry.grid, geometry.block);
        if geometry.shared > SHARED_UNASKED {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function of a module that is loaded.
            unsafe { sys::cuFuncSetAttribute(function.0, attribute, geometry.shared.cast_signed()) }
                .result()
                .map_err(doing())?;
        }
        self.begun.record(stream)?;
        // SAFETY: as the caller promises; the driver copies the values before it returns.
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
        self.ended.record(stream)?;
        // SAFETY: the stream is that of `self`; it waits for no other, so that this does not either.
        unsafe { sys::cuStreamSynchronize(stream) }
            .result()
            .map_err(DriverError::while_doing("waiting for a one-shot kernel"))?;
        self.begun.until(&self.ended)
    }
}

/// `cuEventElapsedTime`, as every driver has had it. The binding knows only the one that came with CUDA 12.8, and
/// [`OLDEST`](crate::driver::OLDEST) is older.
type ElapsedTime = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> sys::CUresult;

fn elapsed_time() -> Result<ElapsedTime, DriverError> {
    let doing = || DriverError::while_doing("finding cuEventElapsedTime");
    let mut found = std::ptr::null_mut();
    let version = (OLDEST.major * 1000 + OLDEST.minor * 10).cast_signed();
    // SAFETY: the name ends with a NUL; `found` may be written to, and nothing else is asked for.
    unsafe {
        let name = c"cuEventElapsedTime".as_ptr();
        sys::cuGetProcAddress_v2(name, &raw mut found, version, 0, std::ptr::null_mut())
    }
    .result()
    .map_err(doing())?;
    if found.is_null() {
        return Err(doing()(cudarc::driver::DriverError(sys::CUresult::CUDA_ERROR_NOT_FOUND)));
    }
    // SAFETY: the driver's function of this name, which has this type in all versions.
    Ok(unsafe { std::mem::transmute::<*mut c_void, ElapsedTime>(found) })
}

/// A moment in a stream.
struct Event {
    handle: sys::CUevent,
    context: Arc<CudaContext>,
    deferred_free: Arc<DeferredFreeList>,
}

// SAFETY: an event is the context's, not a thread's, and the driver takes its own locks.
unsafe impl Send for Event {}

impl Event {
    fn new(context: &Arc<CudaContext>, deferred_free: &Arc<DeferredFreeList>) -> Result<Self, DriverError> {
        let doing = || DriverError::while_doing("making an event");
        context.bind_to_thread().map_err(doing())?;
        let mut handle = std::ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: `handle` may be written to.
        unsafe { sys::cuEventCreate(&raw mut handle, flags) }.result().map_err(doing())?;
        Ok(Self { handle, context: Arc::clone(context), deferred_free: Arc::clone(deferred_free) })
    }

    fn record(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: both exist.
        unsafe { sys::cuEventRecord(self.handle, stream) }
            .result()
            .map_err(DriverError::while_doing("timing a one-shot kernel"))
    }

    /// The time from this one, which has come, to a later one that has.
    fn until(&self, later: &Self) -> Result<Duration, DriverError> {
        let mut milliseconds = 0.0_f32;
        let elapsed = elapsed_time()?;
        // SAFETY: both exist; `milliseconds` may be written to.
        unsafe { elapsed(&raw mut milliseconds, self.handle, later.handle) }
            .result()
            .map_err(DriverError::while_doing("timing a one-shot kernel"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.deferred_free.defer_destroy(&self.context, self.handle, |handle| {
            // SAFETY: made by `new` and destroyed once; its owner is gone.
            let _ = unsafe { sys::cuEventDestroy_v2(handle) };
        });
    }
}
