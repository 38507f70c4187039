//! Calls that other code of the process may make at any time, tried beside a ring kernel that never rests.
//!
//! Each is made from a thread of its own and must return: at once, or when the ring kernel has left the device for a moment
//! (`CudaOptions::max_residency`). How long each took is printed, as `call: milliseconds`.

mod cublas;

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use cublas::Cublas;
use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, result};

/// What the calls work on, made before the ring kernel is resident.
pub struct Things {
    context: Arc<CudaContext>,
    device: u64,
    other: u64,
    pinned: usize,
    stream: usize,
    /// Pages that a call may lock.
    pages: usize,
    /// A module that a call may load.
    cubin: Vec<u8>,
    /// A graph of two copies, to be launched in the stream.
    graph: usize,
    cublas: Option<Cublas>,
}

const BYTES: usize = 1 << 16;

impl Things {
    pub fn new(context: Arc<CudaContext>, cubin: Vec<u8>) -> Self {
        context.bind_to_thread().unwrap();
        // SAFETY: a context is current; all of it stays to the end of the process.
        unsafe {
            let pinned = result::malloc_host(BYTES, 0).unwrap().expose_provenance();
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking).unwrap();
            let layout = std::alloc::Layout::from_size_align(BYTES, 4096).unwrap();
            let (device, other) = (result::malloc_sync(BYTES).unwrap(), result::malloc_sync(BYTES).unwrap());
            // What it takes at first use it takes now, as a program should.
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
/// The stream exists, and both addresses are of so many bytes for as long as the graph is used.
unsafe fn graph(stream: sys::CUstream, device: u64, pinned: *mut c_void) -> sys::CUgraphExec {
    // SAFETY: as the caller says; a context is current.
    unsafe {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        result::stream::begin_capture(stream, mode).unwrap();
        sys::cuMemcpyHtoDAsync_v2(device, pinned, BYTES, stream).result().unwrap();
        sys::cuMemcpyDtoHAsync_v2(pinned, device, BYTES, stream).result().unwrap();
        let graph = result::stream::end_capture(stream).unwrap();
        result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)).unwrap()
    }
}

type Call = fn(&Things) -> CUresult;

/// Does one call after another; stops at the first that fails.
macro_rules! calls {
    ($($call:expr),+ $(,)?) => {{
        $(
            // SAFETY: all addresses and handles are of `Things`, or made a line before.
            let outcome = unsafe { $call };
            if outcome != CUresult::CUDA_SUCCESS {
                return outcome;
            }
        )+
        CUresult::CUDA_SUCCESS
    }};
}

const LEGACY: sys::CUstream = std::ptr::null_mut();

/// The calls, by name. What torch, CuPy and cuBLAS do comes down to these.
const CALLS: [(&str, Call); 30] = [
    ("cuMemGetInfo", |_| calls!(sys::cuMemGetInfo_v2(&mut 0, &mut 0))),
    ("cuCtxSynchronize", |_| calls!(sys::cuCtxSynchronize())),
    ("cuStreamSynchronize, own stream", |t| calls!(sys::cuStreamSynchronize(t.stream()))),
    ("cuStreamSynchronize, legacy stream", |_| calls!(sys::cuStreamSynchronize(LEGACY))),
    ("cuStreamQuery, legacy stream", |_| {
        // SAFETY: the legacy stream is always there.
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
    ("cuEventRecord and synchronize, own stream", |t| {
        let mut event = std::ptr::null_mut();
        calls!(
            sys::cuEventCreate(&raw mut event, 0),
            sys::cuEventRecord(event, t.stream()),
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
    ("cuMemcpyHtoD, pageable", |t| calls!(sys::cuMemcpyHtoD_v2(t.device, t.pages(), BYTES))),
    ("cuMemcpyHtoD, page-locked", |t| calls!(sys::cuMemcpyHtoD_v2(t.device, t.pinned(), BYTES))),
    ("cuMemcpyDtoH, pageable", |t| calls!(sys::cuMemcpyDtoH_v2(t.pages(), t.device, BYTES))),
    ("cuMemcpyDtoH, page-locked", |t| calls!(sys::cuMemcpyDtoH_v2(t.pinned(), t.device, BYTES))),
    ("cuMemcpyDtoD", |t| calls!(sys::cuMemcpyDtoD_v2(t.other, t.device, BYTES))),
    ("cuMemcpyHtoDAsync, own stream", |t| {
        calls!(
            sys::cuMemcpyHtoDAsync_v2(t.device, t.pinned(), BYTES, t.stream()),
            sys::cuStreamSynchronize(t.stream())
        )
    }),
    ("cuMemcpyDtoHAsync, legacy stream", |t| {
        calls!(
            sys::cuMemcpyDtoHAsync_v2(t.pinned(), t.device, BYTES, LEGACY),
            sys::cuStreamSynchronize(LEGACY)
        )
    }),
    ("cuMemcpyDtoDAsync, own stream", |t| {
        calls!(
            sys::cuMemcpyDtoDAsync_v2(t.other, t.device, BYTES, t.stream()),
            sys::cuStreamSynchronize(t.stream())
        )
    }),
    ("cuMemsetD8", |t| calls!(sys::cuMemsetD8_v2(t.device, 7, BYTES))),
    ("cuMemsetD8Async, own stream", |t| {
        calls!(sys::cuMemsetD8Async(t.device, 7, BYTES, t.stream()), sys::cuStreamSynchronize(t.stream()))
    }),
    ("cuMemAlloc and cuMemFree", |_| {
        let mut memory = 0;
        calls!(sys::cuMemAlloc_v2(&raw mut memory, BYTES), sys::cuMemFree_v2(memory))
    }),
    ("cuMemAllocAsync and cuMemFreeAsync, own stream", |t| {
        let mut memory = 0;
        calls!(
            sys::cuMemAllocAsync(&raw mut memory, BYTES, t.stream()),
            sys::cuMemFreeAsync(memory, t.stream()),
            sys::cuStreamSynchronize(t.stream())
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
    ("cuMemHostRegister and unregister", |t| {
        calls!(sys::cuMemHostRegister_v2(t.pages(), BYTES, 0), sys::cuMemHostUnregister(t.pages()))
    }),
    ("cuCtxSetLimit, stack size", |_| calls!(sys::cuCtxSetLimit(sys::CUlimit::CU_LIMIT_STACK_SIZE, 2048))),
    ("cuLaunchHostFunc, own stream", |t| {
        unsafe extern "C" fn nothing(_: *mut c_void) {}
        calls!(
            sys::cuLaunchHostFunc(t.stream(), Some(nothing), std::ptr::null_mut()),
            sys::cuStreamSynchronize(t.stream())
        )
    }),
    ("cuModuleLoadData and cuModuleUnload", |t| {
        let mut module = std::ptr::null_mut();
        calls!(sys::cuModuleLoadData(&raw mut module, t.cubin.as_ptr().cast()), sys::cuModuleUnload(module))
    }),
    ("cuGraphLaunch, own stream", |t| {
        let graph = std::ptr::with_exposed_provenance_mut(t.graph);
        calls!(sys::cuGraphLaunch(graph, t.stream()), sys::cuStreamSynchronize(t.stream()))
    }),
    ("cublasCreate, cublasSgemm and cublasDestroy, own stream", |t| {
        let Some(cublas) = &t.cublas else {
            println!("cuBLAS is not on this machine");
            return CUresult::CUDA_SUCCESS;
        };
        match cublas.multiply(t.stream(), [t.device, t.device, t.other]) {
            Ok(()) => calls!(sys::cuStreamSynchronize(t.stream())),
            Err(status) => {
                println!("cuBLAS gave status {status}");
                CUresult::CUDA_ERROR_UNKNOWN
            }
        }
    }),
];

/// Makes every call; gives how long each took.
///
/// # Panics
///
/// If one fails, or has not returned after `patience`: with its name.
pub fn make_all(things: Things, patience: Duration) -> Vec<(&'static str, Duration)> {
    let things = Arc::new(things);
    CALLS
        .into_iter()
        .map(|(name, call)| {
            let (done, outcome) = channel();
            let things = Arc::clone(&things);
            let begun = Instant::now();
            std::thread::spawn(move || {
                things.context.bind_to_thread().unwrap();
                done.send(call(&things)).unwrap();
            });
            let outcome = outcome.recv_timeout(patience);
            let took = begun.elapsed();
            assert_eq!(outcome, Ok(CUresult::CUDA_SUCCESS), "{name}, after {took:?}");
            println!("{name}: {:.3}", took.as_secs_f64() * 1e3);
            (name, took)
        })
        .collect()
}
