//! Memory that Python looks at. It lives as long as anything of Python's refers to it, also after its buffer was freed.

use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use dotcompute_core::memory::{CpuMemory, DeviceBlock, DeviceMemory, HostBlock, MemoryError};
use pyo3::buffer::PyBuffer;
use pyo3::ffi;
use pyo3::prelude::*;

/// What keeps bytes of the host alive.
enum Owner {
    /// From a memory of ours, page-locked or not.
    Host { _block: Box<dyn HostBlock>, locked: bool },
    /// Memory of the `cpu` device, which is the host's too.
    Device { _block: Box<dyn DeviceBlock> },
    /// Another library's, by the buffer protocol.
    Foreign { _buffer: PyBuffer<u8> },
}

/// Bytes of the host that Python and devices read and write.
pub(super) struct HostBytes {
    base: NonNull<u8>,
    len: usize,
    writable: bool,
    owner: Owner,
}

// SAFETY: `base` is of `owner`, which may be sent; whoever reads or writes there in two threads at once has to see to that himself, as
// with any array of NumPy.
unsafe impl Send for HostBytes {}
// SAFETY: as above.
unsafe impl Sync for HostBytes {}

impl HostBytes {
    /// Zeros from a source that `locked` says more of. `reused`: somebody may have had the block before.
    pub(super) fn locked(memory: &dyn DeviceMemory, len: usize, reused: bool) -> Result<Self, MemoryError> {
        let mut block = memory.page_locked(len)?;
        let bytes = block.bytes_mut();
        if reused {
            bytes.fill(0);
        }
        let (base, len) = (NonNull::from(&mut *bytes).cast(), bytes.len());
        let owner = Owner::Host { _block: block, locked: memory.supports_page_locked() };
        Ok(Self { base, len, writable: true, owner })
    }

    /// Zeros, of ordinary memory.
    pub(super) fn ordinary(len: usize) -> Result<Self, MemoryError> {
        Self::locked(&*CpuMemory::new(), len, false)
    }

    /// Zeros of a device whose memory is the host's; none if it is not.
    pub(super) fn of_device(
        memory: &dyn DeviceMemory,
        len: usize,
        reused: bool,
    ) -> Result<Option<Self>, MemoryError> {
        let mut block = memory.allocate(len)?;
        if reused {
            block.zero()?;
        }
        let Some(bytes) = block.host_view_mut() else { return Ok(None) };
        let (base, len) = (NonNull::from(&mut *bytes).cast(), bytes.len());
        Ok(Some(Self { base, len, writable: true, owner: Owner::Device { _block: block } }))
    }

    /// The bytes of another library's object; none if they are not in one piece.
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

    pub(super) fn is_locked(&self) -> bool {
        matches!(self.owner, Owner::Host { locked: true, .. })
    }

    /// The bytes, to be copied to a device.
    ///
    /// # Safety
    ///
    /// Nobody writes to them meanwhile.
    pub(super) unsafe fn as_slice(&self) -> &[u8] {
        // SAFETY: `len` initialised bytes at `base`, which live as long as `owner`; the caller answers for writers.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// The bytes, to be copied to from a device.
    ///
    /// # Safety
    ///
    /// They are writable, and nobody reads or writes them meanwhile.
    #[expect(clippy::mut_from_ref, reason = "it is memory that others may write to as well")]
    pub(super) unsafe fn as_mut_slice(&self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

/// The host's half of a buffer, by the buffer protocol: `numpy.ndarray(shape, dtype, buffer=it)` copies nothing.
#[pyclass(frozen, weakref, module = "pydotcompute._core")]
pub struct HostCopy(pub(super) Arc<HostBytes>);

#[pymethods]
impl HostCopy {
    /// Whether a device copies it by itself.
    #[getter]
    fn page_locked(&self) -> bool {
        self.0.is_locked()
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// # Safety
    ///
    /// `view` is Python's to be filled, or null.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let bytes = &slf.get().0;
        // No allocation is longer than that.
        let len = bytes.len as ffi::Py_ssize_t;
        let (base, readonly) = (bytes.base.as_ptr().cast(), c_int::from(!bytes.writable));
        // SAFETY: `view` is Python's; the view gets a reference to `slf`, and with it to the bytes. A null view is an error it returns.
        match unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), base, len, readonly, flags) } {
            0 => Ok(()),
            _ => Err(PyErr::fetch(slf.py())),
        }
    }

    fn __repr__(&self) -> String {
        let kind = if self.0.is_locked() { ", page-locked" } else { "" };
        format!("HostCopy({} bytes{kind})", self.0.len())
    }
}

/// A block of a device's memory, given back when the last that refers to it is gone.
pub(super) struct DeviceBytes {
    address: u64,
    block: Mutex<Box<dyn DeviceBlock>>,
}

impl DeviceBytes {
    /// So many bytes of any content.
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

    /// Does something with the block, alone.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut dyn DeviceBlock) -> T) -> T {
        act(&mut **self.block.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The device's half of a buffer, by its address.
#[pyclass(frozen, weakref, module = "pydotcompute._core")]
pub struct DeviceCopy(pub(super) Arc<DeviceBytes>);

#[pymethods]
impl DeviceCopy {
    /// Where it is, as the device sees it.
    #[getter]
    fn address(&self) -> u64 {
        self.0.address
    }

    fn __len__(&self, py: Python<'_>) -> usize {
        self.0.len(py)
    }
}
