//! What every `DeviceMemory` does, and `UnifiedBuffer` on it.

use std::sync::Arc;

use dotcompute_core::memory::{
    ALIGN, CpuMemory, DeviceMemory, DeviceSlice, DeviceSliceMut, MAX_DIRTY_RANGES, MemoryError, MemoryPool,
    PoolOptions, Transfers, UnifiedBuffer,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::buffer_model::{LEN, Model, Op, ops};
use crate::fixture::{TestMemory, run_unless};

/// [`CpuMemory`] under test.
#[derive(Debug)]
pub struct TestCpuMemory;

impl TestMemory for TestCpuMemory {
    fn open() -> Arc<dyn DeviceMemory> {
        CpuMemory::new()
    }

    fn fill(mut slice: DeviceSliceMut<'_, u16>, value: u16) {
        slice.as_mut_slice().expect("memory of the host").fill(value);
    }

    fn read(slice: DeviceSlice<'_, u16>) -> Vec<u16> {
        slice.as_slice().expect("memory of the host").to_vec()
    }
}

/// Defines a `#[test]` for each property of a [`TestMemory`], in the current module.
///
/// ```
/// use std::sync::Arc;
/// use dotcompute_conformance::TestMemory;
/// use dotcompute_core::memory::{CpuMemory, DeviceMemory, DeviceSlice, DeviceSliceMut};
///
/// struct Cpu;
///
/// impl TestMemory for Cpu {
///     fn open() -> Arc<dyn DeviceMemory> {
///         CpuMemory::new()
///     }
///
///     fn fill(mut slice: DeviceSliceMut<'_, u16>, value: u16) {
///         slice.as_mut_slice().unwrap().fill(value); // a GPU would copy
///     }
///
///     fn read(slice: DeviceSlice<'_, u16>) -> Vec<u16> {
///         slice.as_slice().unwrap().to_vec()
///     }
/// }
///
/// mod cpu {
///     dotcompute_conformance::device_memory_tests!(super::Cpu);
/// }
/// # dotcompute_conformance::memory::blocks_are_read_and_written_within_their_bounds::<Cpu>();
/// ```
#[macro_export]
macro_rules! device_memory_tests {
    ($memory:ty) => {
        $crate::__tests! { memory, $memory:
            both_sides_see_every_write_and_only_dirty_elements_are_copied
            blocks_are_read_and_written_within_their_bounds
            blocks_are_aligned_and_as_long_as_requested
            page_locked_buffers_are_as_long_as_requested
            an_allocation_that_is_too_large_is_an_error
        }
    };
}

/// Runs one test of a memory under a watchdog, or prints why it is skipped.
#[doc(hidden)]
pub fn run<M: TestMemory>(test: &str, case: fn()) {
    run_unless(M::unavailable(), test, case);
}

/// Any sequence of reads, writes and releases on both sides gives what a vector gives, with the fewest copies.
pub fn both_sides_see_every_write_and_only_dirty_elements_are_copied<M: TestMemory>() {
    let memory = M::open();
    let config = Config { failure_persistence: None, cases: M::CASES, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let agrees = |(ops, locked)| agrees_with_the_model::<M>(Arc::clone(&memory), ops, locked);
    runner.run(&(ops(), proptest::bool::ANY), agrees).unwrap();
}

fn agrees_with_the_model<M: TestMemory>(
    memory: Arc<dyn DeviceMemory>,
    ops: Vec<(Op, bool)>,
    locked: bool,
) -> Result<(), TestCaseError> {
    let pool = MemoryPool::new(memory, PoolOptions::new());
    fill_cached_blocks(&pool);
    let create = if locked { UnifiedBuffer::page_locked } else { UnifiedBuffer::new };
    let mut buffer = create(pool, LEN).unwrap();
    let mut model = Model::new();
    let (mut to_host, mut to_device) = (0, 0);
    for (op, _) in ops {
        let expected = model.content.clone();
        op.apply::<M>(&mut buffer, &expected).unwrap();
        let (host_elements, device_elements) = model.apply(&op);
        to_host += 2 * host_elements as u64;
        to_device += 2 * device_elements as u64;
        let Transfers { to_host_bytes, to_device_bytes, .. } = buffer.transfers();
        if model.max_ranges <= MAX_DIRTY_RANGES {
            prop_assert_eq!((to_host_bytes, to_device_bytes), (to_host, to_device), "{:?}", op);
            prop_assert_eq!(buffer.state(), model.state());
        } else {
            prop_assert!(to_host_bytes >= to_host && to_device_bytes >= to_device);
        }
        if let Some(elements) = buffer.peek_host() {
            prop_assert_eq!(elements, &model.content[..]);
        }
    }
    prop_assert_eq!(buffer.host().unwrap(), &model.content[..]);
    Ok(())
}

/// Leaves cached blocks in the pool whose bytes are not zeros.
fn fill_cached_blocks(pool: &Arc<MemoryPool>) {
    let mut buffer = UnifiedBuffer::<u16>::page_locked(pool.clone(), LEN).unwrap();
    buffer.host_mut().unwrap().fill(u16::MAX);
    buffer.device().unwrap();
    drop(buffer);
    assert!(pool.stats().blocks_cached == 1 && pool.page_locked_stats().blocks_cached == 1);
}

/// `write`, `read` and `zero` reach exactly the bytes of their range; a range outside the block is an error.
pub fn blocks_are_read_and_written_within_their_bounds<M: TestMemory>() {
    let memory = M::open();
    let mut block = memory.allocate(100).unwrap();
    block.zero().unwrap();
    block.write(10, &[1, 2, 3]).unwrap();
    let mut read = [9; 5];
    block.read(9, &mut read).unwrap();
    assert_eq!(read, [0, 1, 2, 3, 0]);
    assert!(matches!(block.write(98, &[0; 3]), Err(MemoryError::OutOfRange { .. })));
    assert!(matches!(block.read(usize::MAX, &mut read), Err(MemoryError::OutOfRange { .. })));
    block.read(100, &mut []).unwrap();
    drop(block);
    memory.trim().unwrap();
}

/// Blocks are aligned to [`ALIGN`] and have the requested length, also from a pool, which reuses them.
pub fn blocks_are_aligned_and_as_long_as_requested<M: TestMemory>() {
    let memory = M::open();
    for bytes in [1, 100, 5000] {
        let block = memory.allocate(bytes).unwrap();
        assert_eq!((block.address() % ALIGN as u64, block.len()), (0, bytes));
    }
    let pool = MemoryPool::new(memory, PoolOptions::new());
    let first = pool.allocate(5000).unwrap();
    let address = first.address();
    assert_eq!((address % ALIGN as u64, first.len()), (0, 5000));
    drop(first);
    assert_eq!(pool.allocate(5100).unwrap().address(), address, "another length of the same size class");
}

/// A page-locked buffer has the requested length, although locking works on whole pages, and is page-locked where that is supported.
pub fn page_locked_buffers_are_as_long_as_requested<M: TestMemory>() {
    let memory = M::open();
    let supported = memory.supports_page_locked();
    let mut buffer = UnifiedBuffer::<u32>::page_locked(memory, 7).unwrap();
    assert_eq!(buffer.host_mut().unwrap().len(), 7);
    assert_eq!(buffer.is_page_locked(), supported);
    buffer.host_mut().unwrap()[6] = 5;
    buffer.device().unwrap();
    buffer.release_host().unwrap();
    assert_eq!(buffer.host().unwrap(), [0, 0, 0, 0, 0, 0, 5]);
}

/// An allocation beyond the device's memory is an error that names the device, and the memory stays usable.
pub fn an_allocation_that_is_too_large_is_an_error<M: TestMemory>() {
    let memory = M::open();
    let error = memory.allocate(M::TOO_LARGE_BYTES).unwrap_err();
    let MemoryError::NoDeviceMemory { device, requested, .. } = error else { panic!("{error}") };
    assert_eq!((device, requested), (memory.device(), M::TOO_LARGE_BYTES));
    assert_eq!(memory.allocate(100).unwrap().len(), 100);
}
