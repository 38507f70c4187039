//! `NativeRuntime`: launches native ring kernels, keeps their dead letters, ends them.

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

use super::device::{self, OnDevice};
use super::error;
use super::handler::{Handler, Program};
use super::kernel::{NativeKernel, Place};
use super::record_codec::{RecordCodec, bytes_of};

/// Owns native ring kernels.
#[pyclass(frozen, module = "pydotcompute._core")]
pub(crate) struct NativeRuntime {
    /// Ring kernels on this processor. None once it is shut down.
    runtime: Mutex<Option<Runtime>>,
    /// Those on devices, by the device's name; made when the first is launched.
    devices: Mutex<BTreeMap<String, OnDevice>>,
}

impl NativeRuntime {
    /// The devices. Whoever waits for them lets others have the interpreter: a launch keeps them while it needs none.
    fn devices(&self, py: Python<'_>) -> MutexGuard<'_, BTreeMap<String, OnDevice>> {
        self.devices.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the runtime, unless it is shut down.
    fn with<T>(&self, py: Python<'_>, act: impl FnOnce(&Runtime) -> PyResult<T>) -> PyResult<T> {
        let runtime = self.runtime.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner);
        match &*runtime {
            Some(runtime) => act(runtime),
            None => Err(error::kernel_error(py, "the runtime of native ring kernels has been shut down")),
        }
    }
}

#[pymethods]
impl NativeRuntime {
    /// A runtime with so many threads for ring kernels that have none of their own; by default, as many as there are cores.
    #[new]
    #[pyo3(signature = (workers = None))]
    fn new(py: Python<'_>, workers: Option<usize>) -> PyResult<Self> {
        let options = workers.into_iter().fold(RuntimeOptions::new(), RuntimeOptions::workers);
        let runtime = Runtime::with_options(options).map_err(|error| error::not_launched(py, &error))?;
        Ok(Self { runtime: Mutex::new(Some(runtime)), devices: Mutex::default() })
    }

    /// Launches a ring kernel whose handler was compiled for this processor.
    ///
    /// `entry` is the handler's address and `free` that of Numba's deallocator; `code` keeps both. `options` are those of `kernel_options`.
    #[allow(clippy::too_many_arguments, reason = "named by the one caller, in Python")]
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
        // SAFETY: `pydotcompute.native` passes addresses of the functions that `code` keeps, compiled for the layouts of these codecs and this
        // state.
        let program = Arc::new(unsafe { Program::new(entry, free, output_size, initial, code) });
        let shared = Arc::clone(&program);
        let handle = self.with(py, |runtime| {
            py.detach(|| runtime.launch_with(name, options, move || Handler::new(&shared)))
                .map_err(|error| error::not_launched(py, &error))
        })?;
        Ok(NativeKernel::new(handle, input, output, Place::Host(program)))
    }

    /// The compute capability of the GPU, `(major, minor)`, for which handlers have to be compiled. Opens the GPU.
    fn cuda_architecture(&self, py: Python<'_>, site_packages: Vec<PathBuf>) -> PyResult<(u32, u32)> {
        self.with(py, |_| Ok(()))?;
        let mut devices = self.devices(py);
        let device = device::open(py, &mut devices, "cuda", site_packages)?;
        let architecture = device.architecture.map(|architecture| (architecture.major, architecture.minor));
        architecture.ok_or_else(|| error::kernel_error(py, "the device is no GPU"))
    }

    /// Launches a ring kernel on a device, `cuda` or `emulated`.
    ///
    /// `text` is the CUDA C++ that calls the compiled handler `lto_ir` (of no bytes on the emulated device, where the text calls it by its
    /// address, and `exception_of` keeps it). `exception_of` makes the exception of what a handler has returned.
    #[allow(clippy::too_many_arguments, reason = "named by the one caller, in Python")]
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
    ) -> PyResult<NativeKernel> {
        let options = kernel_options(options)?;
        let output_shape = output.as_ref().map(|output| output.get().shape());
        let kernel = device::kernel(text, lto_ir, input.get().shape(), output_shape, bytes_of(state)?)
            .ok_or_else(|| error::kernel_error(py, "its records cannot be laid out on a device"))?;
        self.with(py, |_| Ok(()))?;
        let mut devices = self.devices(py);
        let opened = device::open(py, &mut devices, device, site_packages)?;
        let handle = py
            .detach(|| opened.runtime.launch_on_device(name, options, kernel))
            .map_err(|error| error::not_launched(py, &error))?;
        Ok(NativeKernel::new(handle, input, output, Place::Device { exception_of }))
    }

    /// How many messages have become dead letters.
    #[getter]
    fn dead_letter_count(&self, py: Python<'_>) -> PyResult<u64> {
        let on_devices: u64 =
            self.devices(py).values().map(|device| device.runtime.dead_letter_count()).sum();
        self.with(py, |runtime| Ok(runtime.dead_letter_count() + on_devices))
    }

    /// The latest dead letters, oldest first, as `(kernel, reason)`.
    fn dead_letters(&self, py: Python<'_>) -> PyResult<Vec<(String, String)>> {
        let mut letters = self.with(py, |runtime| Ok(runtime.dead_letters()))?;
        letters.extend(self.devices(py).values().flat_map(|device| device.runtime.dead_letters()));
        letters.sort_by_key(|letter| letter.when);
        let say = |letter: DeadLetterInfo| (letter.fault.kernel.to_string(), letter.fault.reason.to_string());
        Ok(letters.into_iter().map(say).collect())
    }

    /// Ends every ring kernel once it has handled what it has accepted.
    fn shutdown(&self, py: Python<'_>, timeout: f64) -> PyResult<()> {
        let runtime = self.runtime.lock_py_attached(py).unwrap_or_else(PoisonError::into_inner).take();
        let Some(runtime) = runtime else { return Ok(()) };
        let devices = std::mem::take(&mut *self.devices(py));
        let timeout = Duration::from_secs_f64(timeout);
        py.detach(|| {
            let on_devices: Vec<_> =
                devices.into_values().map(|device| device.runtime.shutdown(timeout)).collect();
            on_devices.into_iter().chain([runtime.shutdown(timeout)]).collect::<Result<(), _>>()
        })
        .map_err(|stuck| error::kernel_error(py, &stuck.to_string()))
    }
}

/// The options of a ring kernel: `queue_size`, `output_queue_size`, `backpressure`, `dedicated`, `spin`, `supervision`, `telemetry_every`.
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
            return Err(error::invalid(
                py,
                "backpressure",
                other,
                "choose 'block', 'reject' or 'drop_oldest'",
            ));
        }
    };
    let supervision = supervision(&get("on_error")?)?;
    let mut made = KernelOptions::new()
        .capacity(get("queue_size")?.extract()?)
        .output_capacity(get("output_queue_size")?.extract()?)
        .backpressure(backpressure)
        .supervision(supervision)
        .telemetry(match get("time_one_in")?.extract()? {
            0 => Telemetry::CountersOnly,
            every => Telemetry::OneIn(every),
        });
    if get("dedicated")?.extract()? {
        made = made.dedicated();
    }
    if get("spin")?.extract()? {
        made = made.wait(WaitStrategy::Spin);
    }
    Ok(made)
}

/// What happens after an exception: by name, or restarts as `(how many or None, within seconds, backoff in seconds)`.
fn supervision(on_error: &Bound<'_, PyAny>) -> PyResult<Supervision> {
    if let Ok((max, within, backoff)) = on_error.extract::<(Option<u32>, f64, f64)>() {
        let within = Duration::from_secs_f64(within);
        let backoff = Duration::from_secs_f64(backoff);
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
        other => {
            Err(error::invalid(on_error.py(), "on_error", other, "choose 'fail', 'resume' or 'restart'"))
        }
    }
}
