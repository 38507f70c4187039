//! The two halves of a buffer: which is newer, and copying.

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

/// What was said of the halves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Nothing, so that it is as the halves are.
    Unsaid,
    /// They are equal.
    Even,
    HostDirty,
    DeviceDirty,
}

/// How often and how much was copied.
#[derive(Clone, Copy, Default)]
struct Transfers {
    times: u64,
    bytes: u64,
}

impl Transfers {
    fn count(&mut self, bytes: usize) {
        self.times += 1;
        self.bytes += bytes as u64;
    }
}

struct Halves {
    host: Option<Arc<HostBytes>>,
    device: Option<Arc<DeviceBytes>>,
    level: Level,
    /// The bytes that are newer on the side that `level` says.
    dirty: DirtyRanges,
    to_device: Transfers,
    to_host: Transfers,
    freed: bool,
}

impl Halves {
    /// Notes that these bytes are newer on one side.
    fn mark(&mut self, level: Level, bytes: Range<usize>, all: usize) {
        let both = self.host.is_some() && self.device.is_some();
        // A half that is made later gets everything. Of two sides that are both said to be newer, the last one is, as a whole.
        let alone =
            both && (self.level == level || !matches!(self.level, Level::HostDirty | Level::DeviceDirty));
        if self.level != level {
            self.dirty = DirtyRanges::default();
        }
        self.dirty.insert(if alone { bytes } else { 0..all });
        self.level = level;
    }

    /// Notes that there is nothing to copy.
    fn settle(&mut self, level: Level) {
        self.dirty = DirtyRanges::default();
        self.level = level;
    }

    fn state(&self) -> &'static str {
        match (self.level, &self.host, &self.device) {
            (_, None, None) => "UNINITIALIZED",
            (Level::HostDirty, ..) => "HOST_DIRTY",
            (Level::DeviceDirty, ..) => "DEVICE_DIRTY",
            (Level::Even, ..) | (_, Some(_), Some(_)) => "SYNCHRONIZED",
            (_, Some(_), None) => "HOST_ONLY",
            (_, None, Some(_)) => "DEVICE_ONLY",
        }
    }
}

/// The memory of one buffer: bytes on the host, on a device, or on both.
///
/// Where the device's memory is the host's, as on the `cpu` device, there is one half only; states go on as if there were two, so that a
/// program that forgets to mark what it wrote can be found out there.
#[pyclass(frozen, module = "pydotcompute._core")]
pub struct BufferCopies {
    bytes: usize,
    pinned: bool,
    pooled: bool,
    /// Whether the device's memory is the host's.
    shared: bool,
    memory: Arc<dyn DeviceMemory>,
    halves: Mutex<Halves>,
}

impl BufferCopies {
    fn lock(&self) -> MutexGuard<'_, Halves> {
        self.halves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the halves, while other threads of Python go on.
    fn act<T: Send>(
        &self,
        py: Python<'_>,
        act: impl FnOnce(&mut Halves) -> Result<T, MemoryError> + Send,
    ) -> PyResult<T> {
        let acted = py.detach(|| {
            let mut halves = self.lock();
            if halves.freed { None } else { Some(act(&mut halves)) }
        });
        acted.ok_or_else(|| BufferNotAllocatedError::new_err(()))?.map_err(memory_error)
    }

    fn new_host(&self) -> Result<Arc<HostBytes>, MemoryError> {
        let (memory, len) = (&*self.memory, self.bytes);
        if self.pinned {
            return HostBytes::locked(memory, len, self.pooled).map(Arc::new);
        }
        if self.shared
            && let Some(bytes) = HostBytes::of_device(memory, len, self.pooled)?
        {
            return Ok(Arc::new(bytes));
        }
        HostBytes::ordinary(len).map(Arc::new)
    }

    /// The host's half, which is made if there is none.
    fn host_of(&self, halves: &mut Halves) -> Result<Arc<HostBytes>, MemoryError> {
        if let Some(host) = &halves.host {
            return Ok(Arc::clone(host));
        }
        let host = self.new_host()?;
        halves.host = Some(Arc::clone(&host));
        if halves.device.is_some() {
            halves.settle(Level::Unsaid);
            halves.mark(Level::DeviceDirty, 0..self.bytes, self.bytes);
        }
        Ok(host)
    }

    /// The host's half, up to date.
    fn current_host(&self, halves: &mut Halves) -> Result<(), MemoryError> {
        let host = self.host_of(halves)?;
        if halves.level != Level::DeviceDirty {
            return Ok(());
        }
        let Some(device) = &halves.device else {
            halves.settle(if self.shared { Level::Even } else { Level::Unsaid });
            return Ok(());
        };
        if !host.is_writable() {
            return Err(self.refused(
                "the host's half is read-only memory of another library; make the buffer with from_dlpack(array, copy=True)",
            ));
        }
        // SAFETY: it is writable; who writes to or reads a buffer while it is brought up to date races with that, as is documented.
        let bytes = unsafe { host.as_mut_slice() };
        while let Some(range) = halves.dirty.as_slice().last().cloned() {
            device.with(|block| block.read(range.start, &mut bytes[range.clone()]))?;
            halves.to_host.count(range.len());
            halves.dirty.remove(range);
        }
        halves.settle(Level::Even);
        Ok(())
    }

    /// The device's half, up to date. Nothing to do where it is the host's.
    fn current_device(&self, halves: &mut Halves) -> Result<(), MemoryError> {
        if self.shared {
            if halves.level == Level::HostDirty {
                halves.settle(Level::Even);
            }
            return Ok(());
        }
        if halves.device.is_none() {
            let device = DeviceBytes::new(&*self.memory, self.bytes)?;
            if halves.host.is_none() {
                device.with(|block| block.zero())?;
            }
            halves.device = Some(Arc::new(device));
            if halves.host.is_some() {
                halves.settle(Level::Unsaid);
                halves.mark(Level::HostDirty, 0..self.bytes, self.bytes);
            }
        }
        if halves.level != Level::HostDirty {
            return Ok(());
        }
        let (Some(host), Some(device)) = (&halves.host, &halves.device) else {
            halves.settle(Level::Unsaid);
            return Ok(());
        };
        // SAFETY: who writes to a buffer while it is brought up to date races with that, as is documented.
        let bytes = unsafe { host.as_slice() };
        while let Some(range) = halves.dirty.as_slice().last().cloned() {
            device.with(|block| block.write(range.start, &bytes[range.clone()]))?;
            halves.to_device.count(range.len());
            halves.dirty.remove(range);
        }
        halves.settle(Level::Even);
        Ok(())
    }

    fn refused(&self, problem: &str) -> MemoryError {
        let doing = format!("copying {} bytes to the host", self.bytes);
        MemoryError::Device { device: self.memory.device(), doing, problem: problem.to_owned() }
    }
}

#[pymethods]
impl BufferCopies {
    /// Halves of so many bytes, which take no memory yet; from `pool`, or from `device` itself.
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
        let halves = Halves {
            host: None,
            device: None,
            level: Level::Unsaid,
            dirty: DirtyRanges::default(),
            to_device: Transfers::default(),
            to_host: Transfers::default(),
            freed: false,
        };
        let (pooled, shared) = (pool.is_some(), device.is_host());
        Ok(Self { bytes, pinned, pooled, shared, memory, halves: Mutex::new(halves) })
    }

    /// The name of the state.
    #[getter]
    fn state(&self, py: Python<'_>) -> &'static str {
        py.detach(|| self.lock().state())
    }

    /// Whether the device's memory is the host's, so that there is one half only.
    #[getter]
    fn is_shared(&self) -> bool {
        self.shared
    }

    /// Whether there is a half on a device that is not the host's.
    #[getter]
    fn has_device(&self, py: Python<'_>) -> bool {
        py.detach(|| self.lock().device.is_some())
    }

    /// What was copied to the device, and to the host: how often, and how many bytes.
    #[getter]
    fn transfers(&self, py: Python<'_>) -> ((u64, u64), (u64, u64)) {
        let (device, host) = py.detach(|| {
            let halves = self.lock();
            (halves.to_device, halves.to_host)
        });
        ((device.times, device.bytes), (host.times, host.bytes))
    }

    /// Makes the halves that are asked for and are not there. New ones are zeros; one that joins another gets its bytes.
    fn allocate(&self, py: Python<'_>, host: bool, device: bool) -> PyResult<()> {
        self.act(py, |halves| {
            if host && device && !self.shared && halves.host.is_none() && halves.device.is_none() {
                // Zeros on both sides: there is nothing to copy.
                self.current_device(halves)?;
                self.host_of(halves)?;
                halves.settle(Level::Even);
            }
            if device && !self.shared {
                self.current_device(halves)?;
            }
            if host || self.shared {
                self.current_host(halves)?;
            }
            Ok(())
        })
    }

    /// Takes the bytes of another library as the host's half, without copying them.
    fn adopt(&self, py: Python<'_>, buffer: PyBuffer<u8>) -> PyResult<()> {
        let Some(bytes) = HostBytes::foreign(buffer) else {
            return Err(PyBufferError::new_err("its bytes are not in one piece; copy it first"));
        };
        if bytes.len() != self.bytes {
            let problem = format!("{} bytes were given for a buffer of {}", bytes.len(), self.bytes);
            return Err(PyValueError::new_err(problem));
        }
        let bytes = Arc::new(bytes);
        let before = py.detach(|| {
            let mut halves = self.lock();
            halves.settle(Level::Unsaid);
            (halves.device.take(), halves.host.replace(bytes))
        });
        drop(before);
        Ok(())
    }

    /// The host's half, up to date.
    fn host(&self, py: Python<'_>) -> PyResult<HostCopy> {
        let current = |halves: &mut Halves| {
            self.current_host(halves)?;
            self.host_of(halves)
        };
        self.act(py, current).map(HostCopy)
    }

    /// The host's half as it is, to be overwritten: all of it counts as newer than the device's.
    fn overwrite_host(&self, py: Python<'_>) -> PyResult<HostCopy> {
        let overwritten = |halves: &mut Halves| {
            let host = self.host_of(halves)?;
            halves.mark(Level::HostDirty, 0..self.bytes, self.bytes);
            Ok(host)
        };
        self.act(py, overwritten).map(HostCopy)
    }

    /// The device's half, up to date; none where that is the host's.
    fn device(&self, py: Python<'_>) -> PyResult<Option<DeviceCopy>> {
        let current = |halves: &mut Halves| {
            self.current_device(halves)?;
            Ok(halves.device.clone())
        };
        Ok(self.act(py, current)?.map(DeviceCopy))
    }

    /// Notes that the host's half is newer, from byte `start` to before byte `stop`.
    fn mark_host_dirty(&self, py: Python<'_>, start: usize, stop: usize) {
        py.detach(|| self.lock().mark(Level::HostDirty, start..stop.min(self.bytes), self.bytes));
    }

    /// Notes that the device's half is newer, from byte `start` to before byte `stop`.
    fn mark_device_dirty(&self, py: Python<'_>, start: usize, stop: usize) {
        py.detach(|| self.lock().mark(Level::DeviceDirty, start..stop.min(self.bytes), self.bytes));
    }

    /// Brings the half that is behind up to date.
    fn synchronize(&self, py: Python<'_>) -> PyResult<()> {
        self.act(py, |halves| match halves.level {
            Level::HostDirty => self.current_device(halves),
            Level::DeviceDirty => self.current_host(halves),
            Level::Even | Level::Unsaid => Ok(()),
        })
    }

    /// Lets go of both halves, for good: whoever asks for one after this is refused. What others still look at lives as long as they do.
    fn free(&self, py: Python<'_>) {
        let halves = py.detach(|| {
            let mut halves = self.lock();
            halves.freed = true;
            (halves.host.take(), halves.device.take())
        });
        drop(halves);
    }
}
