//! A kernel launched for every message, in the ways that programs do it.

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

/// Bytes of a message and of an answer.
pub const BYTES: usize = 64;

/// How a message reaches a kernel that is launched for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchMethod {
    /// The kernel reads and writes page-locked memory of the host: one launch.
    Mapped,
    /// A copy to the device, a launch, a copy back.
    Copied,
    /// As `Copied`, recorded once as a graph and replayed.
    Graph,
}

/// A kernel that is launched for every message; the host waits for each answer. It stays on the thread that made it.
pub struct PerMessageLaunch {
    graph: Option<Graph>,
    message: PinnedMemory,
    answer: PinnedMemory,
    on_device: Option<[DeviceAllocation; 2]>,
    loaded: LoadedBaseline,
    /// The context is current for this thread.
    thread: PhantomData<*const ()>,
}

impl PerMessageLaunch {
    /// Loads a kernel that takes the addresses of a message and of an answer.
    ///
    /// # Errors
    ///
    /// As for the launch of a ring kernel.
    pub fn new(backend: &CudaBackend, way: LaunchMethod, text: KernelSource) -> Result<Self, BackendError> {
        with_kernel(backend, text, |loaded| {
            let (context, deferred_free) = (bind_context(backend)?, &backend.process_device.deferred_free);
            let device = || DeviceAllocation::new(context, deferred_free, BYTES);
            let on_device = if way == LaunchMethod::Mapped { None } else { Some([device()?, device()?]) };
            let mut launches = Self {
                graph: None,
                message: PinnedMemory::zeroed(context, deferred_free, CACHE_LINE)?,
                answer: PinnedMemory::zeroed(context, deferred_free, CACHE_LINE)?,
                on_device,
                loaded,
                thread: PhantomData,
            };
            if way == LaunchMethod::Graph {
                launches.graph = Some(launches.record(context, deferred_free)?);
            }
            Ok(launches)
        })
    }

    /// Sends a message, and waits for the kernel that was launched for it.
    ///
    /// # Errors
    ///
    /// The driver's own word.
    pub fn call(&mut self, message: &[u8; BYTES]) -> Result<[u8; BYTES], DriverError> {
        self.message.bytes_mut()[..BYTES].copy_from_slice(message);
        match &self.graph {
            Some(graph) => graph.launch(&self.loaded)?,
            None => self.enqueue()?,
        }
        // SAFETY: the stream is that of `self`.
        let waited = unsafe { result::stream::synchronize(self.loaded.stream.handle()) };
        waited.map_err(DriverError::while_doing("waiting for a kernel"))?;
        let mut answer = [0; BYTES];
        answer.copy_from_slice(&self.answer.bytes()[..BYTES]);
        Ok(answer)
    }

    /// Puts what a message needs into the stream.
    fn enqueue(&self) -> Result<(), DriverError> {
        let Some([message, answer]) = &self.on_device else {
            return self.launch(self.message.device_base(), self.answer.device_base());
        };
        let stream = self.loaded.stream.handle();
        let (to, from) = (message.address(), self.message.base().as_ptr().cast());
        // SAFETY: both have at least so many bytes and are kept by `self`, which waits for the stream before it touches them.
        unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, BYTES, stream) }
            .result()
            .map_err(DriverError::while_doing("copying a message"))?;
        self.launch(message.address(), answer.address())?;
        let (to, from) = (self.answer.base().as_ptr().cast(), answer.address());
        // SAFETY: as above.
        unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, BYTES, stream) }
            .result()
            .map_err(DriverError::while_doing("copying an answer"))
    }

    fn launch(&self, mut message: u64, mut answer: u64) -> Result<(), DriverError> {
        let mut arguments: [*mut c_void; 2] = [(&raw mut message).cast(), (&raw mut answer).cast()];
        let (function, stream) = (self.loaded.function.0, self.loaded.stream.handle());
        // SAFETY: the kernel takes two addresses, which the driver copies before it returns. They are of memory that `self` keeps.
        let launched =
            unsafe { result::launch_kernel(function, (1, 1, 1), (1, 1, 1), 0, stream, &mut arguments) };
        launched.map_err(DriverError::while_doing("launching a kernel for a message"))
    }

    fn record(
        &self,
        context: &Arc<CudaContext>,
        deferred_free: &Arc<DeferredFreeList>,
    ) -> Result<Graph, DriverError> {
        let doing = || DriverError::while_doing("recording a graph");
        let stream = self.loaded.stream.handle();
        // Only this thread puts anything into the stream.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is that of `self`.
        unsafe { result::stream::begin_capture(stream, mode) }.map_err(doing())?;
        let enqueued = self.enqueue();
        // SAFETY: as above. Also after an error: the stream must not stay as it is.
        let graph = unsafe { result::stream::end_capture(stream) };
        enqueued?;
        let graph = graph.map_err(doing())?;
        // SAFETY: a graph that was just recorded; what is made of it needs it no more.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable
        };
        let executable = executable.map_err(doing())?;
        Ok(Graph { executable, context: Arc::clone(context), deferred_free: Arc::clone(deferred_free) })
    }
}

/// A graph, ready to be replayed.
struct Graph {
    executable: sys::CUgraphExec,
    context: Arc<CudaContext>,
    deferred_free: Arc<DeferredFreeList>,
}

impl Graph {
    fn launch(&self, loaded: &LoadedBaseline) -> Result<(), DriverError> {
        // SAFETY: the graph and the stream exist; what the graph works on is kept by whoever has both.
        let launched = unsafe { result::graph::launch(self.executable, loaded.stream.handle()) };
        launched.map_err(DriverError::while_doing("replaying a graph"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.deferred_free.defer_destroy(&self.context, self.executable, |handle| {
            // SAFETY: made by `record` and destroyed once; its owner is gone.
            let _ = unsafe { result::graph::exec_destroy(handle) };
        });
    }
}
