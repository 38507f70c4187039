//! `UnifiedBuffer` compared with a plain vector, on memory of any device.

use std::sync::Arc;

use dotcompute_core::memory::{
    BufferState, DeviceMemory, DeviceSlice, DeviceSliceMut, MAX_DIRTY_RANGES, MemoryError, MemoryPool,
    PoolOptions, Transfers, UnifiedBuffer,
};
use proptest::prelude::*;

pub const LEN: usize = 150;

/// The model: the content, which copies exist, and which elements are stale on each side.
pub struct Model {
    pub content: Vec<u16>,
    host: bool,
    device: bool,
    dirty_on_host: [bool; LEN],
    dirty_on_device: [bool; LEN],
    /// Maximum number of dirty ranges so far.
    max_ranges: usize,
}

impl Model {
    pub fn new() -> Self {
        let none = [false; LEN];
        Self {
            content: vec![0; LEN],
            host: false,
            device: false,
            dirty_on_host: none,
            dirty_on_device: none,
            max_ranges: 0,
        }
    }

    /// The host accesses the buffer; returns the number of elements copied to the host.
    fn access_host(&mut self) -> usize {
        let stale = if self.host {
            count(&self.dirty_on_device)
        } else if self.device {
            LEN
        } else {
            0
        };
        self.host = true;
        self.dirty_on_device.fill(false);
        stale
    }

    /// The device accesses the buffer; returns the number of elements copied to the device.
    fn access_device(&mut self) -> usize {
        let stale = if self.device {
            count(&self.dirty_on_host)
        } else if self.host {
            LEN
        } else {
            0
        };
        self.device = true;
        self.dirty_on_host.fill(false);
        stale
    }

    fn set(&mut self, range: std::ops::Range<usize>, value: u16, on_host: bool) {
        self.content[range.clone()].fill(value);
        if self.host && self.device {
            let dirty = if on_host { &mut self.dirty_on_host } else { &mut self.dirty_on_device };
            dirty[range].fill(true);
            let runs = dirty.chunk_by(|a, b| a == b).filter(|run| run[0]).count();
            self.max_ranges = self.max_ranges.max(runs);
        }
    }

    fn state(&self) -> BufferState {
        match (self.host, self.device, count(&self.dirty_on_host), count(&self.dirty_on_device)) {
            (false, false, ..) => BufferState::Uninitialized,
            (true, false, ..) => BufferState::HostOnly,
            (false, true, ..) => BufferState::DeviceOnly,
            (true, true, 0, 0) => BufferState::Synchronized,
            (true, true, _, 0) => BufferState::HostDirty,
            (true, true, ..) => BufferState::DeviceDirty,
        }
    }
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|flag| **flag).count()
}

#[derive(Debug, Clone)]
pub enum Op {
    HostWrite(usize, usize, u16),
    Overwrite(usize, usize, u16),
    DeviceWrite(usize, usize, u16),
    HostRead,
    DeviceRead,
    Synchronize,
    ReleaseHost,
    ReleaseDevice,
}

pub fn ops() -> impl Strategy<Value = Vec<(Op, bool)>> {
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
    // Paired with whether the memory fails.
    prop::collection::vec((op, prop::bool::weighted(0.2)), 0..80)
}

/// Access to the device side of a buffer.
pub trait Side {
    fn fill(slice: DeviceSliceMut<'_, u16>, value: u16);
    fn read(slice: DeviceSlice<'_, u16>) -> Vec<u16>;
}

/// Applies an operation to the buffer.
pub fn apply<S: Side>(buffer: &mut UnifiedBuffer<u16>, op: &Op, expected: &[u16]) -> Result<(), MemoryError> {
    match *op {
        Op::HostWrite(at, len, value) => buffer.host_range_mut(at..(at + len).min(LEN))?.fill(value),
        Op::Overwrite(at, len, value) => buffer.write(at, &vec![value; len.min(LEN - at)])?,
        Op::DeviceWrite(at, len, value) => {
            S::fill(buffer.device_range_mut(at..(at + len).min(LEN))?, value);
        }
        Op::HostRead => assert_eq!(buffer.host()?, expected),
        Op::DeviceRead => assert_eq!(S::read(buffer.device()?), expected),
        Op::Synchronize => buffer.synchronize()?,
        Op::ReleaseHost => buffer.release_host()?,
        Op::ReleaseDevice => buffer.release_device()?,
    }
    Ok(())
}

/// Applies an operation to the model; returns the numbers of elements copied to the host and to the device.
pub fn follow(model: &mut Model, op: &Op) -> (usize, usize) {
    match *op {
        Op::HostWrite(at, len, value) => {
            let copied = model.access_host();
            model.set(at..(at + len).min(LEN), value, true);
            (copied, 0)
        }
        Op::Overwrite(at, len, value) => {
            let range = at..(at + len).min(LEN);
            let all = !model.host && model.device;
            let overwritten = if all { range.len() } else { count(&model.dirty_on_device[range.clone()]) };
            let copied = model.access_host() - overwritten;
            model.set(range, value, true);
            (copied, 0)
        }
        Op::DeviceWrite(at, len, value) => {
            let copied = model.access_device();
            model.set(at..(at + len).min(LEN), value, false);
            (0, copied)
        }
        Op::HostRead => (model.access_host(), 0),
        Op::DeviceRead => (0, model.access_device()),
        Op::Synchronize => match model.state() {
            BufferState::HostDirty => (0, model.access_device()),
            BufferState::DeviceDirty => (model.access_host(), 0),
            _ => (0, 0),
        },
        Op::ReleaseHost if model.host => {
            let copied = model.access_device();
            model.host = false;
            (0, copied)
        }
        Op::ReleaseDevice if model.device => {
            let copied = model.access_host();
            model.device = false;
            (copied, 0)
        }
        Op::ReleaseHost | Op::ReleaseDevice => (0, 0),
    }
}

/// Checks that both sides agree with the model, and that only changes are copied.
pub fn agrees<S: Side>(
    memory: Arc<dyn DeviceMemory>,
    ops: Vec<(Op, bool)>,
    locked: bool,
) -> Result<(), TestCaseError> {
    let pool = MemoryPool::new(memory, PoolOptions::new());
    dirty_the_pool(&pool);
    let make = if locked { UnifiedBuffer::page_locked } else { UnifiedBuffer::new };
    let mut buffer = make(pool, LEN).unwrap();
    let mut model = Model::new();
    let (mut to_host, mut to_device) = (0, 0);
    for (op, _) in ops {
        let expected = model.content.clone();
        apply::<S>(&mut buffer, &op, &expected).unwrap();
        let (down, up) = follow(&mut model, &op);
        to_host += 2 * down as u64;
        to_device += 2 * up as u64;
        let Transfers { to_host_bytes, to_device_bytes, .. } = buffer.transfers();
        if model.max_ranges <= MAX_DIRTY_RANGES {
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
    Ok(())
}

/// Leaves cached blocks in the pool whose bytes are not zeros.
fn dirty_the_pool(pool: &Arc<MemoryPool>) {
    let mut before = UnifiedBuffer::<u16>::page_locked(pool.clone(), LEN).unwrap();
    before.host_mut().unwrap().fill(u16::MAX);
    before.device().unwrap();
    drop(before);
    assert!(pool.stats().blocks_cached == 1 && pool.page_locked_stats().blocks_cached == 1);
}
