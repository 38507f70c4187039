//! A kernel launch per message, in the ways that programs do it.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};
use dotcompute_core::backend::BackendError;
use dotcompute_ring::layout::CACHE_LINE;

use super::super::CudaBackend;
use super::super::deferred_free::DeferredFreeList;
use super::super::device_allocation::DeviceAllocation;
use super::super::pinned_memory::PinnedMemory;
use super::{KernelSource, LoadedBaseline, bind_context, with_kernel};
use crate::driver::DriverError;
use crate::host_device_channel::SharedMemory;

/// Size of a message and of a reply in bytes.
pub const BYTES: usize = 64;

/// How a message reaches the kernel that is launched for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchMethod {
    /// One launch; the kernel accesses page-locked host memory.
    Mapped,
    /// A copy to the device, a launch and a copy back.
    Copied,
    /// Like `Copied`, captured once as a graph and replayed.
    Graph,
}

/// A kernel that is launched for every message. The host waits for each reply. The value stays on the thread that created it.
pub struct PerMessageLaunch {
    graph: Option<Graph>,
    message: PinnedMemory,
    reply: PinnedMemory,
    on_device: Option<[DeviceAllocation; 2]>,
    loaded: LoadedBaseline,
    /// Makes the type `!Send`: the context is current for the creating thread.
    thread: PhantomData<*const ()>,
}

impl PerMessageLaunch {
    /// Loads a kernel that takes the addresses of a message and of a reply.
    ///
    /// # Errors
    ///
    /// As for the launch of a ring kernel.
    pub fn new(
        backend: &CudaBackend,
        method: LaunchMethod,
        text: KernelSource,
    ) -> Result<Self, BackendError> {
        with_kernel(backend, text, |loaded| {
            let (context, deferred_free) = (bind_context(backend)?, &backend.process_device.deferred_free);
            let device = || DeviceAllocation::new(context, deferred_free, BYTES);
            let on_device = if method == LaunchMethod::Mapped { None } else { Some([device()?, device()?]) };
            let mut baseline = Self {
                graph: None,
                message: PinnedMemory::zeroed(context, deferred_free, CACHE_LINE)?,
                reply: PinnedMemory::zeroed(context, deferred_free, CACHE_LINE)?,
                on_device,
                loaded,
                thread: PhantomData,
            };
            if method == LaunchMethod::Graph {
                baseline.graph = Some(baseline.record(context, deferred_free)?);
            }
            Ok(baseline)
        })
    }

    /// Sends a message, launches the kernel for it and returns the reply.
    ///
    /// # Errors
    ///
    /// The error of the driver.
    pub fn call(&mut self, message: &[u8; BYTES]) -> Result<[u8; BYTES], DriverError> {
        self.message.bytes_mut()[..BYTES].copy_from_slice(message);
        match &self.graph {
            Some(graph) => graph.launch(&self.loaded)?,
            None => self.enqueue()?,
        }
        // SAFETY: `self` owns the stream.
        let waited = unsafe { result::stream::synchronize(self.loaded.stream.handle()) };
        waited.map_err(DriverError::while_doing("waiting for a kernel"))?;
        let mut reply = [0; BYTES];
        reply.copy_from_slice(&self.reply.bytes()[..BYTES]);
        Ok(reply)
    }

    /// Enqueues copies and launch for one message.
    fn enqueue(&self) -> Result<(), DriverError> {
        let Some([message, reply]) = &self.on_device else {
            return self.launch(self.message.device_base(), self.reply.device_base());
        };
        let stream = self.loaded.stream.handle();
        let (to, from) = (message.address(), self.message.base().as_ptr().cast());
        // SAFETY: both blocks have at least `BYTES` bytes and belong to `self`, which waits for the stream before it accesses them.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, BYTES, stream) }
            .result()
            .map_err(DriverError::while_doing("copying a message"))?;
        self.launch(message.address(), reply.address())?;
        let (to, from) = (self.reply.base().as_ptr().cast(), reply.address());
        // SAFETY: as for the copy to the device.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, BYTES, stream) }
            .result()
            .map_err(DriverError::while_doing("copying a reply"))
    }

    fn launch(&self, mut message: u64, mut reply: u64) -> Result<(), DriverError> {
        let mut arguments: [*mut c_void; 2] = [(&raw mut message).cast(), (&raw mut reply).cast()];
        let (function, stream) = (self.loaded.function.0, self.loaded.stream.handle());
        // SAFETY: the kernel takes two addresses, which the driver copies before it returns. They point to memory that `self` owns.
        let launched =
            unsafe { result::launch_kernel(function, (1, 1, 1), (1, 1, 1), 0, stream, &mut arguments) };
        launched.map_err(DriverError::while_doing("launching a kernel for a message"))
    }

    fn record(
        &self,
        context: &Arc<CudaContext>,
        deferred_free: &Arc<DeferredFreeList>,
    ) -> Result<Graph, DriverError> {
        let doing = || DriverError::while_doing("capturing a graph");
        let stream = self.loaded.stream.handle();
        // Only this thread enqueues into the stream.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: `self` owns the stream.
        unsafe { result::stream::begin_capture(stream, mode) }.map_err(doing())?;
        let enqueued = self.enqueue();
        // SAFETY: `self` owns the stream. The capture must end even if `enqueue` failed.
        let graph = unsafe { result::stream::end_capture(stream) };
        enqueued?;
        let graph = graph.map_err(doing())?;
        // SAFETY: the graph was just captured; the executable does not need it after instantiation.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable
        };
        let executable = executable.map_err(doing())?;
        Ok(Graph { executable, context: Arc::clone(context), deferred_free: Arc::clone(deferred_free) })
    }
}

/// An instantiated graph.
struct Graph {
    executable: sys::CUgraphExec,
    context: Arc<CudaContext>,
    deferred_free: Arc<DeferredFreeList>,
}

impl Graph {
    fn launch(&self, loaded: &LoadedBaseline) -> Result<(), DriverError> {
        // SAFETY: graph and stream are alive; the caller, which owns both, also owns the memory that the graph accesses.
        let launched = unsafe { result::graph::launch(self.executable, loaded.stream.handle()) };
        launched.map_err(DriverError::while_doing("replaying a graph"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.deferred_free.defer_destroy(&self.context, self.executable, |handle| {
            // SAFETY: the graph was created by `record` and is destroyed only here.
            let _ = unsafe { result::graph::exec_destroy(handle) };
        });
    }
}
