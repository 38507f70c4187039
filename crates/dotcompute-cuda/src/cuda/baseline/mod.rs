//! Baselines for the benchmark: the device as other programs use it, with a flag ping-pong, a launch per message, or a replayed graph.
//!
//! These kernels do not quiesce for ring kernels or for each other: create one at a time, and use the device for nothing else meanwhile.

mod bar_mapping;
mod flag_ping_pong;
mod per_message_launch;

use std::sync::Arc;

use dotcompute_core::backend::BackendError;

use super::CudaBackend;
use super::error::device_error;
use super::function::{Function, ModuleGuard};
use super::streams::Purpose;
use super::streams::Stream;
use crate::compile::{Input, Source};
use crate::device_code::HEADERS;
use crate::driver::{DriverError, Module};

pub use bar_mapping::{ProbeResult, probe};
pub use flag_ping_pong::{FlagPingPong, STOP};
pub use per_message_launch::{BYTES, LaunchMethod, PerMessageLaunch};

/// The source of a kernel: file name, text and entry.
#[derive(Debug, Clone, Copy)]
pub struct KernelSource {
    /// The file name, for diagnostics.
    pub file: &'static str,
    /// CUDA C++, which may include the files of [`device_code`](crate::device_code).
    pub text: &'static str,
    /// The name of the `extern "C" __global__` function.
    pub entry: &'static str,
}

/// A loaded kernel and the stream for its launches.
struct LoadedBaseline {
    function: Function,
    stream: Stream,
    _module: ModuleGuard,
}

/// Compiles and loads a kernel, and passes it to `create` while no ring kernel is on the device.
fn with_kernel<T>(
    backend: &CudaBackend,
    text: KernelSource,
    create: impl FnOnce(LoadedBaseline) -> Result<T, DriverError>,
) -> Result<T, BackendError> {
    let input = Input::new(text.entry, backend.device.architecture);
    let input = HEADERS.iter().fold(input, |input, &(name, text)| input.header(Source::new(name, text)));
    let compiled =
        backend.cache.compile(&backend.toolchain, &input.source(Source::new(text.file, text.text)));
    let compiled = compiled.map_err(|error| device_error("compiling a kernel", &error))?;
    let created = backend.process_device.quiesced(backend.options.quiesce_timeout, || {
        let deferred_free = &backend.process_device.deferred_free;
        let module = Module::load(&backend.context, &compiled.kernel.cubin)?;
        let function = Function::named(&module, text.entry)?;
        let stream = backend.process_device.streams.take(&backend.context, Purpose::RingKernel)?;
        create(LoadedBaseline { function, stream, _module: ModuleGuard::new(module, deferred_free) })
    })?;
    created.map_err(|error| device_error(&format!("loading the kernel `{}`", text.entry), &error))
}

/// Makes the context current for this thread and returns it.
fn bind_context(backend: &CudaBackend) -> Result<&Arc<cudarc::driver::CudaContext>, DriverError> {
    backend.context.bind_to_thread().map_err(DriverError::while_doing("entering the context"))?;
    Ok(&backend.context)
}
