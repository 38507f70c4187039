//! Driver calls that other code of the process may make at any time, beside a ring kernel that is always busy.
//!
//! Each call is made from a thread of its own and must return: at once, or after the ring kernel has left the device
//! (`CudaOptions::max_residency`). The duration of each is printed as `call: milliseconds`.

mod cublas;

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use cublas::Cublas;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, result};

/// Operands of the calls, created before the ring kernel is resident.
pub struct Resources {
    context: Arc<CudaContext>,
    device: u64,
    other: u64,
    pinned: usize,
    stream: usize,
    /// Pages for calls that page-lock memory.
    pages: usize,
    /// A module for calls that load one.
    cubin: Vec<u8>,
    /// A graph of two copies, for the stream.
    graph: usize,
    cublas: Option<Cublas>,
}

const BYTES: usize = 1 << 16;

impl Resources {
    pub fn new(context: Arc<CudaContext>, cubin: Vec<u8>) -> Self {
        context.bind_to_thread().unwrap();
        // SAFETY: a context is current; none of these resources is released before the process ends.
        unsafe {
            let pinned = result::malloc_host(BYTES, 0).unwrap().expose_provenance();
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
            let layout = std::alloc::Layout::from_size_align(BYTES, 4096).unwrap();
            let (device, other) = (result::malloc_sync(BYTES).unwrap(), result::malloc_sync(BYTES).unwrap());
            // cuBLAS allocates at first use. That is done here, as a program should do it.
            let cublas = Cublas::open();
            if let Some(cublas) = &cublas {
                cublas.multiply(stream, [device, device, other]).unwrap();
                result::stream::synchronize(stream).unwrap();
            }
            Self {
                device,
                other,
                pinned,
                stream: stream.expose_provenance(),
                graph: graph(stream, device, std::ptr::with_exposed_provenance_mut(pinned))
                    .expose_provenance(),
                cubin,
                cublas,
                pages: std::alloc::alloc_zeroed(layout).expose_provenance(),
                context,
            }
        }
    }

    fn stream(&self) -> sys::CUstream {
        std::ptr::with_exposed_provenance_mut(self.stream)
    }

    fn pinned(&self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.pinned)
    }

    fn pages(&self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.pages)
    }
}

/// Records a copy to the device and one back.
///
/// # Safety
///
/// The stream exists. Both addresses are valid for `BYTES` bytes while the graph is used.
unsafe fn graph(stream: sys::CUstream, device: u64, pinned: *mut c_void) -> sys::CUgraphExec {
    // SAFETY: the caller guarantees the stream and both addresses; a context is current.
    unsafe {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        result::stream::begin_capture(stream, mode).unwrap();
        sys::cuMemcpyHtoDAsync_v2(device, pinned, BYTES, stream).result().unwrap();
        sys::cuMemcpyDtoHAsync_v2(pinned, device, BYTES, stream).result().unwrap();
        let graph = result::stream::end_capture(stream).unwrap();
        result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).unwrap()
    }
}

type Call = fn(&Resources) -> CUresult;

/// Makes the calls in order; returns the first error.
macro_rules! calls {
    ($($call:expr),+ $(,)?) => {{
        $(
            // SAFETY: all addresses and handles are of `Resources`, or of an object that the call before created.
            let outcome = unsafe { $call };
            if outcome != CUresult::CUDA_SUCCESS {
                return outcome;
            }
        )+
        CUresult::CUDA_SUCCESS
    }};
}

const LEGACY: sys::CUstream = std::ptr::null_mut();

/// The calls, by name: those that PyTorch, CuPy and cuBLAS make.
const CALLS: [(&str, Call); 30] = [
    ("cuMemGetInfo", |_| calls!(sys::cuMemGetInfo_v2(&mut 0, &mut 0))),
    ("cuCtxSynchronize", |_| calls!(sys::cuCtxSynchronize())),
    ("cuStreamSynchronize, own stream", |r| calls!(sys::cuStreamSynchronize(r.stream()))),
    ("cuStreamSynchronize, legacy stream", |_| calls!(sys::cuStreamSynchronize(LEGACY))),
    ("cuStreamQuery, legacy stream", |_| {
        // SAFETY: the legacy stream always exists.
        match unsafe { sys::cuStreamQuery(LEGACY) } {
            CUresult::CUDA_ERROR_NOT_READY => CUresult::CUDA_SUCCESS,
            other => other,
        }
    }),
    ("cuStreamCreate and destroy, blocking", |_| {
        let mut stream = LEGACY;
        calls!(sys::cuStreamCreate(&raw mut stream, 0), sys::cuStreamDestroy_v2(stream))
    }),
    ("cuStreamCreate and destroy, non-blocking", |_| {
        let mut stream = LEGACY;
        calls!(sys::cuStreamCreate(&raw mut stream, 1), sys::cuStreamDestroy_v2(stream))
    }),
    ("cuEventCreate and destroy", |_| {
        let mut event = std::ptr::null_mut();
        calls!(sys::cuEventCreate(&raw mut event, 0), sys::cuEventDestroy_v2(event))
    }),
    ("cuEventRecord and synchronize, own stream", |r| {
        let mut event = std::ptr::null_mut();
        calls!(
            sys::cuEventCreate(&raw mut event, 0),
            sys::cuEventRecord(event, r.stream()),
            sys::cuEventSynchronize(event),
            sys::cuEventDestroy_v2(event)
        )
    }),
    ("cuEventRecord and synchronize, legacy stream", |_| {
        let mut event = std::ptr::null_mut();
        calls!(
            sys::cuEventCreate(&raw mut event, 0),
            sys::cuEventRecord(event, LEGACY),
            sys::cuEventSynchronize(event),
            sys::cuEventDestroy_v2(event)
        )
    }),
    ("cuMemcpyHtoD, pageable", |r| calls!(sys::cuMemcpyHtoD_v2(r.device, r.pages(), BYTES))),
    ("cuMemcpyHtoD, page-locked", |r| calls!(sys::cuMemcpyHtoD_v2(r.device, r.pinned(), BYTES))),
    ("cuMemcpyDtoH, pageable", |r| calls!(sys::cuMemcpyDtoH_v2(r.pages(), r.device, BYTES))),
    ("cuMemcpyDtoH, page-locked", |r| calls!(sys::cuMemcpyDtoH_v2(r.pinned(), r.device, BYTES))),
    ("cuMemcpyDtoD", |r| calls!(sys::cuMemcpyDtoD_v2(r.other, r.device, BYTES))),
    ("cuMemcpyHtoDAsync, own stream", |r| {
        calls!(
            sys::cuMemcpyHtoDAsync_v2(r.device, r.pinned(), BYTES, r.stream()),
            sys::cuStreamSynchronize(r.stream())
        )
    }),
    ("cuMemcpyDtoHAsync, legacy stream", |r| {
        calls!(
            sys::cuMemcpyDtoHAsync_v2(r.pinned(), r.device, BYTES, LEGACY),
            sys::cuStreamSynchronize(LEGACY)
        )
    }),
    ("cuMemcpyDtoDAsync, own stream", |r| {
        calls!(
            sys::cuMemcpyDtoDAsync_v2(r.other, r.device, BYTES, r.stream()),
            sys::cuStreamSynchronize(r.stream())
        )
    }),
    ("cuMemsetD8", |r| calls!(sys::cuMemsetD8_v2(r.device, 7, BYTES))),
    ("cuMemsetD8Async, own stream", |r| {
        calls!(sys::cuMemsetD8Async(r.device, 7, BYTES, r.stream()), sys::cuStreamSynchronize(r.stream()))
    }),
    ("cuMemAlloc and cuMemFree", |_| {
        let mut memory = 0;
        calls!(sys::cuMemAlloc_v2(&raw mut memory, BYTES), sys::cuMemFree_v2(memory))
    }),
    ("cuMemAllocAsync and cuMemFreeAsync, own stream", |r| {
        let mut memory = 0;
        calls!(
            sys::cuMemAllocAsync(&raw mut memory, BYTES, r.stream()),
            sys::cuMemFreeAsync(memory, r.stream()),
            sys::cuStreamSynchronize(r.stream())
        )
    }),
    ("cuMemAllocManaged and cuMemFree", |_| {
        let mut memory = 0;
        calls!(sys::cuMemAllocManaged(&raw mut memory, BYTES, 1), sys::cuMemFree_v2(memory))
    }),
    ("cuMemHostAlloc and cuMemFreeHost", |_| {
        let mut memory = std::ptr::null_mut();
        calls!(sys::cuMemHostAlloc(&raw mut memory, BYTES, 3), sys::cuMemFreeHost(memory))
    }),
    ("cuMemHostRegister and unregister", |r| {
        calls!(sys::cuMemHostRegister_v2(r.pages(), BYTES, 0), sys::cuMemHostUnregister(r.pages()))
    }),
    ("cuCtxSetLimit, stack size", |_| calls!(sys::cuCtxSetLimit(sys::CUlimit::CU_LIMIT_STACK_SIZE, 2048))),
    ("cuLaunchHostFunc, own stream", |r| {
        unsafe extern "C" fn nothing(_: *mut c_void) {}
        calls!(
            sys::cuLaunchHostFunc(r.stream(), Some(nothing), std::ptr::null_mut()),
            sys::cuStreamSynchronize(r.stream())
        )
    }),
    ("cuModuleLoadData and cuModuleUnload", |r| {
        let mut module = std::ptr::null_mut();
        calls!(sys::cuModuleLoadData(&raw mut module, r.cubin.as_ptr().cast()), sys::cuModuleUnload(module))
    }),
    ("cuGraphLaunch, own stream", |r| {
        let graph = std::ptr::with_exposed_provenance_mut(r.graph);
        calls!(sys::cuGraphLaunch(graph, r.stream()), sys::cuStreamSynchronize(r.stream()))
    }),
    ("cublasCreate, cublasSgemm and cublasDestroy, own stream", |r| {
        let Some(cublas) = &r.cublas else {
            println!("cuBLAS is not on this machine");
            return CUresult::CUDA_SUCCESS;
        };
        match cublas.multiply(r.stream(), [r.device, r.device, r.other]) {
            Ok(()) => calls!(sys::cuStreamSynchronize(r.stream())),
            Err(status) => {
                println!("cuBLAS returned status {status}");
                CUresult::CUDA_ERROR_UNKNOWN
            }
        }
    }),
];

/// Makes every call and returns the duration of each.
///
/// # Panics
///
/// If a call fails or has not returned after `timeout`, with its name.
pub fn make_all_calls(resources: Resources, timeout: Duration) -> Vec<(&'static str, Duration)> {
    let resources = Arc::new(resources);
    CALLS
        .into_iter()
        .map(|(name, call)| {
            let (result_tx, result_rx) = channel();
            let resources = Arc::clone(&resources);
            let started = Instant::now();
            std::thread::spawn(move || {
                resources.context.bind_to_thread().unwrap();
                result_tx.send(call(&resources)).unwrap();
            });
            let outcome = result_rx.recv_timeout(timeout);
            let elapsed = started.elapsed();
            assert_eq!(outcome, Ok(CUresult::CUDA_SUCCESS), "{name}, after {elapsed:?}");
            println!("{name}: {:.3}", elapsed.as_secs_f64() * 1e3);
            (name, elapsed)
        })
        .collect()
}
