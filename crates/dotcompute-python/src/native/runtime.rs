//! `NativeRuntime`: launch, dead letters and shutdown of native ring kernels.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dotcompute_core::dead_letter::DeadLetterInfo;
use dotcompute_core::message::record::RecordBytes;
use dotcompute_core::options::{Backpressure, KernelOptions, Telemetry};
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use dotcompute_ring::wait::WaitStrategy;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyDict;

use super::blocking;
use super::device::{self, DeviceRuntime};
use super::error;
use super::execution_place::ExecutionPlace;
use super::handler::{Handler, Program};
use super::kernel::NativeKernel;
use super::record_codec::{RecordCodec, bytes_of};
use crate::fork::Origin;

/// Owns native ring kernels.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct NativeRuntime {
    /// Ring kernels on the CPU. `None` after the shutdown.
    runtime: Mutex<Option<Runtime>>,
    /// Ring kernels on devices, by device name. Each device is opened by its first launch.
    devices: Mutex<BTreeMap<String, DeviceRuntime>>,
    origin: Origin,
}

impl NativeRuntime {
    /// Locks the devices. Detaches while waiting: a launch on another thread holds this lock while it is detached.
    fn devices(&self, py: Python<'_>) -> MutexGuard<'_, BTreeMap<String, DeviceRuntime>> {
        self.devices.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that the runtime belongs to this process. A forked child has a copy of it without its threads.
    fn check_process(&self, py: Python<'_>) -> PyResult<()> {
        self.origin.check(py, || "this native runtime".to_owned())
    }

    /// Calls `f` with the runtime, or fails after the shutdown.
    fn with<T>(&self, py: Python<'_>, f: impl FnOnce(&Runtime) -> PyResult<T>) -> PyResult<T> {
        self.check_process(py)?;
        let runtime = self.runtime.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        match &*runtime {
            Some(runtime) => f(runtime),
            None => Err(error::kernel_error(
                py,
                "using a native runtime: it has been shut down; start() it again, or create a new one",
            )),
        }
    }
}

#[pymethods]
impl NativeRuntime {
    /// Creates a runtime.
    ///
    /// Args:
    ///     workers: Number of pool threads for ring kernels without a dedicated thread. None uses one per core.
    #[new]
    #[pyo3(signature = (workers = None))]
    fn new(py: Python<'_>, workers: Option<usize>) -> PyResult<Self> {
        let options = workers.into_iter().fold(RuntimeOptions::new(), RuntimeOptions::workers);
        let runtime = Runtime::with_options(options).map_err(|error| error::launch_error(py, &error))?;
        Ok(Self { runtime: Mutex::new(Some(runtime)), devices: Mutex::default(), origin: Origin::current() })
    }

    /// Whether the runtime was shut down.
    ///
    /// Raises:
    ///     ForkedProcessError: The runtime belongs to the process from which this one was forked.
    #[getter]
    fn is_shut_down(&self, py: Python<'_>) -> PyResult<bool> {
        self.check_process(py)?;
        Ok(self.runtime.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner).is_none())
    }

    /// Launches a ring kernel whose handler is compiled for the CPU.
    ///
    /// Args:
    ///     name: Name of the ring kernel.
    ///     input: Codec of the messages.
    ///     output: Codec of the replies, or None.
    ///     state: Initial state: an object with the buffer protocol.
    ///     entry: Address of the handler.
    ///     free: Address of the deallocator of Numba.
    ///     code: Object that keeps both functions alive.
    ///     options: ``queue_size``, ``output_queue_size``, ``backpressure``, ``dedicated``, ``spin``, ``on_error``, ``time_one_in``.
    ///
    /// Returns:
    ///     The ring kernel, not activated.
    #[allow(clippy::too_many_arguments, reason = "the only caller, in Python, passes them by name")]
    fn launch_cpu(
        &self,
        py: Python<'_>,
        name: &str,
        input: Py<RecordCodec>,
        output: Option<Py<RecordCodec>>,
        state: &Bound<'_, PyAny>,
        entry: usize,
        free: usize,
        code: Py<PyAny>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<NativeKernel> {
        let options = kernel_options(options)?;
        let output_size = output.as_ref().map_or(0, |output| output.get().size());
        let initial = RecordBytes::from_slice(&bytes_of(state)?);
        // SAFETY: the only caller, `pydotcompute.native`, passes the addresses of functions that `code` keeps alive, compiled for the
        // record layouts of these codecs and this state.
        let program = Arc::new(unsafe { Program::new(entry, free, output_size, initial, code) });
        let shared = Arc::clone(&program);
        let handle = self.with(py, |runtime| {
            py.detach(|| runtime.launch_with(name, options, move || Handler::new(&shared)))
                .map_err(|error| error::launch_error(py, &error))
        })?;
        Ok(NativeKernel::new(handle, input, output, ExecutionPlace::Host(program)))
    }

    /// Opens the GPU and returns its compute capability.
    ///
    /// Args:
    ///     site_packages: Directories in which to search for the compiler and linker of NVIDIA.
    ///
    /// Returns:
    ///     Major and minor version.
    fn cuda_architecture(&self, py: Python<'_>, site_packages: Vec<PathBuf>) -> PyResult<(u32, u32)> {
        self.with(py, |_| Ok(()))?;
        let mut devices = self.devices(py);
        let device = device::open(py, &mut devices, "cuda", site_packages)?;
        let architecture = device.architecture.map(|architecture| (architecture.major, architecture.minor));
        architecture
            .ok_or_else(|| error::kernel_error(py, "querying the architecture: the device is not a GPU"))
    }

    /// Launches a ring kernel on a device.
    ///
    /// Args:
    ///     device: ``"cuda"`` or ``"emulated"``.
    ///     name: Name of the ring kernel.
    ///     input: Codec of the messages.
    ///     output: Codec of the replies, or None.
    ///     state: Initial state: an object with the buffer protocol.
    ///     text: CUDA C++ source that calls the handler.
    ///     lto_ir: The compiled handler, as LTO-IR. Empty on the emulated device, where the source calls the handler by address.
    ///     exception_of: Function that maps the return code of a handler to an exception. On the emulated device it keeps the handler
    ///         alive.
    ///     options: As for ``launch_cpu``.
    ///     site_packages: Directories in which to search for the compiler and linker of NVIDIA.
    ///
    /// Returns:
    ///     The ring kernel, not activated.
    #[allow(clippy::too_many_arguments, reason = "the only caller, in Python, passes them by name")]
    fn launch_device(
        &self,
        py: Python<'_>,
        device: &str,
        name: &str,
        input: Py<RecordCodec>,
        output: Option<Py<RecordCodec>>,
        state: &Bound<'_, PyAny>,
        text: String,
        lto_ir: Vec<u8>,
        exception_of: Py<PyAny>,
        options: &Bound<'_, PyDict>,
        site_packages: Vec<PathBuf>,
        fast_math: bool,
    ) -> PyResult<NativeKernel> {
        let options = kernel_options(options)?;
        let output_shape = output.as_ref().map(|output| output.get().shape());
        let kernel =
            device::kernel(text, lto_ir, input.get().shape(), output_shape, bytes_of(state)?, fast_math)
                .ok_or_else(|| {
                    error::kernel_error(
                        py,
                        "launching a ring kernel: a record has an invalid size or alignment for a device",
                    )
                })?;
        self.with(py, |_| Ok(()))?;
        let mut devices = self.devices(py);
        let opened = device::open(py, &mut devices, device, site_packages)?;
        let handle = py
            .detach(|| opened.runtime.launch_on_device(name, options, kernel))
            .map_err(|error| error::launch_error(py, &error))?;
        Ok(NativeKernel::new(handle, input, output, ExecutionPlace::Device { exception_of }))
    }

    /// Number of messages that became dead letters.
    #[getter]
    fn dead_letter_count(&self, py: Python<'_>) -> PyResult<u64> {
        self.check_process(py)?;
        let on_devices: u64 =
            self.devices(py).values().map(|device| device.runtime.dead_letter_count()).sum();
        self.with(py, |runtime| Ok(runtime.dead_letter_count() + on_devices))
    }

    /// Returns the latest dead letters.
    ///
    /// Returns:
    ///     ``(kernel, reason)`` for each, oldest first.
    fn dead_letters(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        let mut letters = self.with(py, |runtime| Ok(runtime.dead_letters()))?;
        letters.extend(self.devices(py).values().flat_map(|device| device.runtime.dead_letters()));
        letters.sort_by_key(|letter| letter.when);
        let to_pair =
            |letter: DeadLetterInfo| (letter.fault.kernel.to_string(), letter.fault.reason.to_string());
        Ok(letters.into_iter().map(to_pair).collect())
    }

    /// Terminates every ring kernel after it has handled its queued messages.
    ///
    /// Args:
    ///     timeout: Maximum wait, in seconds.
    ///
    /// Raises:
    ///     KernelError: A ring kernel did not terminate in time.
    fn shutdown(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        self.check_process(py)?;
        let timeout = blocking::seconds(py, "timeout", timeout)?;
        let runtime = self.runtime.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner).take();
        let Some(runtime) = runtime else { return Ok(()) };
        let devices = std::mem::take(&mut *self.devices(py));
        py.detach(|| {
            let on_devices: Vec<_> =
                devices.into_values().map(|device| device.runtime.shutdown(timeout)).collect();
            on_devices.into_iter().chain([runtime.shutdown(timeout)]).collect::<Result<(), _>>()
        })
        .map_err(|error| error::kernel_error(py, &error.to_string()))
    }
}

impl Drop for NativeRuntime {
    fn drop(&mut self) {
        if self.origin.is_inherited() {
            // It belongs to the parent: its threads do not exist in this process, so nothing could end them.
            std::mem::forget(self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take());
            std::mem::forget(std::mem::take(self.devices.get_mut().unwrap_or_else(PoisonError::into_inner)));
        }
    }
}

/// Reads the options of a ring kernel: `queue_size`, `output_queue_size`, `backpressure`, `dedicated`, `spin`, `on_error`, `time_one_in`.
fn kernel_options(options: &Bound<'_, PyDict>) -> PyResult<KernelOptions> {
    let py = options.py();
    let get = |name: &str| {
        options.get_item(name)?.ok_or_else(|| pyo3::exceptions::PyKeyError::new_err(name.to_owned()))
    };
    let backpressure: String = get("backpressure")?.extract()?;
    let backpressure = match &*backpressure {
        "block" => Backpressure::Block,
        "reject" => Backpressure::Reject,
        "drop_oldest" => Backpressure::DropOldest,
        other => {
            return Err(error::invalid_configuration(
                py,
                "backpressure",
                other,
                "choose 'block', 'reject' or 'drop_oldest'",
            ));
        }
    };
    let supervision = supervision(&get("on_error")?)?;
    let mut kernel_options = KernelOptions::new()
        .capacity(get("queue_size")?.extract()?)
        .output_capacity(get("output_queue_size")?.extract()?)
        .backpressure(backpressure)
        .supervision(supervision)
        .telemetry(match get("time_one_in")?.extract()? {
            0 => Telemetry::CountersOnly,
            every => Telemetry::OneIn(every),
        });
    if get("dedicated")?.extract()? {
        kernel_options = kernel_options.dedicated();
    }
    if get("spin")?.extract()? {
        kernel_options = kernel_options.wait(WaitStrategy::Spin);
    }
    Ok(kernel_options)
}

/// Reads the supervision: a name, or restarts as `(maximum or None, window in seconds, backoff in seconds)`.
fn supervision(on_error: &Bound<'_, PyAny>) -> PyResult<Supervision> {
    if let Ok((max, within, backoff)) = on_error.extract::<(Option<u32>, f64, f64)>() {
        let within = blocking::seconds(on_error.py(), "window", within)?;
        let backoff = blocking::seconds(on_error.py(), "backoff", backoff)?;
        return Ok(match max {
            Some(0) => Supervision::Never,
            max => Supervision::Restart { max: max.unwrap_or(u32::MAX), within, backoff },
        });
    }
    let name: String = on_error.extract()?;
    match &*name {
        "fail" => Ok(Supervision::Never),
        "resume" => Ok(Supervision::Resume),
        "restart" => Ok(Supervision::restart(u32::MAX, Duration::from_secs(1))),
        other => Err(error::invalid_configuration(
            on_error.py(),
            "on_error",
            other,
            "choose 'fail', 'resume' or 'restart'",
        )),
    }
}
