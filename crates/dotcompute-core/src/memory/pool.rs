//! The memory pool.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use super::error::range_of;
use super::free_list::{FreeList, PoolLimits, PoolStats};
use super::{DeviceBlock, DeviceId, DeviceMemory, HostBlock, MemoryError};

/// Limits of a [`MemoryPool`]. Each is unlimited unless set.
///
/// ```
/// use dotcompute_core::memory::PoolOptions;
///
/// let options = PoolOptions::new().limit(1 << 30).cache_limit(1 << 28).page_locked_limit(1 << 26);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolOptions {
    device: PoolLimits,
    locked: PoolLimits,
}

impl PoolOptions {
    /// Creates options without limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the maximum of device memory, in use and cached, in bytes.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.device.limit = Some(bytes);
        self
    }

    /// Sets the maximum of cached device memory, in bytes. With 0 nothing is cached.
    #[must_use]
    pub fn cache_limit(mut self, bytes: usize) -> Self {
        self.device.cache_limit = Some(bytes);
        self
    }

    /// Sets the maximum of page-locked host memory, in use and cached, in bytes.
    #[must_use]
    pub fn page_locked_limit(mut self, bytes: usize) -> Self {
        self.locked.limit = Some(bytes);
        self
    }

    /// Sets the maximum of cached page-locked host memory, in bytes.
    #[must_use]
    pub fn page_locked_cache_limit(mut self, bytes: usize) -> Self {
        self.locked.cache_limit = Some(bytes);
        self
    }
}

/// A pool over the memory of a device: dropped blocks are cached, and serve later requests of the same size class.
///
/// Sizes are rounded up to size classes, four to each doubling. A block returns to the pool when its buffer is dropped, even if the owner
/// has dropped the pool before. Any number of threads may share a pool.
///
/// ```
/// use dotcompute_core::memory::{CpuMemory, MemoryError, MemoryPool, PoolOptions, UnifiedBuffer};
///
/// let pool = MemoryPool::new(CpuMemory::new(), PoolOptions::new().limit(4096));
/// let mut buffer = UnifiedBuffer::<f32>::new(pool.clone(), 512)?;
/// buffer.device()?; // allocates the device copy
/// assert_eq!(pool.stats().in_use, 2048);
///
/// let mut large = UnifiedBuffer::<u8>::new(pool.clone(), 3000)?;
/// let Err(MemoryError::Limit { fits, .. }) = large.device() else { panic!("there is a limit") };
/// assert_eq!(fits, 2048);
///
/// drop(buffer);
/// assert_eq!((pool.stats().in_use, pool.stats().cached), (0, 2048));
/// large.device()?; // releases the cached block, to stay within the limit
/// assert_eq!((pool.stats().in_use, pool.stats().cached), (3072, 0));
/// # Ok::<(), MemoryError>(())
/// ```
#[derive(Debug)]
pub struct MemoryPool {
    source: Arc<dyn DeviceMemory>,
    device: Arc<FreeList<dyn DeviceBlock>>,
    locked: Arc<FreeList<dyn HostBlock>>,
}

impl MemoryPool {
    /// Creates a pool over the memory of `source`.
    pub fn new(source: Arc<dyn DeviceMemory>, options: PoolOptions) -> Arc<Self> {
        let device = FreeList::new(source.device(), "device memory", options.device);
        let locked = FreeList::new(source.device(), "page-locked host memory", options.locked);
        Arc::new(Self { source, device: Arc::new(device), locked: Arc::new(locked) })
    }

    /// Returns the statistics of device memory.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.device.stats()
    }

    /// Returns the statistics of page-locked host memory.
    #[must_use]
    pub fn page_locked_stats(&self) -> PoolStats {
        self.locked.stats()
    }

    /// Replaces the limits. Memory in use is unaffected; cached blocks beyond the new limits are released.
    pub fn set_options(&self, options: PoolOptions) {
        self.device.set_limits(options.device);
        self.locked.set_limits(options.locked);
    }

    /// Releases cached device memory until at most `cache_limit` bytes are cached; returns the number of bytes released.
    pub fn trim_to(&self, cache_limit: usize) -> usize {
        self.device.trim_to(cache_limit)
    }
}

impl DeviceMemory for MemoryPool {
    fn device(&self) -> DeviceId {
        self.source.device()
    }

    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBlock>, MemoryError> {
        let (block, class) = self.device.take(bytes, |class| self.source.allocate(class))?;
        Ok(Box::new(Pooled::new(block, bytes, class, &self.device)))
    }

    fn supports_page_locked(&self) -> bool {
        self.source.supports_page_locked()
    }

    fn page_locked(&self, bytes: usize) -> Result<Box<dyn HostBlock>, MemoryError> {
        let (block, class) = self.locked.take(bytes, |class| self.source.page_locked(class))?;
        Ok(Box::new(Pooled::new(block, bytes, class, &self.locked)))
    }

    /// Releases all cached blocks of both kinds, then trims the source.
    fn trim(&self) -> Result<(), MemoryError> {
        self.device.trim_to(0);
        self.locked.trim_to(0);
        self.source.trim()
    }
}

/// A block that returns to its free list when it is dropped.
#[derive(Debug)]
struct Pooled<B: ?Sized> {
    block: ManuallyDrop<Box<B>>,
    /// Bytes requested; the block has `class` bytes.
    len: usize,
    class: usize,
    free_list: Arc<FreeList<B>>,
}

impl<B: ?Sized> Pooled<B> {
    fn new(block: Box<B>, len: usize, class: usize, free_list: &Arc<FreeList<B>>) -> Self {
        Self { block: ManuallyDrop::new(block), len, class, free_list: Arc::clone(free_list) }
    }
}

impl<B: ?Sized> Drop for Pooled<B> {
    fn drop(&mut self) {
        // SAFETY: `drop` runs once, only it takes the block out, and no code accesses `self.block` afterwards.
        let block = unsafe { ManuallyDrop::take(&mut self.block) };
        self.free_list.put(self.class, block);
    }
}

impl DeviceBlock for Pooled<dyn DeviceBlock> {
    fn address(&self) -> u64 {
        self.block.address()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        range_of(at, from.len(), self.len)?;
        self.block.write(at, from)
    }

    fn read(&self, at: usize, to: &mut [u8]) -> Result<(), MemoryError> {
        range_of(at, to.len(), self.len)?;
        self.block.read(at, to)
    }

    fn zero(&mut self) -> Result<(), MemoryError> {
        self.block.zero()
    }

    fn host_view(&self) -> Option<&[u8]> {
        self.block.host_view()?.get(..self.len)
    }

    fn host_view_mut(&mut self) -> Option<&mut [u8]> {
        let len = self.len;
        self.block.host_view_mut()?.get_mut(..len)
    }
}

impl HostBlock for Pooled<dyn HostBlock> {
    fn bytes(&self) -> &[u8] {
        let bytes = self.block.bytes();
        &bytes[..self.len.min(bytes.len())]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = self.block.bytes_mut();
        let len = self.len.min(bytes.len());
        &mut bytes[..len]
    }
}
