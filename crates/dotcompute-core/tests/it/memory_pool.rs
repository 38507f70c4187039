//! The memory pool: limits, cached blocks, and many threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dotcompute_core::memory::{
    CpuMemory, DeviceBlock, DeviceId, DeviceMemory, HostBlock, MemoryError, MemoryPool, PoolOptions,
    UnifiedBuffer,
};

/// A source with a limited capacity, which counts the bytes allocated.
#[derive(Debug)]
struct LimitedSource {
    capacity: usize,
    allocated: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct CountedBlock {
    block: Box<dyn DeviceBlock>,
    allocated: Arc<AtomicUsize>,
}

impl LimitedSource {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self { capacity, allocated: Arc::default() })
    }
}

impl DeviceMemory for LimitedSource {
    fn device(&self) -> DeviceId {
        CpuMemory::DEVICE
    }

    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBlock>, MemoryError> {
        let allocated = self.allocated.fetch_add(bytes, Ordering::SeqCst);
        if allocated + bytes > self.capacity {
            self.allocated.fetch_sub(bytes, Ordering::SeqCst);
            let free = Some(self.capacity.saturating_sub(allocated) as u64);
            return Err(MemoryError::NoDeviceMemory { device: self.device(), requested: bytes, free });
        }
        let block = CpuMemory::new().allocate(bytes)?;
        Ok(Box::new(CountedBlock { block, allocated: Arc::clone(&self.allocated) }))
    }

    fn supports_page_locked(&self) -> bool {
        false
    }

    fn page_locked(&self, bytes: usize) -> Result<Box<dyn HostBlock>, MemoryError> {
        CpuMemory::new().page_locked(bytes)
    }

    fn trim(&self) -> Result<(), MemoryError> {
        Ok(())
    }
}

impl Drop for CountedBlock {
    fn drop(&mut self) {
        self.allocated.fetch_sub(self.block.len(), Ordering::SeqCst);
    }
}

impl DeviceBlock for CountedBlock {
    fn address(&self) -> u64 {
        self.block.address()
    }
    fn len(&self) -> usize {
        self.block.len()
    }
    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        self.block.write(at, from)
    }
    fn read(&self, at: usize, to: &mut [u8]) -> Result<(), MemoryError> {
        self.block.read(at, to)
    }
    fn zero(&mut self) -> Result<(), MemoryError> {
        self.block.zero()
    }
    fn host_view(&self) -> Option<&[u8]> {
        self.block.host_view()
    }
    fn host_view_mut(&mut self) -> Option<&mut [u8]> {
        self.block.host_view_mut()
    }
}

#[test]
fn a_released_block_is_used_again() {
    let pool = MemoryPool::new(CpuMemory::new(), PoolOptions::new());
    let first = pool.allocate(5000).unwrap();
    let address = first.address();
    assert_eq!(first.len(), 5000);
    drop(first);
    // Another size in the same size class.
    let second = pool.allocate(5100).unwrap();
    assert_eq!((second.address(), second.len(), second.host_view().unwrap().len()), (address, 5100, 5100));
    let third = pool.allocate(5000).unwrap();
    assert_ne!(third.address(), address);
    let stats = pool.stats();
    assert_eq!((stats.hits, stats.misses, stats.blocks_in_use, stats.blocks_cached), (1, 2, 2, 0));
    assert_eq!((stats.in_use, stats.peak, stats.cached), (2 * 5120, 2 * 5120, 0));
    drop((second, third));
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.peak, stats.cached, stats.blocks_cached), (0, 2 * 5120, 2 * 5120, 2));
}

#[test]
fn a_block_has_the_requested_length() {
    let pool = MemoryPool::new(CpuMemory::new(), PoolOptions::new());
    let mut block = pool.allocate(1000).unwrap();
    assert!(matches!(block.write(999, &[1, 2]), Err(MemoryError::OutOfRange { .. })));
    assert!(matches!(block.read(1000, &mut [0]), Err(MemoryError::OutOfRange { .. })));
    block.write(998, &[1, 2]).unwrap();
    let mut read = [0; 3];
    block.read(997, &mut read).unwrap();
    assert_eq!(read, [0, 1, 2]);
    assert_eq!(pool.page_locked(1000).unwrap().bytes().len(), 1000);
}

#[test]
fn the_limit_holds_and_its_error_says_what_would_fit() {
    let source = LimitedSource::new(usize::MAX);
    let pool = MemoryPool::new(source.clone(), PoolOptions::new().limit(10_000));
    let first = pool.allocate(6000).unwrap();
    let error = pool.allocate(5000).unwrap_err();
    assert_eq!(
        error.to_string(),
        "allocating 5000 bytes (5120 after rounding) from the pool of device memory of cpu 0: it is limited to 10000 bytes, of which 6144 \
         are in use, and 3584 would fit; free some, allocate less, or raise the limit"
    );
    let MemoryError::Limit { fits, .. } = error else { panic!("{error}") };
    let second = pool.allocate(fits).unwrap();
    assert!(pool.allocate(fits + 1).is_err() && pool.allocate(1000).is_err());
    assert_eq!(pool.stats().refused, 3);
    drop(second);

    // Cached blocks count towards the limit, and are released when needed.
    assert_eq!(source.allocated.load(Ordering::SeqCst), 6144 + 3584);
    let third = pool.allocate(2000).unwrap();
    assert_eq!((pool.stats().cached, pool.stats().trimmed), (0, 3584));
    assert_eq!(source.allocated.load(Ordering::SeqCst), 6144 + 2048);

    // A limit below the bytes in use affects only new allocations.
    drop(third);
    pool.set_options(PoolOptions::new().limit(1000));
    assert_eq!((pool.stats().in_use, pool.stats().cached), (6144, 0));
    assert!(matches!(pool.allocate(1), Err(MemoryError::Limit { fits: 0, in_use: 6144, limit: 1000, .. })));
    drop(first);
    assert_eq!(
        (pool.stats().in_use, pool.stats().cached),
        (0, 0),
        "the block exceeds the limit, so it is not cached"
    );
    pool.allocate(1000).unwrap_err();
    pool.allocate(768).unwrap();
}

#[test]
fn an_exhausted_source_gets_the_cached_blocks_back() {
    let pool = MemoryPool::new(LimitedSource::new(8192), PoolOptions::new());
    drop(pool.allocate(6144).unwrap());
    let other = pool.allocate(4096).unwrap();
    assert_eq!((pool.stats().cached, pool.stats().trimmed), (0, 6144));
    let error = pool.allocate(8192).unwrap_err();
    assert!(
        matches!(error, MemoryError::NoDeviceMemory { requested: 8192, free: Some(4096), .. }),
        "{error}"
    );
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.blocks_in_use, stats.peak, stats.refused), (4096, 1, 6144, 1));
    drop(other);
}

#[test]
fn trimming_releases_the_largest_blocks_first() {
    let source = LimitedSource::new(usize::MAX);
    let pool = MemoryPool::new(source.clone(), PoolOptions::new().cache_limit(6000));
    let blocks: Vec<_> = [1024, 2048, 4096].map(|bytes| pool.allocate(bytes).unwrap()).into();
    drop(blocks);
    assert_eq!(pool.stats().cached, 3072, "the largest block of 7168 bytes in total is released");
    assert_eq!(pool.trim_to(2000), 2048);
    assert_eq!((pool.stats().cached, source.allocated.load(Ordering::SeqCst)), (1024, 1024));
    pool.trim().unwrap();
    assert_eq!((pool.stats().cached, source.allocated.load(Ordering::SeqCst)), (0, 0));
    pool.set_options(PoolOptions::new().cache_limit(0));
    drop(pool.allocate(100).unwrap());
    assert_eq!((pool.stats().cached, pool.stats().misses), (0, 4));
}

#[test]
fn page_locked_memory_has_its_own_accounting() {
    let options = PoolOptions::new().page_locked_limit(4096).page_locked_cache_limit(1024);
    let pool = MemoryPool::new(CpuMemory::new(), options);
    let mut buffer = UnifiedBuffer::<u32>::page_locked(pool.clone(), 1024).unwrap();
    buffer.host().unwrap();
    assert!(!buffer.is_page_locked(), "not supported by the cpu device");
    assert_eq!((pool.page_locked_stats().in_use, pool.stats().in_use), (4096, 0));
    let error = UnifiedBuffer::<u32>::page_locked(pool.clone(), 1).unwrap().host().unwrap_err();
    assert!(error.to_string().contains("from the pool of page-locked host memory of cpu 0"), "{error}");
    drop(buffer);
    assert_eq!((pool.page_locked_stats().cached, pool.page_locked_stats().trimmed), (0, 4096));
}

#[test]
fn a_buffer_keeps_its_pool_alive() {
    let source = LimitedSource::new(usize::MAX);
    let pool = MemoryPool::new(source.clone(), PoolOptions::new());
    let mut buffer = UnifiedBuffer::<u8>::new(pool, 300).unwrap();
    buffer.device_mut().unwrap().as_mut_slice().unwrap().fill(7);
    assert_eq!(source.allocated.load(Ordering::SeqCst), 512);
    assert_eq!(buffer.host().unwrap(), [7; 300]);
    drop(buffer);
    assert_eq!(source.allocated.load(Ordering::SeqCst), 0, "the pool releases everything with its last user");
}

#[test]
fn many_threads_never_exceed_the_limit_and_the_accounting_agrees() {
    const LIMIT: usize = 40_000;
    let source = LimitedSource::new(LIMIT);
    let pool = MemoryPool::new(source.clone(), PoolOptions::new().limit(LIMIT));
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..8_usize {
            let (pool, refused) = (&pool, &refused);
            scope.spawn(move || {
                let mut held = Vec::new();
                for round in 0..2000 {
                    let bytes = 256 + (thread * 7919 + round * 104_729) % 9000;
                    match pool.allocate(bytes) {
                        Ok(mut block) => {
                            block.host_view_mut().unwrap().fill(thread as u8);
                            held.push(block);
                        }
                        Err(MemoryError::Limit { .. }) => {
                            refused.fetch_add(1, Ordering::SeqCst);
                            held.clear();
                        }
                        Err(other) => panic!("{other}"),
                    }
                    if held.len() > 3 {
                        let block = held.swap_remove(round % 3);
                        assert!(block.host_view().unwrap().iter().all(|byte| *byte == thread as u8));
                    }
                }
            });
        }
    });
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.blocks_in_use), (0, 0));
    assert_eq!(stats.hits + stats.misses + stats.refused, 16_000);
    assert_eq!(stats.refused, refused.load(Ordering::SeqCst) as u64);
    assert!(stats.peak <= LIMIT && stats.cached <= LIMIT);
    assert_eq!(stats.cached, source.allocated.load(Ordering::SeqCst));
    assert!(stats.hits > 0 && stats.trimmed > 0 && stats.refused > 0, "{stats:?}");
    pool.trim().unwrap();
    assert_eq!(source.allocated.load(Ordering::SeqCst), 0);
}
