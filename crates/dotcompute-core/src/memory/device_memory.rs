//! The traits that a backend implements for the memory of its device.

use std::fmt;

use super::{DeviceId, MemoryError};

/// Alignment of every block of memory, in bytes. It is also the greatest alignment of a buffer's elements.
pub const ALIGN: usize = 256;

/// Allocator for the memory of a device.
///
/// # Contract
///
/// - Blocks are aligned to [`ALIGN`]. Their content is unspecified but initialized: bytes of the block's last owner, or zeros.
/// - No method waits for a resident ring kernel, other than by quiescing it.
pub trait DeviceMemory: fmt::Debug + Send + Sync {
    /// Returns the device.
    fn device(&self) -> DeviceId;

    /// Allocates a block of device memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoDeviceMemory`], [`MemoryError::Limit`], or an error of the device.
    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBlock>, MemoryError>;

    /// Returns whether [`page_locked`](Self::page_locked) allocates page-locked memory.
    fn supports_page_locked(&self) -> bool;

    /// Allocates page-locked host memory, which the device can copy by itself. Ordinary memory where page-locking gains nothing, as on the
    /// `cpu` device.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoHostMemory`], [`MemoryError::Limit`], or an error of the device.
    fn page_locked(&self, bytes: usize) -> Result<Box<dyn HostBlock>, MemoryError>;

    /// Releases cached blocks.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Device`] if the device could not release them.
    fn trim(&self) -> Result<(), MemoryError>;
}

/// A block of device memory. Dropping it releases the memory.
pub trait DeviceBlock: fmt::Debug + Send + Sync {
    /// Returns its address in the device's address space.
    fn address(&self) -> u64;

    /// Returns its length in bytes, as requested.
    fn len(&self) -> usize;

    /// Returns whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies `from` into the block, starting at byte `at`. The copy is complete when this returns.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`], or [`MemoryError::Device`].
    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), MemoryError>;

    /// Copies bytes of the block into `to`, starting at byte `at`.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    fn read(&self, at: usize, to: &mut [u8]) -> Result<(), MemoryError>;

    /// Fills the block with zeros.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Device`].
    fn zero(&mut self) -> Result<(), MemoryError>;

    /// Returns the bytes, if the host can access them.
    fn host_view(&self) -> Option<&[u8]>;

    /// Returns the bytes for writing, if the host can access them.
    fn host_view_mut(&mut self) -> Option<&mut [u8]>;
}

/// A block of host memory, allocated through a device. Dropping it releases the memory.
pub trait HostBlock: fmt::Debug + Send + Sync {
    /// Returns the bytes; the length is as requested.
    fn bytes(&self) -> &[u8];

    /// Returns the bytes for writing.
    fn bytes_mut(&mut self) -> &mut [u8];
}
