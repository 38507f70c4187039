//! GPU memory for buffers: a stream-ordered pool, and page-locked host memory.
//!
//! Allocations, copies and frees are enqueued into a stream that waits for no other stream, so none of them waits for a ring kernel.
//! Opening the memory, page-locking and trimming do wait for the device, so ring kernels leave it during these calls. A
//! [`MemoryPool`](dotcompute_core::memory::MemoryPool) caches page-locked blocks, which makes such calls rare.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::{CudaContext, result, sys};
use dotcompute_core::backend::{BackendError, BackendKind};
use dotcompute_core::memory::{DeviceBlock, DeviceId, DeviceMemory, HostBlock, MemoryError};

use super::deferred_free::DeferredFreeList;
use super::error::device_error;
use super::pinned_memory::PinnedMemory;
use super::process_device::ProcessDevice;
use super::streams::Purpose;
use super::streams::Stream;
use super::{live_context, unavailable};
use crate::driver::{Device, Driver, DriverError};

/// Time allowed for ring kernels to leave the device.
const QUIESCE_TIMEOUT: Duration = Duration::from_secs(5);
/// The driver's error code for out of memory.
const OUT_OF_MEMORY: u32 = 2;

/// Memory of a GPU.
///
/// ```no_run
/// use dotcompute_core::memory::UnifiedBuffer;
/// use dotcompute_cuda::cuda::CudaMemory;
///
/// let mut prices = UnifiedBuffer::from_slice(CudaMemory::open(0)?, &[1.0_f32, 2.0])?;
/// println!("on the device at {:#x}", prices.device()?.address());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct CudaMemory(Arc<Inner>);

struct Inner {
    device: DeviceId,
    pool: Pool,
    stream: Stream,
    context: Arc<CudaContext>,
    process_device: Arc<ProcessDevice>,
}

impl CudaMemory {
    /// Opens the memory of the device with this index.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] without a driver or such a device, or if the device has no memory pools;
    /// [`BackendError::QuiesceTimeout`] if ring kernels did not leave the device in time; [`BackendError::Device`] with the error of the
    /// driver.
    pub fn open(index: u32) -> Result<Arc<Self>, BackendError> {
        let driver = Driver::open().map_err(|error| unavailable(&error))?;
        Self::of(&driver.device(index).map_err(|error| unavailable(&error))?)
    }

    /// Opens the memory of this device.
    pub(super) fn of(device: &Device) -> Result<Arc<Self>, BackendError> {
        if !device.memory_pools {
            return Err(BackendError::Unavailable {
                backend: BackendKind::Cuda,
                missing: format!("{} has no memory pools", device.name),
                advice: String::from("use another device"),
            });
        }
        let context = live_context(device).map_err(|error| unavailable(&error))?;
        let process_device = ProcessDevice::of(device);
        let created = process_device.quiesced(QUIESCE_TIMEOUT, || {
            let pool = Pool::new(device.index, &context, &process_device.deferred_free)?;
            Ok((pool, process_device.streams.take(&context, Purpose::Buffers)?))
        })?;
        let (pool, stream) =
            created.map_err(|error: DriverError| device_error("opening the memory of the device", &error))?;
        let device = DeviceId { backend: BackendKind::Cuda, index: device.index };
        Ok(Arc::new(Self(Arc::new(Inner { device, pool, stream, context, process_device }))))
    }
}

impl fmt::Debug for CudaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory of {}", self.0.device)
    }
}

impl Inner {
    fn failed(&self, doing: impl Into<String>, problem: &dyn fmt::Display) -> MemoryError {
        MemoryError::Device { device: self.device, doing: doing.into(), problem: problem.to_string() }
    }

    /// Enqueues work into the stream and waits for the stream.
    ///
    /// # Safety
    ///
    /// The requirements of the calls that `enqueue` makes must hold until this method returns.
    unsafe fn complete(
        &self,
        doing: impl Fn() -> String,
        enqueue: impl FnOnce(sys::CUstream) -> sys::CUresult,
    ) -> Result<(), DriverError> {
        self.process_device.check()?;
        let completed = self.context.bind_to_thread().and_then(|()| {
            enqueue(self.stream.handle()).result()?;
            // SAFETY: the stream exists. It waits for no other stream, so a ring kernel does not block this call.
            unsafe { result::stream::synchronize(self.stream.handle()) }
        });
        self.process_device.noted(&self.context, completed.map_err(DriverError::while_doing(doing())))
    }

    fn quiesced<T>(
        &self,
        doing: &str,
        operation: impl FnOnce() -> Result<T, DriverError>,
    ) -> Result<T, MemoryError> {
        let outcome = self
            .process_device
            .quiesced(QUIESCE_TIMEOUT, operation)
            .map_err(|error| self.failed(doing, &error))?;
        outcome.map_err(|error| self.failed(doing, &error))
    }
}

fn is_out_of_memory(error: &DriverError) -> bool {
    matches!(error, DriverError::Call { code: OUT_OF_MEMORY, .. } | DriverError::OutOfMemory { .. })
}

impl DeviceMemory for CudaMemory {
    fn device(&self) -> DeviceId {
        self.0.device
    }

    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBlock>, MemoryError> {
        let inner = &self.0;
        let doing = || format!("allocating {bytes} bytes");
        let (mut address, pool) = (0, inner.pool.handle);
        // SAFETY: `self` owns pool and stream, and `address` is writable. On success the `Block` below becomes the only owner of the
        // allocation.
        let allocated = unsafe {
            inner.complete(doing, |stream| {
                sys::cuMemAllocFromPoolAsync(&raw mut address, bytes.max(1), pool, stream)
            })
        };
        match allocated {
            Ok(()) => Ok(Box::new(Block { address, len: bytes, memory: Arc::clone(inner) })),
            Err(error) if is_out_of_memory(&error) => {
                let free = result::mem_get_info().ok().map(|(free, _)| free as u64);
                Err(MemoryError::NoDeviceMemory { device: inner.device, requested: bytes, free })
            }
            Err(error) => Err(inner.failed(doing(), &error)),
        }
    }

    fn supports_page_locked(&self) -> bool {
        true
    }

    fn page_locked(&self, bytes: usize) -> Result<Box<dyn HostBlock>, MemoryError> {
        let inner = &self.0;
        let created = inner.process_device.quiesced(QUIESCE_TIMEOUT, || {
            PinnedMemory::zeroed(&inner.context, &inner.process_device.deferred_free, bytes)
        });
        let doing = || format!("page-locking {bytes} bytes of the host");
        match created.map_err(|error| inner.failed(doing(), &error))? {
            Ok(pinned) => Ok(Box::new(PinnedBlock { pinned, len: bytes })),
            Err(error) if is_out_of_memory(&error) => Err(MemoryError::NoHostMemory { requested: bytes }),
            Err(error) => Err(inner.failed(doing(), &error)),
        }
    }

    fn trim(&self) -> Result<(), MemoryError> {
        let inner = &self.0;
        inner.quiesced("trimming unused memory", || {
            let doing = || String::from("trimming a memory pool");
            // SAFETY: nothing is enqueued into the stream; `self` owns the pool.
            unsafe { inner.complete(doing, |_| sys::cuMemPoolTrimTo(inner.pool.handle, 0)) }
        })
    }
}

/// A driver memory pool that caches freed memory until it is trimmed.
struct Pool {
    handle: sys::CUmemoryPool,
    context: Arc<CudaContext>,
    deferred_free: Arc<DeferredFreeList>,
}

// SAFETY: a pool belongs to a context, not to a thread, and the driver locks internally.
unsafe impl Send for Pool {}
// SAFETY: as for `Send`.
unsafe impl Sync for Pool {}

impl Pool {
    fn new(
        index: u32,
        context: &Arc<CudaContext>,
        deferred_free: &Arc<DeferredFreeList>,
    ) -> Result<Self, DriverError> {
        let doing = || DriverError::while_doing("creating a memory pool");
        context.bind_to_thread().map_err(doing())?;
        // SAFETY: `CUmemPoolProps` is a plain C struct; the driver requires unused fields to be zero.
        let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
        properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.location.id = index.cast_signed();
        let mut handle = std::ptr::null_mut();
        // SAFETY: both pointers are to locals that outlive the call.
        unsafe { sys::cuMemPoolCreate(&raw mut handle, &raw const properties) }.result().map_err(doing())?;
        let pool = Self { handle, context: Arc::clone(context), deferred_free: Arc::clone(deferred_free) };
        // By default the pool releases memory at every synchronization, which may wait for the device.
        let mut release_threshold = u64::MAX;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the value of this attribute is a `u64`.
        unsafe { sys::cuMemPoolSetAttribute(handle, attribute, (&raw mut release_threshold).cast()) }
            .result()
            .map_err(doing())?;
        Ok(pool)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.deferred_free.defer_destroy(&self.context, self.handle, |handle| {
            // SAFETY: the pool was created by `new` and is destroyed only here. Every `Block` holds the pool alive, so all blocks are
            // freed.
            let _ = unsafe { sys::cuMemPoolDestroy(handle) };
        });
    }
}

/// A block of device memory.
struct Block {
    address: u64,
    len: usize,
    memory: Arc<Inner>,
}

impl Block {
    fn range(&self, at: usize, count: usize) -> Result<Range<usize>, MemoryError> {
        let range = at..at.saturating_add(count);
        if range.end <= self.len { Ok(range) } else { Err(MemoryError::OutOfRange { range, len: self.len }) }
    }

    fn map_driver_error(&self, doing: String, done: Result<(), DriverError>) -> Result<(), MemoryError> {
        done.map_err(|error| self.memory.failed(doing, &error))
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {} at {:#x}", self.len, self.memory.device, self.address)
    }
}

impl DeviceBlock for Block {
    fn address(&self) -> u64 {
        self.address
    }

    fn len(&self) -> usize {
        self.len
    }

    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        let range = self.range(at, from.len())?;
        if range.is_empty() {
            return Ok(());
        }
        let to = self.address + at as u64;
        let doing = || format!("copying {} bytes to the device", from.len());
        // SAFETY: `range` has checked that the bytes lie within the block, and `&mut self` excludes other access through it. `from` is
        // borrowed until the copy has completed.
        let done = unsafe {
            self.memory.complete(doing, |stream| {
                sys::cuMemcpyHtoDAsync_v2(to, from.as_ptr().cast(), from.len(), stream)
            })
        };
        self.map_driver_error(doing(), done)
    }

    fn read(&self, at: usize, to: &mut [u8]) -> Result<(), MemoryError> {
        let range = self.range(at, to.len())?;
        if range.is_empty() {
            return Ok(());
        }
        let from = self.address + at as u64;
        let (into, count) = (to.as_mut_ptr(), to.len());
        let doing = || format!("copying {count} bytes from the device");
        // SAFETY: `range` has checked that the bytes lie within the block. `to` is borrowed mutably until the copy has completed.
        let done = unsafe {
            self.memory.complete(doing, |stream| sys::cuMemcpyDtoHAsync_v2(into.cast(), from, count, stream))
        };
        self.map_driver_error(doing(), done)
    }

    fn zero(&mut self) -> Result<(), MemoryError> {
        if self.len == 0 {
            return Ok(());
        }
        let doing = || format!("zeroing {} bytes of device memory", self.len);
        // SAFETY: the range is the whole block, and `&mut self` excludes other access through it.
        let done = unsafe {
            self.memory.complete(doing, |stream| sys::cuMemsetD8Async(self.address, 0, self.len, stream))
        };
        self.map_driver_error(doing(), done)
    }

    /// Returns `None`: the host cannot access device memory.
    fn host_view(&self) -> Option<&[u8]> {
        None
    }

    /// Returns `None`, as `host_view` does.
    fn host_view_mut(&mut self) -> Option<&mut [u8]> {
        None
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // Nothing of a lost context is freed: see `ProcessDevice`.
        if self.memory.process_device.check().is_ok() && self.memory.context.bind_to_thread().is_ok() {
            // SAFETY: the block was allocated from the pool and is freed only here. Every user of the block has waited for its work to
            // complete.
            let _ = unsafe { sys::cuMemFreeAsync(self.address, self.memory.stream.handle()) };
        }
    }
}

/// A block of page-locked host memory.
struct PinnedBlock {
    pinned: PinnedMemory,
    len: usize,
}

impl fmt::Debug for PinnedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} page-locked bytes at {:p}", self.len, self.pinned.bytes())
    }
}

impl HostBlock for PinnedBlock {
    // Kernels do not get the address of the block, and each copy completes while the block is borrowed.
    fn bytes(&self) -> &[u8] {
        &self.pinned.bytes()[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.pinned.bytes_mut()[..self.len]
    }
}
