//! From sources to a cubin, by one path for every front end.
//!
//! 1. NVRTC compiles the text to LTO-IR (`-dlto -rdc=true`).
//! 2. nvJitLink links it with whatever other front ends have made (LTO-IR too) to a cubin for one architecture (`-lto -O3`). What is
//!    called across the parts is inlined.
//!
//! Where nvJitLink is missing, or older than NVRTC (it refuses LTO-IR from a newer toolkit), NVRTC compiles the text to a cubin by
//! itself. The result is as good, but there can be no parts from other front ends.
//!
//! ```no_run
//! use dotcompute_cuda::Architecture;
//! use dotcompute_cuda::compile::{Input, Source, Toolchain};
//! use dotcompute_cuda::library::Search;
//!
//! let toolchain = Toolchain::load(&Search::from_environment())?;
//! let input = Input::new("scale", Architecture { major: 9, minor: 0 })
//!     .header(Source::new("factor.cuh", "constexpr float FACTOR = 2;"))
//!     .source(Source::new("scale.cu", r#"
//!         #include "factor.cuh"
//!         extern "C" __global__ void scale(float* x) { x[threadIdx.x] *= FACTOR; }
//!     "#));
//! let kernel = toolchain.compile(&input)?;
//! println!("{} bytes, {:?}", kernel.cubin.as_bytes().len(), kernel.resource_usage());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Nothing is looked for on disk: the text may `#include` the headers that are given, and nothing else. (NVRTC has none built in.) Two
//! things lead out of that, an option `-I` and an `#include` of an absolute path; the [cache](crate::cache) does not notice when such a
//! file changes.

mod cubin;
mod diagnostic;
mod error;
mod input;
mod resource_usage;
mod toolchain;

pub use cubin::{Cubin, Kernel};
pub use diagnostic::{Diagnostic, Severity};
pub use error::{CompileError, NoLinker, Stage};
pub use input::{Input, LtoIr, Source};
pub use resource_usage::ResourceUsage;
pub use toolchain::Toolchain;
