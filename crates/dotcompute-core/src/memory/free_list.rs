//! Blocks of one kind of memory, kept for whoever wants one of the same size next.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::size_class::{class_of, class_within};
use super::{DeviceId, MemoryError};

/// What a pool has of one kind of memory, and what it has done. Bytes are those of size classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PoolStats {
    /// Bytes in use.
    pub in_use: usize,
    /// Bytes that are kept for later.
    pub cached: usize,
    /// The most that was in use at once.
    pub peak: usize,
    /// Blocks in use.
    pub blocks_in_use: usize,
    /// Blocks that are kept for later.
    pub blocks_cached: usize,
    /// Requests that a kept block could serve.
    pub hits: u64,
    /// Requests that it could not.
    pub misses: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// Bytes that have been given back, ever.
    pub trimmed: u64,
}

/// How much a pool may have.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Bounds {
    /// Of bytes in use and kept together.
    pub(super) limit: Option<usize>,
    /// Of bytes kept.
    pub(super) cache_limit: Option<usize>,
}

/// Blocks of one kind.
#[derive(Debug)]
pub(super) struct Shelf<B: ?Sized> {
    device: DeviceId,
    what: &'static str,
    inner: Mutex<Inner<B>>,
}

#[derive(Debug)]
struct Inner<B: ?Sized> {
    bounds: Bounds,
    kept: BTreeMap<usize, Vec<Box<B>>>,
    stats: PoolStats,
}

impl<B: ?Sized> Inner<B> {
    /// Gives kept blocks back, the largest first, until no more than so many bytes are kept. Done under the lock, so that the bytes are
    /// back before anybody counts on them.
    fn trim_to(&mut self, cache_limit: usize) {
        while self.stats.cached > cache_limit {
            let Some(mut entry) = self.kept.last_entry() else { return };
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

    fn take_kept(&mut self, class: usize) -> Option<Box<B>> {
        let blocks = self.kept.get_mut(&class)?;
        let block = blocks.pop();
        if blocks.is_empty() {
            self.kept.remove(&class);
        }
        if block.is_some() {
            self.stats.cached -= class;
            self.stats.blocks_cached -= 1;
        }
        block
    }

    fn give_back(&mut self, class: usize) {
        self.stats.in_use -= class;
        self.stats.blocks_in_use -= 1;
    }
}

impl<B: ?Sized> Shelf<B> {
    pub(super) fn new(device: DeviceId, what: &'static str, bounds: Bounds) -> Self {
        let inner = Inner { bounds, kept: BTreeMap::new(), stats: PoolStats::default() };
        Self { device, what, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<B>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stats(&self) -> PoolStats {
        self.lock().stats
    }

    /// Gives back what is kept beyond so many bytes; returns how many that were.
    pub(super) fn trim_to(&self, cache_limit: usize) -> usize {
        let mut inner = self.lock();
        let before = inner.stats.cached;
        inner.trim_to(cache_limit);
        before - inner.stats.cached
    }

    /// Sets how much it may have from now on. What is in use stays.
    pub(super) fn set_bounds(&self, bounds: Bounds) {
        let mut inner = self.lock();
        inner.bounds = bounds;
        let room = bounds.limit.map_or(usize::MAX, |limit| limit.saturating_sub(inner.stats.in_use));
        inner.trim_to(room.min(bounds.cache_limit.unwrap_or(usize::MAX)));
    }

    /// A block of at least so many bytes and its size class: one that is kept, or one that `make` makes.
    pub(super) fn take(
        &self,
        bytes: usize,
        make: impl Fn(usize) -> Result<Box<B>, MemoryError>,
    ) -> Result<(Box<B>, usize), MemoryError> {
        let too_large = MemoryError::TooLarge { elements: bytes, element_bytes: 1 };
        let class = class_of(bytes).ok_or(too_large)?;
        if let Some(block) = self.reserve(bytes, class)? {
            return Ok((block, class));
        }
        // Not under the lock: the device may take its time. What it lacks, other size classes may be keeping.
        let made = make(class).or_else(|error| match error {
            MemoryError::NoDeviceMemory { .. } | MemoryError::NoHostMemory { .. } if self.trim_to(0) > 0 => {
                make(class)
            }
            other => Err(other),
        });
        let mut inner = self.lock();
        match made {
            Ok(block) => {
                inner.stats.misses += 1;
                inner.stats.peak = inner.stats.peak.max(inner.stats.in_use);
                Ok((block, class))
            }
            Err(error) => {
                inner.give_back(class);
                inner.stats.refused += 1;
                Err(error)
            }
        }
    }

    /// Counts a block of this class as used; gives it if one is kept.
    fn reserve(&self, requested: usize, class: usize) -> Result<Option<Box<B>>, MemoryError> {
        let mut inner = self.lock();
        let block = inner.take_kept(class);
        let in_use = inner.stats.in_use;
        if block.is_none()
            && let Some(limit) = inner.bounds.limit
        {
            let room = limit.saturating_sub(in_use);
            let Some(cache_limit) = room.checked_sub(class) else {
                inner.stats.refused += 1;
                let (device, what, fits) = (self.device, self.what, class_within(room));
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

    /// Takes a block back.
    pub(super) fn put(&self, class: usize, block: Box<B>) {
        let mut inner = self.lock();
        inner.give_back(class);
        inner.kept.entry(class).or_default().push(block);
        inner.stats.cached += class;
        inner.stats.blocks_cached += 1;
        let Bounds { limit, cache_limit } = inner.bounds;
        let room = limit.map_or(usize::MAX, |limit| limit.saturating_sub(inner.stats.in_use));
        inner.trim_to(room.min(cache_limit.unwrap_or(usize::MAX)));
    }
}
