//! The host copy of a buffer.

use super::cpu_memory::AlignedBytes;
use super::{DeviceMemory, HostBlock, MemoryError, pod_cast};
use crate::message::record::Plain;

/// Elements on the host: a vector that the caller passed, or a block.
pub(super) enum HostCopy<T> {
    Vec(Vec<T>),
    Block { block: Box<dyn HostBlock>, locked: bool },
}

impl<T: Plain> HostCopy<T> {
    /// Allocates `bytes` bytes of zeroed elements. With `locked`, they are page-locked if `memory` supports it.
    pub(super) fn zeroed(memory: &dyn DeviceMemory, bytes: usize, locked: bool) -> Result<Self, MemoryError> {
        if !locked {
            let block = AlignedBytes::zeroed(bytes).ok_or(MemoryError::NoHostMemory { requested: bytes })?;
            return Ok(Self::Block { block: Box::new(block), locked: false });
        }
        let mut block = memory.page_locked(bytes)?;
        // A block from a pool has the bytes of its last owner.
        block.bytes_mut().fill(0);
        let found = block.bytes().len();
        if pod_cast::elements::<T>(block.bytes()).is_none() || found != bytes {
            let doing = format!("page-locking {bytes} bytes of host memory");
            let problem = format!("it returned {found} bytes at {:p}; report this as a bug", block.bytes());
            return Err(MemoryError::Device { device: memory.device(), doing, problem });
        }
        Ok(Self::Block { block, locked: memory.supports_page_locked() })
    }

    pub(super) fn is_locked(&self) -> bool {
        matches!(self, Self::Block { locked: true, .. })
    }

    pub(super) fn elements(&self) -> &[T] {
        match self {
            Self::Vec(elements) => elements,
            // `zeroed` checked length and alignment, so the default is never used.
            Self::Block { block, .. } => pod_cast::elements(block.bytes()).unwrap_or_default(),
        }
    }

    pub(super) fn elements_mut(&mut self) -> &mut [T] {
        match self {
            Self::Vec(elements) => elements,
            Self::Block { block, .. } => pod_cast::elements_mut(block.bytes_mut()).unwrap_or_default(),
        }
    }
}
