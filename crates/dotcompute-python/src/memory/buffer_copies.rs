//! The host copy and the device copy of a buffer: which ranges are dirty, and copying them.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dotcompute_core::memory::{DeviceMemory, DirtyRanges, MemoryError};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::prelude::*;

use super::buffer_memory::{DeviceBytes, DeviceCopy, HostBytes, HostCopy};
use super::device::Device;
use super::errors::{BufferNotAllocatedError, memory_error};
use super::pool::DevicePool;

/// Which copy was modified since they were last equal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Nothing was marked; the state follows from which copies exist.
    Unknown,
    /// The copies are equal.
    Equal,
    HostDirty,
    DeviceDirty,
}

/// Number of copies, and bytes copied.
#[derive(Clone, Copy, Default)]
struct Transfers {
    count: u64,
    bytes: u64,
}

impl Transfers {
    fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes as u64;
    }
}

struct Copies {
    host: Option<Arc<HostBytes>>,
    device: Option<Arc<DeviceBytes>>,
    level: Level,
    /// Dirty ranges of the copy that `level` names.
    dirty: DirtyRanges,
    to_device: Transfers,
    to_host: Transfers,
    freed: bool,
}

impl Copies {
    /// Marks these bytes of one copy as dirty.
    fn mark(&mut self, level: Level, bytes: Range<usize>, len: usize) {
        let both = self.host.is_some() && self.device.is_some();
        // A copy created later receives all bytes. If both copies are marked dirty, the one marked last is dirty as a whole.
        let only_range =
            both && (self.level == level || !matches!(self.level, Level::HostDirty | Level::DeviceDirty));
        if self.level != level {
            self.dirty = DirtyRanges::default();
        }
        self.dirty.insert(if only_range { bytes } else { 0..len });
        self.level = level;
    }

    /// Sets the level and clears the dirty ranges.
    fn set_level(&mut self, level: Level) {
        self.dirty = DirtyRanges::default();
        self.level = level;
    }

    fn state(&self) -> &'static str {
        match (self.level, &self.host, &self.device) {
            (_, None, None) => "UNINITIALIZED",
            (Level::HostDirty, ..) => "HOST_DIRTY",
            (Level::DeviceDirty, ..) => "DEVICE_DIRTY",
            (Level::Equal, ..) | (_, Some(_), Some(_)) => "SYNCHRONIZED",
            (_, Some(_), None) => "HOST_ONLY",
            (_, None, Some(_)) => "DEVICE_ONLY",
        }
    }
}

/// The memory of one buffer: a host copy, a device copy, or both.
///
/// If the host accesses the memory of the device directly, as on the `cpu` device, there is only one copy. The state changes as if there
/// were two, so that tests on the CPU detect a program that does not mark its writes.
#[pyclass(frozen, module = "pydotcompute._core")]
pub struct BufferCopies {
    bytes: usize,
    pinned: bool,
    pooled: bool,
    /// Whether the host accesses the memory of the device directly.
    shared: bool,
    memory: Arc<dyn DeviceMemory>,
    copies: Mutex<Copies>,
}

impl BufferCopies {
    fn lock(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `f` with the copies, detached from the interpreter.
    fn with_copies<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut Copies) -> Result<T, MemoryError> + Send,
    ) -> PyResult<T> {
        let result = py.detach(|| {
            let mut copies = self.lock();
            if copies.freed { None } else { Some(f(&mut copies)) }
        });
        result.ok_or_else(|| BufferNotAllocatedError::new_err(()))?.map_err(memory_error)
    }

    fn new_host(&self) -> Result<Arc<HostBytes>, MemoryError> {
        let (memory, len) = (&*self.memory, self.bytes);
        if self.pinned {
            return HostBytes::page_locked(memory, len, self.pooled).map(Arc::new);
        }
        if self.shared
            && let Some(bytes) = HostBytes::of_device(memory, len, self.pooled)?
        {
            return Ok(Arc::new(bytes));
        }
        HostBytes::pageable(len).map(Arc::new)
    }

    /// Returns the host copy. Creates it if there is none.
    fn host_or_create(&self, copies: &mut Copies) -> Result<Arc<HostBytes>, MemoryError> {
        if let Some(host) = &copies.host {
            return Ok(Arc::clone(host));
        }
        let host = self.new_host()?;
        copies.host = Some(Arc::clone(&host));
        if copies.device.is_some() {
            copies.set_level(Level::Unknown);
            copies.mark(Level::DeviceDirty, 0..self.bytes, self.bytes);
        }
        Ok(host)
    }

    /// Brings the host copy up to date.
    fn sync_host(&self, copies: &mut Copies) -> Result<(), MemoryError> {
        let host = self.host_or_create(copies)?;
        if copies.level != Level::DeviceDirty {
            return Ok(());
        }
        let Some(device) = &copies.device else {
            copies.set_level(if self.shared { Level::Equal } else { Level::Unknown });
            return Ok(());
        };
        if !host.is_writable() {
            return Err(self.copy_refused(
                "the host copy is read-only memory of another library; create the buffer with from_dlpack(array, copy=True)",
            ));
        }
        // SAFETY: the memory is writable (checked above). The documentation of buffers requires callers not to access a buffer while it is
        // synchronized, so no other thread does.
        let bytes = unsafe { host.as_mut_slice() };
        while let Some(range) = copies.dirty.as_slice().last().cloned() {
            device.with(|block| block.read(range.start, &mut bytes[range.clone()]))?;
            copies.to_host.add(range.len());
            copies.dirty.remove(range);
        }
        copies.set_level(Level::Equal);
        Ok(())
    }

    /// Brings the device copy up to date. Does nothing if the host accesses the memory of the device directly.
    fn sync_device(&self, copies: &mut Copies) -> Result<(), MemoryError> {
        if self.shared {
            if copies.level == Level::HostDirty {
                copies.set_level(Level::Equal);
            }
            return Ok(());
        }
        if copies.device.is_none() {
            let device = DeviceBytes::new(&*self.memory, self.bytes)?;
            if copies.host.is_none() {
                device.with(|block| block.zero())?;
            }
            copies.device = Some(Arc::new(device));
            if copies.host.is_some() {
                copies.set_level(Level::Unknown);
                copies.mark(Level::HostDirty, 0..self.bytes, self.bytes);
            }
        }
        if copies.level != Level::HostDirty {
            return Ok(());
        }
        let (Some(host), Some(device)) = (&copies.host, &copies.device) else {
            copies.set_level(Level::Unknown);
            return Ok(());
        };
        // SAFETY: the documentation of buffers requires callers not to write to a buffer while it is synchronized, so no other thread does.
        let bytes = unsafe { host.as_slice() };
        while let Some(range) = copies.dirty.as_slice().last().cloned() {
            device.with(|block| block.write(range.start, &bytes[range.clone()]))?;
            copies.to_device.add(range.len());
            copies.dirty.remove(range);
        }
        copies.set_level(Level::Equal);
        Ok(())
    }

    fn copy_refused(&self, problem: &str) -> MemoryError {
        let doing = format!("copying {} bytes to the host", self.bytes);
        MemoryError::Device { device: self.memory.device(), doing, problem: problem.to_owned() }
    }
}

#[pymethods]
impl BufferCopies {
    /// Creates a buffer without memory. Copies are allocated from `pool`, or from `device` without one.
    #[new]
    #[pyo3(signature = (device, bytes, pinned, pool))]
    fn new(
        py: Python<'_>,
        device: &Device,
        bytes: usize,
        pinned: bool,
        pool: Option<&DevicePool>,
    ) -> PyResult<Self> {
        let memory = match pool {
            Some(pool) => pool.memory(),
            None => device.memory(py)?,
        };
        let copies = Copies {
            host: None,
            device: None,
            level: Level::Unknown,
            dirty: DirtyRanges::default(),
            to_device: Transfers::default(),
            to_host: Transfers::default(),
            freed: false,
        };
        let (pooled, shared) = (pool.is_some(), device.is_host());
        Ok(Self { bytes, pinned, pooled, shared, memory, copies: Mutex::new(copies) })
    }

    /// Name of the `BufferState`.
    #[getter]
    fn state(&self, py: Python<'_>) -> &'static str {
        py.detach(|| self.lock().state())
    }

    /// Whether the host accesses the memory of the device directly, so that there is only one copy.
    #[getter]
    fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether there is a separate device copy.
    #[getter]
    fn has_device(&self, py: Python<'_>) -> bool {
        py.detach(|| self.lock().device.is_some())
    }

    /// Transfers to the device and to the host: for each, the number of copies and the bytes.
    #[getter]
    fn transfers(&self, py: Python<'_>) -> ((u64, u64), (u64, u64)) {
        let (device, host) = py.detach(|| {
            let copies = self.lock();
            (copies.to_device, copies.to_host)
        });
        ((device.count, device.bytes), (host.count, host.bytes))
    }

    /// Creates the requested copies that do not exist. The first copy is zeroed; the second gets the bytes of the first.
    ///
    /// Args:
    ///     host: Whether to create the host copy.
    ///     device: Whether to create the device copy.
    ///
    /// Raises:
    ///     MemoryError: There is not enough memory.
    ///     BufferNotAllocatedError: The buffer was freed.
    fn allocate(&self, py: Python<'_>, host: bool, device: bool) -> PyResult<()> {
        self.with_copies(py, |copies| {
            if host && device && !self.shared && copies.host.is_none() && copies.device.is_none() {
                // Both copies are zeroed, so there is nothing to transfer.
                self.sync_device(copies)?;
                self.host_or_create(copies)?;
                copies.set_level(Level::Equal);
            }
            if device && !self.shared {
                self.sync_device(copies)?;
            }
            if host || self.shared {
                self.sync_host(copies)?;
            }
            Ok(())
        })
    }

    /// Uses memory of another library as the host copy, without copying it.
    ///
    /// Args:
    ///     buffer: An object with the buffer protocol and the size of this buffer.
    ///
    /// Raises:
    ///     BufferError: The memory is not contiguous.
    ///     ValueError: The size differs.
    fn adopt(&self, py: Python<'_>, buffer: PyBuffer<u8>) -> PyResult<()> {
        let Some(bytes) = HostBytes::foreign(buffer) else {
            return Err(PyBufferError::new_err("adopting memory: it is not contiguous; copy it first"));
        };
        if bytes.len() != self.bytes {
            let problem = format!("adopting memory: expected {} bytes, got {}", self.bytes, bytes.len());
            return Err(PyValueError::new_err(problem));
        }
        let bytes = Arc::new(bytes);
        let replaced = py.detach(|| {
            let mut copies = self.lock();
            copies.set_level(Level::Unknown);
            (copies.device.take(), copies.host.replace(bytes))
        });
        drop(replaced);
        Ok(())
    }

    /// Brings the host copy up to date and returns it.
    fn host(&self, py: Python<'_>) -> PyResult<HostCopy> {
        let up_to_date = |copies: &mut Copies| {
            self.sync_host(copies)?;
            self.host_or_create(copies)
        };
        self.with_copies(py, up_to_date).map(HostCopy)
    }

    /// Returns the host copy without updating it, to be overwritten. Marks all of it as dirty.
    fn overwrite_host(&self, py: Python<'_>) -> PyResult<HostCopy> {
        let overwritten = |copies: &mut Copies| {
            let host = self.host_or_create(copies)?;
            copies.mark(Level::HostDirty, 0..self.bytes, self.bytes);
            Ok(host)
        };
        self.with_copies(py, overwritten).map(HostCopy)
    }

    /// Brings the device copy up to date and returns it. None if the host accesses the memory of the device directly.
    fn device(&self, py: Python<'_>) -> PyResult<Option<DeviceCopy>> {
        let up_to_date = |copies: &mut Copies| {
            self.sync_device(copies)?;
            Ok(copies.device.clone())
        };
        Ok(self.with_copies(py, up_to_date)?.map(DeviceCopy))
    }

    /// Marks bytes ``start`` to ``stop`` (exclusive) of the host copy as dirty.
    fn mark_host_dirty(&self, py: Python<'_>, start: usize, stop: usize) {
        py.detach(|| self.lock().mark(Level::HostDirty, start..stop.min(self.bytes), self.bytes));
    }

    /// Marks bytes ``start`` to ``stop`` (exclusive) of the device copy as dirty.
    fn mark_device_dirty(&self, py: Python<'_>, start: usize, stop: usize) {
        py.detach(|| self.lock().mark(Level::DeviceDirty, start..stop.min(self.bytes), self.bytes));
    }

    /// Brings the stale copy up to date.
    fn synchronize(&self, py: Python<'_>) -> PyResult<()> {
        self.with_copies(py, |copies| match copies.level {
            Level::HostDirty => self.sync_device(copies),
            Level::DeviceDirty => self.sync_host(copies),
            Level::Equal | Level::Unknown => Ok(()),
        })
    }

    /// Frees both copies. Later accesses raise BufferNotAllocatedError. Memory that other Python objects refer to stays allocated.
    fn free(&self, py: Python<'_>) {
        let freed = py.detach(|| {
            let mut copies = self.lock();
            copies.freed = true;
            (copies.host.take(), copies.device.take())
        });
        drop(freed);
    }
}
