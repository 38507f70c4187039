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

/// The name of the handler in the text that `pydotcompute.native` makes.
const ENTRY: &str = "handle";
/// The text's name in compile errors, which nobody should see: the text is ours.
const FILE: &str = "pydotcompute/native.cu";

/// A device, and the runtime of the ring kernels on it.
pub(super) struct OnDevice {
    pub(super) runtime: Runtime,
    /// What handlers have to be compiled for, if it is a GPU.
    pub(super) architecture: Option<Architecture>,
}

/// Where NVIDIA's compiler and linker are looked for.
fn search(site_packages: Vec<PathBuf>) -> Search {
    site_packages.into_iter().fold(Search::from_environment(), Search::site_packages)
}

/// The device of this name, opened by the first who asks.
///
/// # Errors
///
/// `BackendNotAvailableError`: this machine does not have what it takes; `InvalidConfigurationError`: there is no device of this name.
pub(super) fn open<'a>(
    py: Python<'_>,
    devices: &'a mut BTreeMap<String, OnDevice>,
    name: &str,
    site_packages: Vec<PathBuf>,
) -> PyResult<&'a OnDevice> {
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
        other => return Err(error::invalid(py, "device", other, "choose 'cpu', 'cuda' or 'emulated'")),
    };
    let runtime = Runtime::with_options(RuntimeOptions::new().device(backend))
        .map_err(|problem| error::not_launched(py, &problem))?;
    Ok(vacant.insert(OnDevice { runtime, architecture }))
}

/// The layout of records of this size and alignment, made once for each.
fn layout(name: &'static str, (size, align): (usize, usize)) -> Option<RecordLayout> {
    type Made = Mutex<BTreeMap<(&'static str, usize, usize), RecordLayout>>;
    static MADE: OnceLock<Made> = OnceLock::new();
    let mut made = MADE.get_or_init(Made::default).lock().unwrap_or_else(PoisonError::into_inner);
    match made.entry((name, size, align)) {
        Entry::Occupied(known) => Some(*known.get()),
        Entry::Vacant(new) => RecordLayout::opaque(name, size, align).map(|layout| *new.insert(layout)),
    }
}

/// A ring kernel whose text calls the handler, handled by one thread of the device, as on the host.
///
/// None if the records have sizes or alignments that no record has.
pub(super) fn kernel(
    text: String,
    lto_ir: Vec<u8>,
    input: (usize, usize),
    output: Option<(usize, usize)>,
    state: Vec<u8>,
) -> Option<DeviceKernel<RecordBytes, RecordBytes>> {
    let input = layout("Question", input)?;
    // A handler that never answers is given a place for an answer all the same.
    let output = layout("Answer", output.unwrap_or((8, 8)))?;
    let (file, text) = (FILE.into(), text.into());
    let code = if lto_ir.is_empty() {
        DeviceCode::CudaCpp { file, text }
    } else {
        DeviceCode::Linked { file, text, part: "the compiled handler".into(), lto_ir }
    };
    let kernel =
        DeviceKernel::with_layouts(code, input, output).entry(ENTRY).shape(Shape::Thread { threads: 1 });
    Some(if state.is_empty() { kernel } else { kernel.state_bytes(state, 8) })
}

/// Compiles and links a ring kernel for an architecture, without a GPU; gives the cubin and what the tools said.
///
/// # Errors
///
/// `BackendNotAvailableError` without compiler or linker; `CompilationError` with what they say.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "named by the one caller, in Python")]
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
) -> PyResult<(Bound<'py, PyBytes>, String)> {
    let (major, minor) = architecture;
    let kernel = kernel(text, lto_ir, input, output, state)
        .ok_or_else(|| error::kernel_error(py, "its records cannot be laid out on a device"))?;
    let input = compile_input(name, kernel.program(), Architecture { major, minor })
        .ok_or_else(|| error::kernel_error(py, "its code is of no kind that can be compiled"))?;
    let toolchain = Toolchain::load(&search(site_packages))
        .map_err(|missing| error::backend_not_available(py, "cuda", &missing.to_string()))?;
    let compiled = py
        .detach(|| toolchain.compile(&input))
        .map_err(|problem| error::compilation_error(py, &problem.to_string()))?;
    Ok((PyBytes::new(py, compiled.cubin.as_bytes()), compiled.log))
}
