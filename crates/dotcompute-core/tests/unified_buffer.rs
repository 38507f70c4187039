//! `UnifiedBuffer` against a plain vector, with memory that fails when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dotcompute_core::memory::{
    CpuMemory, DeviceBlock, DeviceId, HostBlock, MOST_RANGES, Memory, MemoryError, MemoryPool, PoolOptions,
    State, Transfers, UnifiedBuffer,
};
use proptest::prelude::*;

const LEN: usize = 150;

/// What the model knows: the content, which halves there are, and which elements each side lacks.
struct Model {
    content: Vec<u16>,
    host: bool,
    device: bool,
    newer_on_host: [bool; LEN],
    newer_on_device: [bool; LEN],
    /// The most ranges that were newer at once.
    ranges: usize,
}

impl Model {
    fn new() -> Self {
        let none = [false; LEN];
        Self {
            content: vec![0; LEN],
            host: false,
            device: false,
            newer_on_host: none,
            newer_on_device: none,
            ranges: 0,
        }
    }

    /// The host looks: how many elements have to be copied there.
    fn host_looks(&mut self) -> usize {
        let missing = if self.host {
            count(&self.newer_on_device)
        } else if self.device {
            LEN
        } else {
            0
        };
        self.host = true;
        self.newer_on_device.fill(false);
        missing
    }

    fn device_looks(&mut self) -> usize {
        let missing = if self.device {
            count(&self.newer_on_host)
        } else if self.host {
            LEN
        } else {
            0
        };
        self.device = true;
        self.newer_on_host.fill(false);
        missing
    }

    fn set(&mut self, range: std::ops::Range<usize>, value: u16, on_host: bool) {
        self.content[range.clone()].fill(value);
        if self.host && self.device {
            let newer = if on_host { &mut self.newer_on_host } else { &mut self.newer_on_device };
            newer[range].fill(true);
            let runs = newer.chunk_by(|a, b| a == b).filter(|run| run[0]).count();
            self.ranges = self.ranges.max(runs);
        }
    }

    fn state(&self) -> State {
        match (self.host, self.device, count(&self.newer_on_host), count(&self.newer_on_device)) {
            (false, false, ..) => State::Uninitialized,
            (true, false, ..) => State::HostOnly,
            (false, true, ..) => State::DeviceOnly,
            (true, true, 0, 0) => State::Synchronized,
            (true, true, _, 0) => State::HostDirty,
            (true, true, ..) => State::DeviceDirty,
        }
    }
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|flag| **flag).count()
}

#[derive(Debug, Clone)]
enum Op {
    HostWrite(usize, usize, u16),
    Overwrite(usize, usize, u16),
    DeviceWrite(usize, usize, u16),
    HostRead,
    DeviceRead,
    Synchronize,
    ReleaseHost,
    ReleaseDevice,
}

fn ops() -> impl Strategy<Value = Vec<(Op, bool)>> {
    let range = || (0..LEN, 0..8_usize, 1..u16::MAX);
    let op = prop_oneof![
        8 => range().prop_map(|(at, len, value)| Op::HostWrite(at, len, value)),
        4 => range().prop_map(|(at, len, value)| Op::Overwrite(at, len, value)),
        8 => range().prop_map(|(at, len, value)| Op::DeviceWrite(at, len, value)),
        2 => Just(Op::HostRead),
        2 => Just(Op::DeviceRead),
        1 => Just(Op::Synchronize),
        1 => Just(Op::ReleaseHost),
        1 => Just(Op::ReleaseDevice),
    ];
    // With each, whether the memory fails.
    prop::collection::vec((op, prop::bool::weighted(0.2)), 0..80)
}

/// Does it to the buffer.
fn act(buffer: &mut UnifiedBuffer<u16>, op: &Op, expected: &[u16]) -> Result<(), MemoryError> {
    match *op {
        Op::HostWrite(at, len, value) => buffer.host_range_mut(at..(at + len).min(LEN))?.fill(value),
        Op::Overwrite(at, len, value) => buffer.write(at, &vec![value; len.min(LEN - at)])?,
        Op::DeviceWrite(at, len, value) => {
            let mut range = buffer.device_range_mut(at..(at + len).min(LEN))?;
            range.as_mut_slice().expect("the cpu device").fill(value);
        }
        Op::HostRead => assert_eq!(buffer.host()?, expected),
        Op::DeviceRead => assert_eq!(buffer.device()?.as_slice().expect("the cpu device"), expected),
        Op::Synchronize => buffer.synchronize()?,
        Op::ReleaseHost => buffer.release_host()?,
        Op::ReleaseDevice => buffer.release_device()?,
    }
    Ok(())
}

/// Does it to the model; returns how many elements are copied to the host and to the device.
fn follow(model: &mut Model, op: &Op) -> (usize, usize) {
    match *op {
        Op::HostWrite(at, len, value) => {
            let copied = model.host_looks();
            model.set(at..(at + len).min(LEN), value, true);
            (copied, 0)
        }
        Op::Overwrite(at, len, value) => {
            let range = at..(at + len).min(LEN);
            let all = !model.host && model.device;
            let spared = if all { range.len() } else { count(&model.newer_on_device[range.clone()]) };
            let copied = model.host_looks() - spared;
            model.set(range, value, true);
            (copied, 0)
        }
        Op::DeviceWrite(at, len, value) => {
            let copied = model.device_looks();
            model.set(at..(at + len).min(LEN), value, false);
            (0, copied)
        }
        Op::HostRead => (model.host_looks(), 0),
        Op::DeviceRead => (0, model.device_looks()),
        Op::Synchronize => match model.state() {
            State::HostDirty => (0, model.device_looks()),
            State::DeviceDirty => (model.host_looks(), 0),
            _ => (0, 0),
        },
        Op::ReleaseHost if model.host => {
            let copied = model.device_looks();
            model.host = false;
            (0, copied)
        }
        Op::ReleaseDevice if model.device => {
            let copied = model.host_looks();
            model.device = false;
            (copied, 0)
        }
        Op::ReleaseHost | Op::ReleaseDevice => (0, 0),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn both_sides_see_what_either_wrote_and_only_changes_are_copied(ops in ops(), locked: bool) {
        let pool = MemoryPool::new(CpuMemory::new(), PoolOptions::new());
        dirty_the_pool(&pool);
        let make = if locked { UnifiedBuffer::page_locked } else { UnifiedBuffer::new };
        let mut buffer = make(pool, LEN).unwrap();
        let mut model = Model::new();
        let (mut to_host, mut to_device) = (0, 0);
        for (op, _) in ops {
            let expected = model.content.clone();
            act(&mut buffer, &op, &expected).unwrap();
            let (down, up) = follow(&mut model, &op);
            to_host += 2 * down as u64;
            to_device += 2 * up as u64;
            let Transfers { to_host_bytes, to_device_bytes, .. } = buffer.transfers();
            if model.ranges <= MOST_RANGES {
                prop_assert_eq!((to_host_bytes, to_device_bytes), (to_host, to_device), "{:?}", op);
                prop_assert_eq!(buffer.state(), model.state());
            } else {
                prop_assert!(to_host_bytes >= to_host && to_device_bytes >= to_device);
            }
            if let Some(seen) = buffer.peek_host() {
                prop_assert_eq!(seen, &model.content[..]);
            }
        }
        prop_assert_eq!(buffer.host().unwrap(), &model.content[..]);
    }

    #[test]
    fn what_failed_is_done_by_the_next_look(ops in ops()) {
        let memory = Arc::new(Faulty::default());
        let mut buffer = UnifiedBuffer::new(memory.clone(), LEN).unwrap();
        let mut model = Model::new();
        for (op, fails) in ops {
            memory.fails.store(fails, Ordering::Relaxed);
            match act(&mut buffer, &op, &model.content) {
                Ok(()) => {
                    follow(&mut model, &op);
                }
                Err(error) => {
                    prop_assert!(fails && error.to_string().contains("told to"), "{}", error);
                }
            }
        }
        memory.fails.store(false, Ordering::Relaxed);
        prop_assert_eq!(buffer.host().unwrap(), &model.content[..]);
        prop_assert_eq!(buffer.device().unwrap().as_slice().unwrap(), &model.content[..]);
    }
}

/// Leaves blocks in the pool whose bytes are not zeros.
fn dirty_the_pool(pool: &Arc<MemoryPool>) {
    let mut before = UnifiedBuffer::<u16>::page_locked(pool.clone(), LEN).unwrap();
    before.host_mut().unwrap().fill(u16::MAX);
    before.device().unwrap();
    drop(before);
    assert!(pool.stats().blocks_cached == 1 && pool.page_locked_stats().blocks_cached == 1);
}

/// Memory of the `cpu` device that fails when it is told to.
#[derive(Debug, Default)]
struct Faulty {
    fails: Arc<AtomicBool>,
}

fn check(fails: &AtomicBool) -> Result<(), MemoryError> {
    if fails.load(Ordering::Relaxed) {
        let (doing, problem) = (String::from("testing"), String::from("it was told to fail"));
        return Err(MemoryError::Device { device: CpuMemory::DEVICE, doing, problem });
    }
    Ok(())
}

impl Memory for Faulty {
    fn device(&self) -> DeviceId {
        CpuMemory::DEVICE
    }

    fn allocate(&self, bytes: usize) -> Result<Box<dyn DeviceBlock>, MemoryError> {
        // Only copies fail here, and the pool's tests look at allocations: a half that is made and not filled is what is hard.
        let block = CpuMemory::new().allocate(bytes)?;
        Ok(Box::new(FaultyBlock { block, fails: Arc::clone(&self.fails), copies: 0.into() }))
    }

    fn locks_pages(&self) -> bool {
        false
    }

    fn page_locked(&self, bytes: usize) -> Result<Box<dyn HostBlock>, MemoryError> {
        CpuMemory::new().page_locked(bytes)
    }

    fn trim(&self) -> Result<(), MemoryError> {
        Ok(())
    }
}

/// Every other copy fails, while copies are to fail: so of several ranges some arrive.
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
    assert_eq!((buffer.state(), buffer.len(), buffer.bytes()), (State::HostOnly, 2, 16));
    assert_eq!(buffer.host().unwrap().as_ptr(), at);
    let device = buffer.device().unwrap();
    assert_ne!(device.address(), at.expose_provenance() as u64, "the device has memory of its own");
    assert_eq!(device.address() % 256, 0);
}

#[test]
fn an_empty_buffer_is_like_any_other() {
    let mut buffer = UnifiedBuffer::<u64>::new(CpuMemory::new(), 0).unwrap();
    assert!(buffer.is_empty() && buffer.host().unwrap().is_empty());
    assert!(buffer.device_mut().unwrap().as_mut_slice().unwrap().is_empty());
    assert!(buffer.host_mut().unwrap().is_empty());
    assert_eq!(buffer.state(), State::Synchronized);
}

#[test]
fn what_cannot_be_had_is_an_error_that_says_what() {
    let memory = CpuMemory::new();
    let error = UnifiedBuffer::<u64>::new(memory.clone(), usize::MAX / 8).unwrap_err();
    assert_eq!(error, MemoryError::TooLarge { elements: usize::MAX / 8, element_bytes: 8 });
    let mut huge = UnifiedBuffer::<u8>::new(memory.clone(), isize::MAX as usize - 4096).unwrap();
    let error = huge.host().unwrap_err();
    assert!(matches!(error, MemoryError::NoHostMemory { .. }), "{error}");
    let error = huge.device().map(drop).unwrap_err().to_string();
    assert!(error.starts_with("cpu 0 has no 9223372036854771711 bytes to give"), "{error}");
    assert_eq!(huge.state(), State::Uninitialized);

    let mut buffer = UnifiedBuffer::<u8>::new(memory, 10).unwrap();
    let error = buffer.host_range_mut(5..11).unwrap_err();
    assert_eq!(error.to_string(), "5..11 is not within a buffer of 10; count elements, from 0");
    assert!(matches!(buffer.write(usize::MAX, &[1]), Err(MemoryError::OutOfRange { .. })));
    // The other way round on purpose.
    #[expect(clippy::reversed_empty_ranges)]
    let backwards = 4..3;
    assert!(matches!(buffer.device_range_mut(backwards).map(drop), Err(MemoryError::OutOfRange { .. })));
    assert_eq!(buffer.state(), State::Uninitialized);
}
