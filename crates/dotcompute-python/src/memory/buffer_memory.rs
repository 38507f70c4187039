//! Memory that Python objects refer to. It stays allocated while any Python object refers to it, also after its buffer was freed.

use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use dotcompute_core::memory::{CpuMemory, DeviceBlock, DeviceMemory, HostBlock, MemoryError};
use pyo3::buffer::PyBuffer;
use pyo3::ffi;
use pyo3::prelude::*;

/// Owner of host memory.
enum Owner {
    /// Allocated by a backend, page-locked or not.
    Host { _block: Box<dyn HostBlock>, page_locked: bool },
    /// Memory of the `cpu` device, which the host accesses directly.
    Device { _block: Box<dyn DeviceBlock> },
    /// Memory of another library, by the buffer protocol.
    Foreign { _buffer: PyBuffer<u8> },
}

/// Host memory that Python reads and writes, and that devices copy from and to.
pub(super) struct HostBytes {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
    owner: Owner,
}

// SAFETY: `base` points into memory of `owner`, which is `Send`. Python code that accesses it from several threads must synchronize, as
// with any NumPy array; Rust code accesses it only through the unsafe functions below.
unsafe impl Send for HostBytes {}
// SAFETY: shared references give access to the bytes only through the unsafe functions below, whose callers exclude data races.
unsafe impl Sync for HostBytes {}

impl HostBytes {
    /// Allocates zeroed host memory, page-locked if `memory` supports that. `pooled`: the block may have been used before.
    pub(super) fn page_locked(
        memory: &dyn DeviceMemory,
        len: usize,
        pooled: bool,
    ) -> Result<Self, MemoryError> {
        let mut block = memory.page_locked(len)?;
        let bytes = block.bytes_mut();
        if pooled {
            bytes.fill(0);
        }
        let (base, len) = (NonNull::from(&mut *bytes).cast(), bytes.len());
        let owner = Owner::Host { _block: block, page_locked: memory.supports_page_locked() };
        Ok(Self { base, len, writable: true, owner })
    }

    /// Allocates zeroed pageable memory.
    pub(super) fn pageable(len: usize) -> Result<Self, MemoryError> {
        Self::page_locked(&*CpuMemory::new(), len, false)
    }

    /// Allocates zeroed memory of a device that the host accesses directly. `None` for any other device.
    pub(super) fn of_device(
        memory: &dyn DeviceMemory,
        len: usize,
        pooled: bool,
    ) -> Result<Option<Self>, MemoryError> {
        let mut block = memory.allocate(len)?;
        if pooled {
            block.zero()?;
        }
        let Some(bytes) = block.host_view_mut() else { return Ok(None) };
        let (base, len) = (NonNull::from(&mut *bytes).cast(), bytes.len());
        Ok(Some(Self { base, len, writable: true, owner: Owner::Device { _block: block } }))
    }

    /// Refers to the memory of an object of another library. `None` if it is not contiguous.
    pub(super) fn foreign(buffer: PyBuffer<u8>) -> Option<Self> {
        if !buffer.is_c_contiguous() {
            return None;
        }
        let base = NonNull::new(buffer.buf_ptr().cast()).unwrap_or(NonNull::dangling());
        let (len, writable) = (buffer.len_bytes(), !buffer.readonly());
        Some(Self { base, len, writable, owner: Owner::Foreign { _buffer: buffer } })
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    pub(super) fn is_page_locked(&self) -> bool {
        matches!(self.owner, Owner::Host { page_locked: true, .. })
    }

    /// Returns the bytes, to copy them to a device.
    ///
    /// # Safety
    ///
    /// No other thread may write to them while the slice exists.
    pub(super) unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: `base` points to `len` initialized bytes that live as long as `owner`. The caller excludes concurrent writers.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// Returns the bytes, to copy into them from a device.
    ///
    /// # Safety
    ///
    /// The memory must be writable, and no other thread may read or write it while the slice exists.
    #[expect(clippy::mut_from_ref, reason = "memory shared with Python, like a NumPy array")]
    pub(super) unsafe fn as_mut_slice(&self) -> &mut [u8] {
        // SAFETY: `base` points to `len` initialized bytes that live as long as `owner`. The caller guarantees exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

/// The host copy of a buffer. It supports the buffer protocol, so `numpy.ndarray(shape, dtype, buffer=...)` copies nothing.
#[pyclass(frozen, weakref, module = "pydotcompute._core")]
pub struct HostCopy(pub(super) Arc<HostBytes>);

#[pymethods]
impl HostCopy {
    /// Whether the memory is page-locked, so that a device copies it by DMA.
    #[getter]
    fn page_locked(&self) -> bool {
        self.0.is_page_locked()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// # Safety
    ///
    /// `view` must be null, or point to a `Py_buffer` that CPython passes to be filled.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes = &slf.get().0;
        // An allocation has at most `isize::MAX` bytes.
        let len = bytes.len as ffi::Py_ssize_t;
        let (base, readonly) = (bytes.base.as_ptr().cast(), c_int::from(!bytes.writable));
        // SAFETY: `view` is valid or null, and null makes the call return an error. The view gets a reference to `slf`, which keeps the
        // bytes alive while the view exists.
        match unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), base, len, readonly, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }

    fn __repr__(&self) -> String {
        let kind = if self.0.is_page_locked() { ", page-locked" } else { "" };
        format!("HostCopy({} bytes{kind})", self.0.len())
    }
}

/// A block of device memory. Dropping the last reference frees it.
pub(super) struct DeviceBytes {
    address: u64,
    block: Mutex<Box<dyn DeviceBlock>>,
}

impl DeviceBytes {
    /// Allocates `len` bytes with unspecified content.
    pub(super) fn new(memory: &dyn DeviceMemory, len: usize) -> Result<Self, MemoryError> {
        let block = memory.allocate(len)?;
        Ok(Self { address: block.address(), block: Mutex::new(block) })
    }

    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn len(&self, py: Python<'_>) -> usize {
        py.detach(|| self.with(|block| block.len()))
    }

    /// Calls `f` with exclusive access to the block.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut dyn DeviceBlock) -> T) -> T {
        f(&mut **self.block.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The device copy of a buffer, by its address.
#[pyclass(frozen, weakref, module = "pydotcompute._core")]
pub struct DeviceCopy(pub(super) Arc<DeviceBytes>);

#[pymethods]
impl DeviceCopy {
    /// Address in the address space of the device.
    #[getter]
    fn address(&self) -> u64 {
        self.0.address
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.0.len(py)
    }
}
