//! The traits that a backend implements for the memory of its device.

use std::fmt;

use super::{DeviceId, MemoryError};

/// What every block of memory is aligned to, in bytes. No element of a buffer may ask for more.
pub const ALIGN: usize = 256;

/// Where the memory of a device comes from.
///
/// # Contract
///
/// - Blocks are aligned to [`ALIGN`]. Their content is any bytes: those of the block's last owner, or zeros.
/// - Nothing here waits for a ring kernel that is resident on the device, other than by having it make way.
pub trait DeviceMemory: fmt::Debug + Send + Sync {
    /// The device.
    fn device(&self) -> DeviceId;

    /// Takes a block of the device's memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoDeviceMemory`], [`MemoryError::Limit`], or what the device says.
    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBlock>, MemoryError>;

    /// Whether [`page_locked`](Self::page_locked) gives memory that is page-locked.
    fn supports_page_locked(&self) -> bool;

    /// Takes host memory that stays where it is, so that the device can copy it by itself. Where that gains nothing, as on the `cpu`
    /// device, it is ordinary memory.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoHostMemory`], [`MemoryError::Limit`], or what the device says.
    fn page_locked(&self, bytes: usize) -> Result<Box<dyn HostBlock>, MemoryError>;

    /// Gives back what is kept for later and used by nobody.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Device`] when the device could not be brought to take it.
    fn trim(&self) -> Result<(), MemoryError>;
}

/// A block of a device's memory. Dropping it gives it back.
pub trait DeviceBlock: fmt::Debug + Send + Sync {
    /// Where it is, as the device sees it.
    fn address(&self) -> u64;

    /// How many bytes it has: as many as were asked for.
    fn len(&self) -> usize;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies these bytes to it, from byte `at` on. They are there when this returns.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfRange`], or [`MemoryError::Device`].
    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), MemoryError>;

    /// Copies its bytes from `at` on.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    fn read(&self, at: usize, to: &mut [u8]) -> Result<(), MemoryError>;

    /// Makes all of it zeros.
    ///
    /// # Errors
    ///
    /// [`MemoryError::Device`].
    fn zero(&mut self) -> Result<(), MemoryError>;

    /// Its bytes, where the host can look at them.
    fn host_view(&self) -> Option<&[u8]>;

    /// Its bytes to write to, where the host can.
    fn host_view_mut(&mut self) -> Option<&mut [u8]>;
}

/// A block of the host's memory, from a device. Dropping it gives it back.
pub trait HostBlock: fmt::Debug + Send + Sync {
    /// Its bytes: as many as were asked for.
    fn bytes(&self) -> &[u8];

    /// Its bytes, to write to.
    fn bytes_mut(&mut self) -> &mut [u8];
}
