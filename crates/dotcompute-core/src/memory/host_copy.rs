//! The host's half of a buffer.

use super::cpu_memory::Bytes;
use super::{DeviceMemory, HostBlock, MemoryError, pod_cast};
use crate::message::record::Plain;

/// Elements on the host: a vector that was given, or a block.
pub(super) enum HostHalf<T> {
    Vec(Vec<T>),
    Block { block: Box<dyn HostBlock>, locked: bool },
}

impl<T: Plain> HostHalf<T> {
    /// Zeros, so many as take `bytes`; page-locked if they are to be and `memory` has such.
    pub(super) fn zeroed(memory: &dyn DeviceMemory, bytes: usize, locked: bool) -> Result<Self, MemoryError> {
        if !locked {
            let block = Bytes::zeroed(bytes).ok_or(MemoryError::NoHostMemory { requested: bytes })?;
            return Ok(Self::Block { block: Box::new(block), locked: false });
        }
        let mut block = memory.page_locked(bytes)?;
        // Somebody may have had it before.
        block.bytes_mut().fill(0);
        let found = block.bytes().len();
        if pod_cast::elements::<T>(block.bytes()).is_none() || found != bytes {
            let doing = format!("page-locking {bytes} bytes of the host");
            let problem = format!("it gave {found} bytes at {:p}; report this", block.bytes());
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
            // Looked at when it was made: there are elements, all of them.
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
