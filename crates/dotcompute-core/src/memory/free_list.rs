//! Free lists: blocks of one kind of memory, cached by size class.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::size_class::{class_of, class_within};
use super::{DeviceId, MemoryError};

/// Statistics of a pool for one kind of memory. Bytes are sums of size classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PoolStats {
    /// Bytes in use.
    pub in_use: usize,
    /// Cached bytes.
    pub cached: usize,
    /// Maximum of `in_use` so far.
    pub peak: usize,
    /// Blocks in use.
    pub blocks_in_use: usize,
    /// Cached blocks.
    pub blocks_cached: usize,
    /// Requests served by a cached block.
    pub hits: u64,
    /// Requests served by a new block.
    pub misses: u64,
    /// Requests that failed.
    pub refused: u64,
    /// Total bytes released from the cache.
    pub trimmed: u64,
}

/// Limits of a pool for one kind of memory, in bytes; `None` is unlimited.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PoolLimits {
    /// Maximum of bytes in use and cached bytes together.
    pub(super) limit: Option<usize>,
    /// Maximum of cached bytes.
    pub(super) cache_limit: Option<usize>,
}

impl PoolLimits {
    /// Returns how many bytes may be cached while `in_use` bytes are in use.
    fn cacheable(&self, in_use: usize) -> usize {
        let available = self.limit.map_or(usize::MAX, |limit| limit.saturating_sub(in_use));
        available.min(self.cache_limit.unwrap_or(usize::MAX))
    }
}

/// Free blocks of one kind of memory, and the accounting of blocks in use.
#[derive(Debug)]
pub(super) struct FreeList<B: ?Sized> {
    device: DeviceId,
    what: &'static str,
    inner: Mutex<Inner<B>>,
}

#[derive(Debug)]
struct Inner<B: ?Sized> {
    limits: PoolLimits,
    free_blocks: BTreeMap<usize, Vec<Box<B>>>,
    stats: PoolStats,
}

impl<B: ?Sized> Inner<B> {
    /// Releases cached blocks, the largest first, until at most `cache_limit` bytes are cached. The lock is held meanwhile, so that the
    /// memory is free before another thread relies on it.
    fn trim_to(&mut self, cache_limit: usize) {
        while self.stats.cached > cache_limit {
            let Some(mut entry) = self.free_blocks.last_entry() else { return };
            let class = *entry.key();
            let block = entry.get_mut().pop();
            if entry.get().is_empty() {
                entry.remove();
            }
            if block.is_some() {
                self.stats.cached -= class;
                self.stats.blocks_cached -= 1;
                self.stats.trimmed += class as u64;
            }
        }
    }

    fn pop_free(&mut self, class: usize) -> Option<Box<B>> {
        let blocks = self.free_blocks.get_mut(&class)?;
        let block = blocks.pop();
        if blocks.is_empty() {
            self.free_blocks.remove(&class);
        }
        if block.is_some() {
            self.stats.cached -= class;
            self.stats.blocks_cached -= 1;
        }
        block
    }

    fn count_released(&mut self, class: usize) {
        self.stats.in_use -= class;
        self.stats.blocks_in_use -= 1;
    }
}

impl<B: ?Sized> FreeList<B> {
    pub(super) fn new(device: DeviceId, what: &'static str, limits: PoolLimits) -> Self {
        let inner = Inner { limits, free_blocks: BTreeMap::new(), stats: PoolStats::default() };
        Self { device, what, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<B>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> PoolStats {
        self.lock().stats
    }

    /// Releases cached blocks until at most `cache_limit` bytes are cached; returns the number of bytes released.
    pub(super) fn trim_to(&self, cache_limit: usize) -> usize {
        let mut inner = self.lock();
        let before = inner.stats.cached;
        inner.trim_to(cache_limit);
        before - inner.stats.cached
    }

    /// Sets the limits and trims the cache to them. Blocks in use are unaffected.
    pub(super) fn set_limits(&self, limits: PoolLimits) {
        let mut inner = self.lock();
        inner.limits = limits;
        let cacheable = limits.cacheable(inner.stats.in_use);
        inner.trim_to(cacheable);
    }

    /// Returns a block of at least `bytes` bytes and its size class: a cached block, or a new one from `allocate`.
    pub(super) fn take(
        &self,
        bytes: usize,
        allocate: impl Fn(usize) -> Result<Box<B>, MemoryError>,
    ) -> Result<(Box<B>, usize), MemoryError> {
        let too_large = MemoryError::TooLarge { elements: bytes, element_bytes: 1 };
        let class = class_of(bytes).ok_or(too_large)?;
        if let Some(block) = self.reserve(bytes, class)? {
            return Ok((block, class));
        }
        // Without the lock, because an allocation by the device may take long. If memory is short, cached blocks of other size classes
        // are released and the allocation is tried again.
        let allocated = allocate(class).or_else(|error| match error {
            MemoryError::NoDeviceMemory { .. } | MemoryError::NoHostMemory { .. } if self.trim_to(0) > 0 => {
                allocate(class)
            }
            other => Err(other),
        });
        let mut inner = self.lock();
        match allocated {
            Ok(block) => {
                inner.stats.misses += 1;
                inner.stats.peak = inner.stats.peak.max(inner.stats.in_use);
                Ok((block, class))
            }
            Err(error) => {
                inner.count_released(class);
                inner.stats.refused += 1;
                Err(error)
            }
        }
    }

    /// Counts a block of this class as in use; returns it if one is cached.
    fn reserve(&self, requested: usize, class: usize) -> Result<Option<Box<B>>, MemoryError> {
        let mut inner = self.lock();
        let block = inner.pop_free(class);
        let in_use = inner.stats.in_use;
        if block.is_none()
            && let Some(limit) = inner.limits.limit
        {
            let available = limit.saturating_sub(in_use);
            let Some(cache_limit) = available.checked_sub(class) else {
                inner.stats.refused += 1;
                let (device, what, fits) = (self.device, self.what, class_within(available));
                return Err(MemoryError::Limit {
                    device,
                    what,
                    requested,
                    rounded: class,
                    in_use,
                    limit,
                    fits,
                });
            };
            inner.trim_to(cache_limit);
        }
        inner.stats.in_use += class;
        inner.stats.blocks_in_use += 1;
        if block.is_some() {
            inner.stats.hits += 1;
            inner.stats.peak = inner.stats.peak.max(inner.stats.in_use);
        }
        Ok(block)
    }

    /// Returns a block to the free list, and trims the cache to the limits.
    pub(super) fn put(&self, class: usize, block: Box<B>) {
        let mut inner = self.lock();
        inner.count_released(class);
        inner.free_blocks.entry(class).or_default().push(block);
        inner.stats.cached += class;
        inner.stats.blocks_cached += 1;
        let cacheable = inner.limits.cacheable(inner.stats.in_use);
        inner.trim_to(cacheable);
    }
}
