//! The device as other programs use it: a bare flag, a launch for each message, a graph that is replayed.
//!
//! For the benchmark, which shows ring kernels beside these. What is made here is not among the ring kernels that make way for each
//! other: make one at a time, and nothing else on the device meanwhile.

mod bar_mapping;
mod flag_ping_pong;
mod per_message_launch;

use std::sync::Arc;

use dotcompute_core::backend::BackendError;

use super::CudaBackend;
use super::error::device_error;
use super::function::{Function, ModuleGuard};
use super::stream::Stream;
use crate::compile::{Input, Source};
use crate::device_code::HEADERS;
use crate::driver::{DriverError, Module};

pub use bar_mapping::{ProbeResult, probe};
pub use flag_ping_pong::{FlagPingPong, STOP};
pub use per_message_launch::{BYTES, LaunchMethod, PerMessageLaunch};

/// A kernel as text: its file's name, the text, and which of its `extern "C" __global__` functions it is.
#[derive(Debug, Clone, Copy)]
pub struct KernelSource {
    /// The file's name, for compile errors.
    pub file: &'static str,
    /// CUDA C++; it may include the files of [`device_code`](crate::device_code).
    pub text: &'static str,
    /// The function's name.
    pub entry: &'static str,
}

/// A kernel on the device, and a stream to launch it in.
struct LoadedBaseline {
    function: Function,
    stream: Stream,
    _module: ModuleGuard,
}

/// Compiles a kernel, and has `make` make something with it while no ring kernel is on the device.
fn with_kernel<T>(
    backend: &CudaBackend,
    text: KernelSource,
    make: impl FnOnce(LoadedBaseline) -> Result<T, DriverError>,
) -> Result<T, BackendError> {
    let input = Input::new(text.entry, backend.device.architecture);
    let input = HEADERS.iter().fold(input, |input, &(name, text)| input.header(Source::new(name, text)));
    let compiled =
        backend.cache.compile(&backend.toolchain, &input.source(Source::new(text.file, text.text)));
    let compiled = compiled.map_err(|error| device_error("compiling a kernel", &error))?;
    let made = backend.process_device.quiesced(backend.options.quiesce_timeout, || {
        let deferred_free = &backend.process_device.deferred_free;
        let module = Module::load(&backend.context, &compiled.kernel.cubin)?;
        let function = Function::named(&module, text.entry)?;
        let stream = Stream::new(&backend.context, deferred_free)?;
        make(LoadedBaseline { function, stream, _module: ModuleGuard::new(module, deferred_free) })
    })?;
    made.map_err(|error| device_error(&format!("loading the kernel `{}`", text.entry), &error))
}

/// The context, current for this thread.
fn bind_context(backend: &CudaBackend) -> Result<&Arc<cudarc::driver::CudaContext>, DriverError> {
    backend.context.bind_to_thread().map_err(DriverError::while_doing("entering the context"))?;
    Ok(&backend.context)
}
