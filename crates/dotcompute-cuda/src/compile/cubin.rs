//! What was compiled.

use super::{Diagnostic, ResourceUsage, diagnostic, resource_usage};

/// Machine code for one architecture: an ELF file of NVIDIA's.
///
/// Only the compiler and the cache make one, so it is whole: the driver, which is given its address and not its length, may read it.
#[derive(Clone, PartialEq, Eq)]
pub struct Cubin(Vec<u8>);

impl Cubin {
    /// Takes what a compiler made. None if it does not even begin like a cubin.
    pub(crate) fn new(bytes: Vec<u8>) -> Option<Self> {
        bytes.starts_with(b"\x7fELF").then_some(Self(bytes))
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Cubin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cubin({} bytes)", self.0.len())
    }
}

/// A kernel as it was compiled, and what the compiler and the linker had to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The machine code.
    pub cubin: Cubin,
    /// Everything that NVRTC and nvJitLink said, one after the other.
    pub log: String,
}

impl Kernel {
    /// The warnings and remarks in the log.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        diagnostic::parse(&self.log)
    }

    /// What each function took of the device, as the assembler reported it.
    pub fn resource_usage(&self) -> Vec<ResourceUsage> {
        resource_usage::parse(&self.log)
    }
}
