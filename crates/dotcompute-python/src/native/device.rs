//! Compiled handlers as ring kernels of a device.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use dotcompute_core::backend::device_port::{DeviceCode, Shape};
use dotcompute_core::backend::{Backend, BackendError};
use dotcompute_core::device::DeviceKernel;
use dotcompute_core::message::record::{RecordBytes, RecordLayout};
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_cuda::Architecture;
use dotcompute_cuda::compile::Toolchain;
use dotcompute_cuda::cuda::{CudaBackend, CudaOptions};
use dotcompute_cuda::device_code::compile_input;
use dotcompute_cuda::emulated::EmulatedBackend;
use dotcompute_cuda::library::Search;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::error;

/// Name of the handler function in the source that `pydotcompute.native` generates.
const ENTRY: &str = "handle";
/// File name of that source in compile errors. The source is generated, so users should never see one.
const FILE: &str = "pydotcompute/native.cu";

/// A device and the runtime of its ring kernels.
pub(super) struct DeviceRuntime {
    pub(super) runtime: Runtime,
    /// The architecture to compile handlers for, if the device is a GPU.
    pub(super) architecture: Option<Architecture>,
}

/// The search path for the compiler and linker of NVIDIA.
fn search(site_packages: Vec<PathBuf>) -> Search {
    site_packages.into_iter().fold(Search::from_environment(), Search::site_packages)
}

/// Returns the device with this name. Opens it on the first call.
///
/// # Errors
///
/// `BackendNotAvailableError` if a prerequisite is missing on this machine; `InvalidConfigurationError` for an unknown name.
pub(super) fn open<'a>(
    py: Python<'_>,
    devices: &'a mut BTreeMap<String, DeviceRuntime>,
    name: &str,
    site_packages: Vec<PathBuf>,
) -> PyResult<&'a DeviceRuntime> {
    let vacant = match devices.entry(name.to_owned()) {
        Entry::Occupied(opened) => return Ok(opened.into_mut()),
        Entry::Vacant(vacant) => vacant,
    };
    let unavailable = |problem: &BackendError| error::backend_not_available(py, name, &problem.to_string());
    let (backend, architecture): (Arc<dyn Backend>, _) = match name {
        "cuda" => {
            let mut options = CudaOptions::default();
            options.search = search(site_packages);
            let backend =
                py.detach(|| CudaBackend::with_options(options)).map_err(|problem| unavailable(&problem))?;
            let architecture = backend.device().architecture;
            (backend, Some(architecture))
        }
        "emulated" => {
            let backend = py.detach(EmulatedBackend::new).map_err(|problem| unavailable(&problem))?;
            (backend, None)
        }
        other => {
            return Err(error::invalid_configuration(
                py,
                "device",
                other,
                "choose 'cpu', 'cuda' or 'emulated'",
            ));
        }
    };
    let runtime = Runtime::with_options(RuntimeOptions::new().device(backend))
        .map_err(|problem| error::launch_error(py, &problem))?;
    Ok(vacant.insert(DeviceRuntime { runtime, architecture }))
}

/// Returns the layout of records with this size and alignment. Each is created once, since a layout is never freed.
fn layout(name: &'static str, (size, align): (usize, usize)) -> Option<RecordLayout> {
    type LayoutCache = Mutex<BTreeMap<(&'static str, usize, usize), RecordLayout>>;
    static LAYOUTS: OnceLock<LayoutCache> = OnceLock::new();
    let mut layouts =
        LAYOUTS.get_or_init(LayoutCache::default).lock().unwrap_or_else(PoisonError::into_inner);
    match layouts.entry((name, size, align)) {
        Entry::Occupied(cached) => Some(*cached.get()),
        Entry::Vacant(new) => RecordLayout::opaque(name, size, align).map(|layout| *new.insert(layout)),
    }
}

/// Creates a ring kernel from source that calls the handler. One thread of the device handles messages, as on the host.
///
/// Returns `None` if the size or alignment of a record is invalid.
pub(super) fn kernel(
    text: String,
    lto_ir: Vec<u8>,
    input: (usize, usize),
    output: Option<(usize, usize)>,
    state: Vec<u8>,
    fast_math: bool,
) -> Option<DeviceKernel<RecordBytes, RecordBytes>> {
    let input = layout("Request", input)?;
    // A handler that never replies still gets memory for a reply, since its signature has the parameter.
    let output = layout("Reply", output.unwrap_or((8, 8)))?;
    let (file, text) = (FILE.into(), text.into());
    let code = if lto_ir.is_empty() {
        DeviceCode::CudaCpp { file, text }
    } else {
        DeviceCode::Linked { file, text, part: "the compiled handler".into(), lto_ir }
    };
    let kernel = DeviceKernel::with_layouts(code, input, output)
        .entry(ENTRY)
        .shape(Shape::Thread { threads: 1 })
        .fast_math(fast_math);
    Some(if state.is_empty() { kernel } else { kernel.state_bytes(state, 8) })
}

/// Compiles and links a ring kernel for an architecture. Needs no GPU.
///
/// Args:
///     name: Name of the ring kernel.
///     text: CUDA C++ source that calls the handler.
///     lto_ir: The compiled handler, as LTO-IR. Empty without one.
///     input: Size and alignment of input records.
///     output: Size and alignment of output records, or None.
///     state: Initial state.
///     architecture: Compute capability: major, minor.
///     site_packages: Directories in which to search for the compiler and linker.
///     fast_math: Whether floating-point arithmetic may be fused and approximated.
///
/// Returns:
///     The cubin, and the log of the compiler and linker.
///
/// Raises:
///     BackendNotAvailableError: The compiler or linker is missing.
///     CompilationError: The compiler or linker failed; the error has its output.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "the only caller, in Python, passes them by name")]
pub(super) fn link_cubin<'py>(
    py: Python<'py>,
    name: &str,
    text: String,
    lto_ir: Vec<u8>,
    input: (usize, usize),
    output: Option<(usize, usize)>,
    state: Vec<u8>,
    architecture: (u32, u32),
    site_packages: Vec<PathBuf>,
    fast_math: bool,
) -> PyResult<(Bound<'py, PyBytes>, String)> {
    let (major, minor) = architecture;
    let kernel = kernel(text, lto_ir, input, output, state, fast_math).ok_or_else(|| {
        error::kernel_error(
            py,
            "compiling a ring kernel: a record has an invalid size or alignment for a device",
        )
    })?;
    let input = compile_input(name, kernel.program(), Architecture { major, minor }).ok_or_else(|| {
        error::kernel_error(py, "compiling a ring kernel: its code is not source that can be compiled")
    })?;
    let toolchain = Toolchain::load(&search(site_packages))
        .map_err(|missing| error::backend_not_available(py, "cuda", &missing.to_string()))?;
    let compiled = py
        .detach(|| toolchain.compile(&input))
        .map_err(|problem| error::compilation_error(py, &problem.to_string()))?;
    Ok((PyBytes::new(py, compiled.cubin.as_bytes()), compiled.log))
}
