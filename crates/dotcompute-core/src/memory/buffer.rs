//! One array, on the host and on a device.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::error::{check_range, range_of};
use super::host_copy::HostHalf;
use super::{
    ALIGN, DeviceBlock, DeviceId, DeviceMemory, DeviceSlice, DeviceSliceMut, DirtyRanges, MemoryError,
    pod_cast,
};
use crate::message::record::Plain;

/// Which halves of a buffer there are, and which is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BufferState {
    /// Neither: nobody has looked yet. Whoever looks first finds zeros.
    Uninitialized,
    /// Only that of the host.
    HostOnly,
    /// Only that of the device.
    DeviceOnly,
    /// Both, and they are equal.
    Synchronized,
    /// Both, and the host's has ranges that are newer.
    HostDirty,
    /// Both, and the device's has ranges that are newer.
    DeviceDirty,
}

/// What a buffer has copied between its halves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Transfers {
    /// Copies to the device.
    pub to_device: u64,
    /// Bytes of them.
    pub to_device_bytes: u64,
    /// Copies to the host.
    pub to_host: u64,
    /// Bytes of them.
    pub to_host_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Host,
    Device,
}

/// One array with two halves, one on the host and one on a device.
///
/// - A half is allocated when somebody first looks at it, and what has changed on the other side is copied when somebody looks. To
///   borrow a half to write marks it, the whole of it or the range that was asked for, as newer: that cannot be forgotten.
/// - **There is no uninitialised memory to be read**: a buffer that nobody has written is zeros, on either side.
/// - Only changed ranges are copied. Up to [`MAX_DIRTY_RANGES`](super::MAX_DIRTY_RANGES) of them are kept apart.
/// - After an error nothing is lost: what could not be copied is still marked, and the next look tries again.
///
/// All borrows are of the buffer, so that no half is looked at while the other is written. Looking takes `&mut self`, since it may copy;
/// [`peek_host`](Self::peek_host) looks through a shared borrow at a half that needs no copy.
///
/// See the [module](super) for an example.
pub struct UnifiedBuffer<T: Plain> {
    memory: Arc<dyn DeviceMemory>,
    len: usize,
    /// Whether the host's half is to be page-locked.
    locked: bool,
    host: Option<HostHalf<T>>,
    device: Option<Box<dyn DeviceBlock>>,
    /// The side that `dirty` is newer on. Only that of two halves can be.
    newer: Side,
    dirty: DirtyRanges,
    transfers: Transfers,
}

impl<T: Plain> UnifiedBuffer<T> {
    /// A buffer of `len` zeros, which takes no memory yet.
    ///
    /// # Errors
    ///
    /// [`MemoryError::TooLarge`] if it could not be addressed.
    pub fn new(memory: Arc<dyn DeviceMemory>, len: usize) -> Result<Self, MemoryError> {
        const {
            assert!(align_of::<T>() <= ALIGN, "elements of a buffer are aligned to 256 bytes at most");
            assert!(size_of::<T>() > 0, "elements of a buffer have a size");
        }
        let too_large = MemoryError::TooLarge { elements: len, element_bytes: size_of::<T>() };
        len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize).ok_or(too_large)?;
        let (newer, dirty, transfers) = (Side::Host, DirtyRanges::default(), Transfers::default());
        Ok(Self { memory, len, locked: false, host: None, device: None, newer, dirty, transfers })
    }

    /// As [`new`](Self::new), with a host's half that the device can copy by itself, where the device gains by that: faster, but there
    /// is less of such memory, and to get it takes long. Use a [`MemoryPool`](super::MemoryPool) for many.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn page_locked(memory: Arc<dyn DeviceMemory>, len: usize) -> Result<Self, MemoryError> {
        Ok(Self { locked: true, ..Self::new(memory, len)? })
    }

    /// A buffer whose host's half is this vector. Nothing is copied.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn from_vec(memory: Arc<dyn DeviceMemory>, elements: Vec<T>) -> Result<Self, MemoryError> {
        let buffer = Self::new(memory, elements.len())?;
        Ok(Self { host: Some(HostHalf::Vec(elements)), ..buffer })
    }

    /// A buffer with these elements, on the host.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoHostMemory`].
    pub fn from_slice(memory: Arc<dyn DeviceMemory>, elements: &[T]) -> Result<Self, MemoryError> {
        let mut buffer = Self::new(memory, elements.len())?;
        buffer.host_mut()?.copy_from_slice(elements);
        Ok(buffer)
    }

    /// How many elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many bytes each half has.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// The device that its other half is on.
    #[must_use]
    pub fn device_id(&self) -> DeviceId {
        self.memory.device()
    }

    /// Whether it has a host's half that is page-locked.
    #[must_use]
    pub fn is_page_locked(&self) -> bool {
        self.host.as_ref().is_some_and(HostHalf::is_locked)
    }

    /// Which halves there are, and which is newer.
    #[must_use]
    pub fn state(&self) -> BufferState {
        match (&self.host, &self.device) {
            (None, None) => BufferState::Uninitialized,
            (Some(_), None) => BufferState::HostOnly,
            (None, Some(_)) => BufferState::DeviceOnly,
            (Some(_), Some(_)) if self.dirty.is_empty() => BufferState::Synchronized,
            (Some(_), Some(_)) => match self.newer {
                Side::Host => BufferState::HostDirty,
                Side::Device => BufferState::DeviceDirty,
            },
        }
    }

    /// Which elements are newer on one side than on the other.
    #[must_use]
    pub fn dirty(&self) -> &DirtyRanges {
        &self.dirty
    }

    /// What it has copied so far.
    #[must_use]
    pub fn transfers(&self) -> Transfers {
        self.transfers
    }

    /// The elements, on the host.
    ///
    /// # Errors
    ///
    /// [`MemoryError`], if there is no memory for them or they could not be copied.
    pub fn host(&mut self) -> Result<&[T], MemoryError> {
        Ok(self.current_host()?.elements())
    }

    /// The elements on the host, if the host's half is there and nothing on the device is newer.
    #[must_use]
    pub fn peek_host(&self) -> Option<&[T]> {
        if self.state() == BufferState::DeviceDirty {
            None
        } else {
            self.host.as_ref().map(HostHalf::elements)
        }
    }

    /// The elements on the host, to write. All of them count as newer than the device's from now on.
    ///
    /// # Errors
    ///
    /// As for [`host`](Self::host).
    pub fn host_mut(&mut self) -> Result<&mut [T], MemoryError> {
        self.host_range_mut(0..self.len)
    }

    /// A range of the elements on the host, to write. They count as newer than the device's from now on.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`], or as for [`host`](Self::host).
    pub fn host_range_mut(&mut self, range: Range<usize>) -> Result<&mut [T], MemoryError> {
        check_range(&range, self.len)?;
        self.current_host()?;
        self.mark(Side::Host, range.clone());
        Ok(&mut self.current_host()?.elements_mut()[range])
    }

    /// Overwrites elements on the host, from the one at `at` on. Of those, what was newer on the device is not copied before.
    ///
    /// # Errors
    ///
    /// As for [`host_range_mut`](Self::host_range_mut).
    pub fn write(&mut self, at: usize, elements: &[T]) -> Result<(), MemoryError> {
        let range = range_of(at, elements.len(), self.len)?;
        self.current_host_but(range.clone())?;
        if self.newer == Side::Device {
            // What is left are elements that are overwritten now.
            self.dirty = DirtyRanges::default();
        }
        self.mark(Side::Host, range.clone());
        self.current_host()?.elements_mut()[range].copy_from_slice(elements);
        Ok(())
    }

    /// The elements, on the device.
    ///
    /// # Errors
    ///
    /// As for [`host`](Self::host).
    pub fn device(&mut self) -> Result<DeviceSlice<'_, T>, MemoryError> {
        let len = self.len;
        Ok(DeviceSlice::new(&**self.current_device()?, len))
    }

    /// The elements on the device, to write. All of them count as newer than the host's from now on.
    ///
    /// # Errors
    ///
    /// As for [`host`](Self::host).
    pub fn device_mut(&mut self) -> Result<DeviceSliceMut<'_, T>, MemoryError> {
        self.device_range_mut(0..self.len)
    }

    /// A range of the elements on the device, to write. They count as newer than the host's from now on.
    ///
    /// # Errors
    ///
    /// As for [`host_range_mut`](Self::host_range_mut).
    pub fn device_range_mut(&mut self, range: Range<usize>) -> Result<DeviceSliceMut<'_, T>, MemoryError> {
        check_range(&range, self.len)?;
        self.current_device()?;
        self.mark(Side::Device, range.clone());
        let block = &mut **self.current_device()?;
        Ok(DeviceSliceMut::new(block, range.start, range.len()))
    }

    /// Brings the half that is behind up to date, if there are two.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Device`] if they could not be copied.
    pub fn synchronize(&mut self) -> Result<(), MemoryError> {
        match self.state() {
            BufferState::HostDirty => self.current_device().map(drop),
            BufferState::DeviceDirty => self.current_host().map(drop),
            _ => Ok(()),
        }
    }

    /// Gives the device's half back, after what is newer there has been copied to the host.
    ///
    /// # Errors
    ///
    /// As for [`host`](Self::host); the device's half stays then.
    pub fn release_device(&mut self) -> Result<(), MemoryError> {
        if self.device.is_some() {
            self.current_host()?;
            self.device = None;
            self.dirty = DirtyRanges::default();
        }
        Ok(())
    }

    /// Gives the host's half back, after what is newer there has been copied to the device.
    ///
    /// # Errors
    ///
    /// As for [`device`](Self::device); the host's half stays then.
    pub fn release_host(&mut self) -> Result<(), MemoryError> {
        if self.host.is_some() {
            self.current_device()?;
            self.host = None;
            self.dirty = DirtyRanges::default();
        }
        Ok(())
    }

    /// Notes that a range is newer on one side, whose half is up to date otherwise. With one half only there is nothing to note.
    fn mark(&mut self, side: Side, range: Range<usize>) {
        if self.host.is_some() && self.device.is_some() {
            debug_assert!(self.newer == side || self.dirty.is_empty(), "only one side can be newer");
            self.newer = side;
            self.dirty.insert(range);
        }
    }

    /// The host's half, up to date.
    fn current_host(&mut self) -> Result<&mut HostHalf<T>, MemoryError> {
        self.current_host_but(0..0)
    }

    /// The host's half, up to date but for a range, of which what is newer on the device stays marked.
    fn current_host_but(&mut self, but: Range<usize>) -> Result<&mut HostHalf<T>, MemoryError> {
        let half = match self.host.take() {
            Some(half) => half,
            None => {
                let half = HostHalf::zeroed(&*self.memory, self.bytes(), self.locked)?;
                if self.device.is_some() {
                    self.newer = Side::Device;
                    self.dirty.insert(0..self.len);
                }
                half
            }
        };
        let host = self.host.insert(half);
        if self.newer == Side::Device
            && let Some(device) = &self.device
            && !self.dirty.is_empty()
        {
            let mut wanted = self.dirty.clone();
            wanted.remove(but);
            while let Some(range) = wanted.pop() {
                let to = pod_cast::bytes_mut(&mut host.elements_mut()[range.clone()]);
                device.read(range.start * size_of::<T>(), to)?;
                self.transfers.to_host += 1;
                self.transfers.to_host_bytes += to.len() as u64;
                self.dirty.remove(range);
            }
        }
        Ok(host)
    }

    /// The device's half, up to date.
    fn current_device(&mut self) -> Result<&mut Box<dyn DeviceBlock>, MemoryError> {
        let block = match self.device.take() {
            Some(block) => block,
            None => {
                let mut block = self.memory.allocate(self.bytes())?;
                if self.host.is_some() {
                    self.newer = Side::Host;
                    self.dirty.insert(0..self.len);
                } else {
                    block.zero()?;
                }
                block
            }
        };
        let device = self.device.insert(block);
        if self.newer == Side::Host
            && let Some(host) = &self.host
        {
            while let Some(range) = self.dirty.as_slice().last().cloned() {
                let from = pod_cast::bytes(&host.elements()[range.clone()]);
                device.write(range.start * size_of::<T>(), from)?;
                self.transfers.to_device += 1;
                self.transfers.to_device_bytes += from.len() as u64;
                self.dirty.remove(range);
            }
        }
        Ok(device)
    }
}

impl<T: Plain> fmt::Debug for UnifiedBuffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnifiedBuffer")
            .field("elements", &format_args!("{} of {}", self.len, std::any::type_name::<T>()))
            .field("device", &self.device_id())
            .field("state", &self.state())
            .field("dirty", &self.dirty)
            .field("transfers", &self.transfers)
            .finish_non_exhaustive()
    }
}
