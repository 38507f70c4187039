//! A model of `UnifiedBuffer`: a plain vector, with which copies exist and which of their elements are stale.

use dotcompute_core::memory::{BufferState, MemoryError, UnifiedBuffer};
use proptest::prelude::*;

use crate::fixture::TestMemory;

/// Elements of the buffer.
pub const LEN: usize = 150;

/// The expected content, the copies that exist, and the elements in which each copy is stale.
pub struct Model {
    /// The elements that both sides must read.
    pub content: Vec<u16>,
    host: bool,
    device: bool,
    dirty_on_host: [bool; LEN],
    dirty_on_device: [bool; LEN],
    /// Most dirty ranges at any time.
    pub(crate) max_ranges: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self::new()
    }
}

impl Model {
    /// A buffer of zeros without a copy on either side.
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

    /// The host accesses its copy. Returns the elements that must be copied there.
    fn access_host(&mut self) -> usize {
        let missing = if self.host {
            count(&self.dirty_on_device)
        } else if self.device {
            LEN
        } else {
            0
        };
        self.host = true;
        self.dirty_on_device.fill(false);
        missing
    }

    /// The device accesses its copy. Returns the elements that must be copied there.
    fn access_device(&mut self) -> usize {
        let missing = if self.device {
            count(&self.dirty_on_host)
        } else if self.host {
            LEN
        } else {
            0
        };
        self.device = true;
        self.dirty_on_host.fill(false);
        missing
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

    /// The state that the buffer must report.
    pub fn state(&self) -> BufferState {
        match (self.host, self.device, count(&self.dirty_on_host), count(&self.dirty_on_device)) {
            (false, false, ..) => BufferState::Uninitialized,
            (true, false, ..) => BufferState::HostOnly,
            (false, true, ..) => BufferState::DeviceOnly,
            (true, true, 0, 0) => BufferState::Synchronized,
            (true, true, _, 0) => BufferState::HostDirty,
            (true, true, ..) => BufferState::DeviceDirty,
        }
    }

    /// Performs an operation on the model. Returns the elements that it copies to the host and to the device.
    pub fn apply(&mut self, op: &Op) -> (usize, usize) {
        match *op {
            Op::HostWrite(at, len, value) => {
                let copied = self.access_host();
                self.set(at..(at + len).min(LEN), value, true);
                (copied, 0)
            }
            Op::Overwrite(at, len, value) => {
                let range = at..(at + len).min(LEN);
                let all = !self.host && self.device;
                let spared = if all { range.len() } else { count(&self.dirty_on_device[range.clone()]) };
                let copied = self.access_host() - spared;
                self.set(range, value, true);
                (copied, 0)
            }
            Op::DeviceWrite(at, len, value) => {
                let copied = self.access_device();
                self.set(at..(at + len).min(LEN), value, false);
                (0, copied)
            }
            Op::HostRead => (self.access_host(), 0),
            Op::DeviceRead => (0, self.access_device()),
            Op::Synchronize => match self.state() {
                BufferState::HostDirty => (0, self.access_device()),
                BufferState::DeviceDirty => (self.access_host(), 0),
                _ => (0, 0),
            },
            Op::ReleaseHost if self.host => {
                let copied = self.access_device();
                self.host = false;
                (0, copied)
            }
            Op::ReleaseDevice if self.device => {
                let copied = self.access_host();
                self.device = false;
                (copied, 0)
            }
            Op::ReleaseHost | Op::ReleaseDevice => (0, 0),
        }
    }
}

fn count(flags: &[bool]) -> usize {
    flags.iter().filter(|flag| **flag).count()
}

/// An operation on a buffer. Writes have a first element, a length and a value.
#[derive(Debug, Clone)]
pub enum Op {
    /// Write through the host's copy.
    HostWrite(usize, usize, u16),
    /// Replace elements without reading them.
    Overwrite(usize, usize, u16),
    /// Write through the device's copy.
    DeviceWrite(usize, usize, u16),
    /// Read all elements on the host.
    HostRead,
    /// Read all elements on the device.
    DeviceRead,
    /// Bring the stale copy up to date.
    Synchronize,
    /// Release the host's copy.
    ReleaseHost,
    /// Release the device's copy.
    ReleaseDevice,
}

impl Op {
    /// Performs the operation on a buffer; reads are compared with `expected`.
    ///
    /// # Errors
    ///
    /// Those of the buffer.
    pub fn apply<M: TestMemory>(
        &self,
        buffer: &mut UnifiedBuffer<u16>,
        expected: &[u16],
    ) -> Result<(), MemoryError> {
        match *self {
            Op::HostWrite(at, len, value) => buffer.host_range_mut(at..(at + len).min(LEN))?.fill(value),
            Op::Overwrite(at, len, value) => buffer.write(at, &vec![value; len.min(LEN - at)])?,
            Op::DeviceWrite(at, len, value) => {
                M::fill(buffer.device_range_mut(at..(at + len).min(LEN))?, value);
            }
            Op::HostRead => assert_eq!(buffer.host()?, expected),
            Op::DeviceRead => assert_eq!(M::read(buffer.device()?), expected),
            Op::Synchronize => buffer.synchronize()?,
            Op::ReleaseHost => buffer.release_host()?,
            Op::ReleaseDevice => buffer.release_device()?,
        }
        Ok(())
    }
}

/// Up to 80 operations, each with whether the memory fails during it.
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
    prop::collection::vec((op, prop::bool::weighted(0.2)), 0..80)
}
