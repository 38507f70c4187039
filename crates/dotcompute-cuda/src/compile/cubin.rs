//! The result of a compilation.

use super::{Diagnostic, ResourceUsage, diagnostic, resource_usage};

/// Machine code for one architecture, as an NVIDIA ELF file.
///
/// Only the compiler and the cache create values, so the bytes are complete. The driver relies on that: it gets the address without a
/// length.
#[derive(Clone, PartialEq, Eq)]
pub struct Cubin(Vec<u8>);

impl Cubin {
    /// Wraps the output of a compiler. Returns `None` if the bytes do not begin with the ELF magic.
    pub(crate) fn new(bytes: Vec<u8>) -> Option<Self> {
        bytes.starts_with(b"\x7fELF").then_some(Self(bytes))
    }

    /// Returns the bytes of the ELF file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Cubin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cubin({} bytes)", self.0.len())
    }
}

/// A compiled kernel with the logs of the compiler and the linker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledKernel {
    /// The machine code.
    pub cubin: Cubin,
    /// The log of NVRTC, followed by the log of nvJitLink.
    pub log: String,
}

impl CompiledKernel {
    /// Returns the warnings and remarks in the log.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        diagnostic::parse(&self.log)
    }

    /// Returns the registers, stack, spills and shared memory of each function, as reported by the assembler.
    pub fn resource_usage(&self) -> Vec<ResourceUsage> {
        resource_usage::parse(&self.log)
    }
}
