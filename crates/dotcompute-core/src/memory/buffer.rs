//! One array with a host copy and a device copy.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::error::{check_range, range_of};
use super::host_copy::HostCopy;
use super::{
    ALIGN, DeviceBlock, DeviceId, DeviceMemory, DeviceSlice, DeviceSliceMut, DirtyRanges, MemoryError,
    pod_cast,
};
use crate::message::record::Plain;

/// Which copies of a buffer exist, and which has dirty ranges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BufferState {
    /// Neither copy exists; the first access finds zeros.
    Uninitialized,
    /// Only the host copy exists.
    HostOnly,
    /// Only the device copy exists.
    DeviceOnly,
    /// Both copies exist and are equal.
    Synchronized,
    /// Both copies exist; ranges written on the host are stale on the device.
    HostDirty,
    /// Both copies exist; ranges written on the device are stale on the host.
    DeviceDirty,
}

/// Total copies between the two sides of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Transfers {
    /// Number of copies to the device.
    pub to_device: u64,
    /// Bytes copied to the device.
    pub to_device_bytes: u64,
    /// Number of copies to the host.
    pub to_host: u64,
    /// Bytes copied to the host.
    pub to_host_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Host,
    Device,
}

/// One array with a host copy and a device copy.
///
/// - A copy is allocated by its first access. An access copies what has changed on the other side. A mutable borrow marks its range as
///   dirty, so a change cannot be missed.
/// - **No uninitialized memory can be read**: a buffer that has not been written is zeros on both sides.
/// - Only dirty ranges are copied, and at most [`MAX_DIRTY_RANGES`](super::MAX_DIRTY_RANGES) of them are tracked separately.
/// - An error loses nothing: ranges that could not be copied stay marked, and the next access copies them.
///
/// All accesses borrow the buffer, so one copy is never read while the other is written. An access takes `&mut self` because it may copy.
/// [`peek_host`](Self::peek_host) needs only `&self`, for a host copy that is up to date.
///
/// See the [module](super) for an example.
pub struct UnifiedBuffer<T: Plain> {
    memory: Arc<dyn DeviceMemory>,
    len: usize,
    /// Whether to page-lock the host copy.
    locked: bool,
    host: Option<HostCopy<T>>,
    device: Option<Box<dyn DeviceBlock>>,
    /// The side on which the ranges of `dirty` were written. The ranges are empty unless both copies exist.
    dirty_side: Side,
    dirty: DirtyRanges,
    transfers: Transfers,
}

impl<T: Plain> UnifiedBuffer<T> {
    /// Creates a buffer of `len` zeros. It allocates no memory yet.
    ///
    /// # Errors
    ///
    /// [`MemoryError::TooLarge`] if it cannot be addressed.
    pub fn new(memory: Arc<dyn DeviceMemory>, len: usize) -> Result<Self, MemoryError> {
        const {
            assert!(align_of::<T>() <= ALIGN, "the alignment of a buffer's elements is at most 256 bytes");
            assert!(size_of::<T>() > 0, "the size of a buffer's elements is not 0");
        }
        let too_large = MemoryError::TooLarge { elements: len, element_bytes: size_of::<T>() };
        len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize).ok_or(too_large)?;
        let (dirty_side, dirty, transfers) = (Side::Host, DirtyRanges::default(), Transfers::default());
        Ok(Self { memory, len, locked: false, host: None, device: None, dirty_side, dirty, transfers })
    }

    /// As [`new`](Self::new), with a page-locked host copy on devices that support it. Copies are faster, but page-locked memory is scarce
    /// and slow to allocate; use a [`MemoryPool`](super::MemoryPool) for many such buffers.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn page_locked(memory: Arc<dyn DeviceMemory>, len: usize) -> Result<Self, MemoryError> {
        Ok(Self { locked: true, ..Self::new(memory, len)? })
    }

    /// Creates a buffer whose host copy is `elements`. Nothing is copied.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn from_vec(memory: Arc<dyn DeviceMemory>, elements: Vec<T>) -> Result<Self, MemoryError> {
        let buffer = Self::new(memory, elements.len())?;
        Ok(Self { host: Some(HostCopy::Vec(elements)), ..buffer })
    }

    /// Creates a buffer and copies `elements` to its host copy.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoHostMemory`].
    pub fn from_slice(memory: Arc<dyn DeviceMemory>, elements: &[T]) -> Result<Self, MemoryError> {
        let mut buffer = Self::new(memory, elements.len())?;
        buffer.host_mut()?.copy_from_slice(elements);
        Ok(buffer)
    }

    /// Returns the number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there are no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the size of each copy in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// Returns the device of the device copy.
    #[must_use]
    pub fn device_id(&self) -> DeviceId {
        self.memory.device()
    }

    /// Returns whether there is a host copy and it is page-locked.
    #[must_use]
    pub fn is_page_locked(&self) -> bool {
        self.host.as_ref().is_some_and(HostCopy::is_locked)
    }

    /// Returns which copies exist, and which has dirty ranges.
    #[must_use]
    pub fn state(&self) -> BufferState {
        match (&self.host, &self.device) {
            (None, None) => BufferState::Uninitialized,
            (Some(_), None) => BufferState::HostOnly,
            (None, Some(_)) => BufferState::DeviceOnly,
            (Some(_), Some(_)) if self.dirty.is_empty() => BufferState::Synchronized,
            (Some(_), Some(_)) => match self.dirty_side {
                Side::Host => BufferState::HostDirty,
                Side::Device => BufferState::DeviceDirty,
            },
        }
    }

    /// Returns the ranges that were written on one side and are stale on the other.
    #[must_use]
    pub fn dirty(&self) -> &DirtyRanges {
        &self.dirty
    }

    /// Returns the total copies so far.
    #[must_use]
    pub fn transfers(&self) -> Transfers {
        self.transfers
    }

    /// Returns the elements on the host, up to date.
    ///
    /// # Errors
    ///
    /// [`MemoryError`] if the host copy could not be allocated, or dirty ranges could not be copied.
    pub fn host(&mut self) -> Result<&[T], MemoryError> {
        Ok(self.sync_host()?.elements())
    }

    /// Returns the elements on the host, if the host copy exists and is up to date.
    #[must_use]
    pub fn peek_host(&self) -> Option<&[T]> {
        if self.state() == BufferState::DeviceDirty {
            None
        } else {
            self.host.as_ref().map(HostCopy::elements)
        }
    }

    /// Returns the elements on the host for writing, and marks all of them dirty.
    ///
    /// # Errors
    ///
    /// As for [`host`](Self::host).
    pub fn host_mut(&mut self) -> Result<&mut [T], MemoryError> {
        self.host_range_mut(0..self.len)
    }

    /// Returns a range of the elements on the host for writing, and marks it dirty.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`], or as for [`host`](Self::host).
    pub fn host_range_mut(&mut self, range: Range<usize>) -> Result<&mut [T], MemoryError> {
        check_range(&range, self.len)?;
        self.sync_host()?;
        self.mark(Side::Host, range.clone());
        Ok(&mut self.sync_host()?.elements_mut()[range])
    }

    /// Overwrites elements on the host from index `at` on. Dirty elements of the device in that range are not copied to the host first.
    ///
    /// # Errors
    ///
    /// As for [`host_range_mut`](Self::host_range_mut).
    pub fn write(&mut self, at: usize, elements: &[T]) -> Result<(), MemoryError> {
        let range = range_of(at, elements.len(), self.len)?;
        self.sync_host_except(range.clone())?;
        if self.dirty_side == Side::Device {
            // The remaining dirty ranges lie within `range`, which is overwritten below.
            self.dirty = DirtyRanges::default();
        }
        self.mark(Side::Host, range.clone());
        self.sync_host()?.elements_mut()[range].copy_from_slice(elements);
        Ok(())
    }

    /// Returns the elements on the device, up to date.
    ///
    /// # Errors
    ///
    /// As for [`host`](Self::host).
    pub fn device(&mut self) -> Result<DeviceSlice<'_, T>, MemoryError> {
        let len = self.len;
        Ok(DeviceSlice::new(&**self.sync_device()?, len))
    }

    /// Returns the elements on the device for writing, and marks all of them dirty.
    ///
    /// # Errors
    ///
    /// As for [`host`](Self::host).
    pub fn device_mut(&mut self) -> Result<DeviceSliceMut<'_, T>, MemoryError> {
        self.device_range_mut(0..self.len)
    }

    /// Returns a range of the elements on the device for writing, and marks it dirty.
    ///
    /// # Errors
    ///
    /// As for [`host_range_mut`](Self::host_range_mut).
    pub fn device_range_mut(&mut self, range: Range<usize>) -> Result<DeviceSliceMut<'_, T>, MemoryError> {
        check_range(&range, self.len)?;
        self.sync_device()?;
        self.mark(Side::Device, range.clone());
        let block = &mut **self.sync_device()?;
        Ok(DeviceSliceMut::new(block, range.start, range.len()))
    }

    /// Copies dirty ranges to the stale copy, if both copies exist.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Device`] if they could not be copied.
    pub fn synchronize(&mut self) -> Result<(), MemoryError> {
        match self.state() {
            BufferState::HostDirty => self.sync_device().map(drop),
            BufferState::DeviceDirty => self.sync_host().map(drop),
            _ => Ok(()),
        }
    }

    /// Releases the device copy, after copying its dirty ranges to the host.
    ///
    /// # Errors
    ///
    /// As for [`host`](Self::host); the device copy remains then.
    pub fn release_device(&mut self) -> Result<(), MemoryError> {
        if self.device.is_some() {
            self.sync_host()?;
            self.device = None;
            self.dirty = DirtyRanges::default();
        }
        Ok(())
    }

    /// Releases the host copy, after copying its dirty ranges to the device.
    ///
    /// # Errors
    ///
    /// As for [`device`](Self::device); the host copy remains then.
    pub fn release_host(&mut self) -> Result<(), MemoryError> {
        if self.host.is_some() {
            self.sync_device()?;
            self.host = None;
            self.dirty = DirtyRanges::default();
        }
        Ok(())
    }

    /// Marks a range as dirty on a side that is up to date. Does nothing unless both copies exist.
    fn mark(&mut self, side: Side, range: Range<usize>) {
        if self.host.is_some() && self.device.is_some() {
            debug_assert!(self.dirty_side == side || self.dirty.is_empty(), "only one side can be dirty");
            self.dirty_side = side;
            self.dirty.insert(range);
        }
    }

    /// Returns the host copy, up to date.
    fn sync_host(&mut self) -> Result<&mut HostCopy<T>, MemoryError> {
        self.sync_host_except(0..0)
    }

    /// Returns the host copy, up to date except for `excluded`; dirty elements of the device stay marked there.
    fn sync_host_except(&mut self, excluded: Range<usize>) -> Result<&mut HostCopy<T>, MemoryError> {
        let copy = match self.host.take() {
            Some(copy) => copy,
            None => {
                let copy = HostCopy::zeroed(&*self.memory, self.bytes(), self.locked)?;
                if self.device.is_some() {
                    self.dirty_side = Side::Device;
                    self.dirty.insert(0..self.len);
                }
                copy
            }
        };
        let host = self.host.insert(copy);
        if self.dirty_side == Side::Device
            && let Some(device) = &self.device
            && !self.dirty.is_empty()
        {
            let mut to_copy = self.dirty.clone();
            to_copy.remove(excluded);
            while let Some(range) = to_copy.pop() {
                let to = pod_cast::bytes_mut(&mut host.elements_mut()[range.clone()]);
                device.read(range.start * size_of::<T>(), to)?;
                self.transfers.to_host += 1;
                self.transfers.to_host_bytes += to.len() as u64;
                self.dirty.remove(range);
            }
        }
        Ok(host)
    }

    /// Returns the device copy, up to date.
    fn sync_device(&mut self) -> Result<&mut Box<dyn DeviceBlock>, MemoryError> {
        let block = match self.device.take() {
            Some(block) => block,
            None => {
                let mut block = self.memory.allocate(self.bytes())?;
                if self.host.is_some() {
                    self.dirty_side = Side::Host;
                    self.dirty.insert(0..self.len);
                } else {
                    block.zero()?;
                }
                block
            }
        };
        let device = self.device.insert(block);
        if self.dirty_side == Side::Host
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
