//! `UnifiedBuffer` compared with a plain vector, also on memory with injected errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dotcompute_conformance::buffer_model::{LEN, Model, ops};
use dotcompute_conformance::memory::TestCpuMemory;
use dotcompute_core::memory::{
    BufferState, CpuMemory, DeviceBlock, DeviceId, DeviceMemory, HostBlock, MemoryError, UnifiedBuffer,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_failed_copy_is_repeated_by_the_next_access(ops in ops()) {
        let memory = Arc::new(Faulty::default());
        let mut buffer = UnifiedBuffer::new(memory.clone(), LEN).unwrap();
        let mut model = Model::new();
        for (op, fails) in ops {
            memory.fails.store(fails, Ordering::Relaxed);
            match op.apply::<TestCpuMemory>(&mut buffer, &model.content) {
                Ok(()) => {
                    model.apply(&op);
                }
                Err(error) => {
                    prop_assert!(fails && error.to_string().contains("injected"), "{}", error);
                }
            }
        }
        memory.fails.store(false, Ordering::Relaxed);
        prop_assert_eq!(buffer.host().unwrap(), &model.content[..]);
        prop_assert_eq!(buffer.device().unwrap().as_slice().unwrap(), &model.content[..]);
    }
}

/// Memory of the `cpu` device with injected errors.
#[derive(Debug, Default)]
struct Faulty {
    fails: Arc<AtomicBool>,
}

fn check(fails: &AtomicBool) -> Result<(), MemoryError> {
    if fails.load(Ordering::Relaxed) {
        let (doing, problem) = (String::from("testing"), String::from("an injected error"));
        return Err(MemoryError::Device { device: CpuMemory::DEVICE, doing, problem });
    }
    Ok(())
}

impl DeviceMemory for Faulty {
    fn device(&self) -> DeviceId {
        CpuMemory::DEVICE
    }

    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBlock>, MemoryError> {
        // Only copies fail here; the pool's tests cover allocations. The hard case is a copy that is allocated and not filled.
        let block = CpuMemory::new().allocate(bytes)?;
        Ok(Box::new(FaultyBlock { block, fails: Arc::clone(&self.fails), copies: 0.into() }))
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

/// A block of which every other copy fails while `fails` is set, so that only some of several ranges are copied.
#[derive(Debug)]
struct FaultyBlock {
    block: Box<dyn DeviceBlock>,
    fails: Arc<AtomicBool>,
    copies: std::sync::atomic::AtomicUsize,
}

impl FaultyBlock {
    fn copy(&self) -> Result<(), MemoryError> {
        if self.copies.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            Ok(())
        } else {
            check(&self.fails)
        }
    }
}

impl DeviceBlock for FaultyBlock {
    fn address(&self) -> u64 {
        self.block.address()
    }

    fn len(&self) -> usize {
        self.block.len()
    }

    fn write(&mut self, at: usize, from: &[u8]) -> Result<(), MemoryError> {
        self.copy()?;
        self.block.write(at, from)
    }

    fn read(&self, at: usize, to: &mut [u8]) -> Result<(), MemoryError> {
        self.copy()?;
        self.block.read(at, to)
    }

    fn zero(&mut self) -> Result<(), MemoryError> {
        check(&self.fails)?;
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
fn a_vector_becomes_a_buffer_without_a_copy() {
    let elements = vec![[1.0_f32, 2.0], [3.0, 4.0]];
    let at = elements.as_ptr();
    let mut buffer = UnifiedBuffer::from_vec(CpuMemory::new(), elements).unwrap();
    assert_eq!((buffer.state(), buffer.len(), buffer.bytes()), (BufferState::HostOnly, 2, 16));
    assert_eq!(buffer.host().unwrap().as_ptr(), at);
    let device = buffer.device().unwrap();
    assert_ne!(device.address(), at.expose_provenance() as u64, "the device copy is a separate allocation");
    assert_eq!(device.address() % 256, 0);
}

#[test]
fn an_empty_buffer_works() {
    let mut buffer = UnifiedBuffer::<u64>::new(CpuMemory::new(), 0).unwrap();
    assert!(buffer.is_empty() && buffer.host().unwrap().is_empty());
    assert!(buffer.device_mut().unwrap().as_mut_slice().unwrap().is_empty());
    assert!(buffer.host_mut().unwrap().is_empty());
    assert_eq!(buffer.state(), BufferState::Synchronized);
}

#[test]
fn errors_name_the_size_and_the_range() {
    let memory = CpuMemory::new();
    let error = UnifiedBuffer::<u64>::new(memory.clone(), usize::MAX / 8).unwrap_err();
    assert_eq!(error, MemoryError::TooLarge { elements: usize::MAX / 8, element_bytes: 8 });
    let mut huge = UnifiedBuffer::<u8>::new(memory.clone(), isize::MAX as usize - 4096).unwrap();
    let error = huge.host().unwrap_err();
    assert!(matches!(error, MemoryError::NoHostMemory { .. }), "{error}");
    let error = huge.device().map(drop).unwrap_err().to_string();
    assert!(error.starts_with("allocating 9223372036854771711 bytes on cpu 0: not enough memory"), "{error}");
    assert_eq!(huge.state(), BufferState::Uninitialized);

    let mut buffer = UnifiedBuffer::<u8>::new(memory, 10).unwrap();
    let error = buffer.host_range_mut(5..11).unwrap_err();
    assert_eq!(
        error.to_string(),
        "accessing 5..11 of a buffer of length 10: out of range; use a range within 0..10"
    );
    assert!(matches!(buffer.write(usize::MAX, &[1]), Err(MemoryError::OutOfRange { .. })));
    // Reversed on purpose.
    #[expect(clippy::reversed_empty_ranges)]
    let backwards = 4..3;
    assert!(matches!(buffer.device_range_mut(backwards).map(drop), Err(MemoryError::OutOfRange { .. })));
    assert_eq!(buffer.state(), BufferState::Uninitialized);
}
