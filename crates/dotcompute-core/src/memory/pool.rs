//! Memory that is kept for later instead of being given back.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use super::error::range_of;
use super::free_list::{Bounds, PoolStats, Shelf};
use super::{DeviceBlock, DeviceId, DeviceMemory, HostBlock, MemoryError};

/// How much a pool may have. Whatever is not said is not limited.
///
/// ```
/// use dotcompute_core::memory::PoolOptions;
///
/// let options = PoolOptions::new().limit(1 << 30).cache_limit(1 << 28).page_locked_limit(1 << 26);
/// # let _ = options;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolOptions {
    device: Bounds,
    locked: Bounds,
}

impl PoolOptions {
    /// No limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The most bytes of device memory that it has at once, in use and kept.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.device.limit = Some(bytes);
        self
    }

    /// The most bytes of device memory that it keeps for later. With 0 it keeps nothing.
    #[must_use]
    pub fn cache_limit(mut self, bytes: usize) -> Self {
        self.device.cache_limit = Some(bytes);
        self
    }

    /// The most bytes of page-locked host memory that it has at once, in use and kept.
    #[must_use]
    pub fn page_locked_limit(mut self, bytes: usize) -> Self {
        self.locked.limit = Some(bytes);
        self
    }

    /// The most bytes of page-locked host memory that it keeps for later.
    #[must_use]
    pub fn page_locked_cache_limit(mut self, bytes: usize) -> Self {
        self.locked.cache_limit = Some(bytes);
        self
    }
}

/// The memory of a device, with what is given back kept for whoever wants a block of that size next.
///
/// Sizes are rounded up to size classes, four to each doubling. Blocks go back to the pool when their buffer is dropped, also after
/// the pool itself was dropped by its owner. Any number of threads may use it.
///
/// ```
/// use dotcompute_core::memory::{CpuMemory, MemoryError, MemoryPool, PoolOptions, UnifiedBuffer};
///
/// let pool = MemoryPool::new(CpuMemory::new(), PoolOptions::new().limit(4096));
/// let mut buffer = UnifiedBuffer::<f32>::new(pool.clone(), 512)?;
/// buffer.device()?; // now there is a half on the device
/// assert_eq!(pool.stats().in_use, 2048);
///
/// let mut large = UnifiedBuffer::<u8>::new(pool.clone(), 3000)?;
/// let Err(MemoryError::Limit { fits, .. }) = large.device() else { panic!("there is a limit") };
/// assert_eq!(fits, 2048);
///
/// drop(buffer);
/// assert_eq!((pool.stats().in_use, pool.stats().cached), (0, 2048));
/// large.device()?; // what is kept makes room
/// assert_eq!((pool.stats().in_use, pool.stats().cached), (3072, 0));
/// # Ok::<(), MemoryError>(())
/// ```
#[derive(Debug)]
pub struct MemoryPool {
    source: Arc<dyn DeviceMemory>,
    device: Arc<Shelf<dyn DeviceBlock>>,
    locked: Arc<Shelf<dyn HostBlock>>,
}

impl MemoryPool {
    /// A pool of the memory of `source`.
    pub fn new(source: Arc<dyn DeviceMemory>, options: PoolOptions) -> Arc<Self> {
        let device = Shelf::new(source.device(), "device memory", options.device);
        let locked = Shelf::new(source.device(), "page-locked host memory", options.locked);
        Arc::new(Self { source, device: Arc::new(device), locked: Arc::new(locked) })
    }

    /// What it has of device memory.
    #[must_use]
    pub fn stats(&self) -> PoolStats {
        self.device.stats()
    }

    /// What it has of page-locked host memory.
    #[must_use]
    pub fn page_locked_stats(&self) -> PoolStats {
        self.locked.stats()
    }

    /// Sets other limits. What is in use stays in use; what is kept beyond them is given back.
    pub fn set_options(&self, options: PoolOptions) {
        self.device.set_bounds(options.device);
        self.locked.set_bounds(options.locked);
    }

    /// Gives back what is kept of device memory beyond so many bytes; returns how many that were.
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

    /// Gives back all that is kept, of either kind, and has the source do the same.
    fn trim(&self) -> Result<(), MemoryError> {
        self.device.trim_to(0);
        self.locked.trim_to(0);
        self.source.trim()
    }
}

/// A block that goes back to its shelf.
#[derive(Debug)]
struct Pooled<B: ?Sized> {
    block: ManuallyDrop<Box<B>>,
    /// So many bytes of it were asked for; it may have more.
    len: usize,
    class: usize,
    shelf: Arc<Shelf<B>>,
}

impl<B: ?Sized> Pooled<B> {
    fn new(block: Box<B>, len: usize, class: usize, shelf: &Arc<Shelf<B>>) -> Self {
        Self { block: ManuallyDrop::new(block), len, class, shelf: Arc::clone(shelf) }
    }
}

impl<B: ?Sized> Drop for Pooled<B> {
    fn drop(&mut self) {
        // SAFETY: taken once: this value is being dropped, and nothing looks at its block after this.
        let block = unsafe { ManuallyDrop::take(&mut self.block) };
        self.shelf.put(self.class, block);
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
