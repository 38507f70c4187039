//! Compiles sources to a cubin, in the same way for every front end.
//!
//! 1. NVRTC compiles the text to LTO-IR (`-dlto -rdc=true`).
//! 2. nvJitLink links it with the LTO-IR of other front ends to a cubin for one architecture (`-lto -O3`). Calls across the parts are
//!    inlined.
//!
//! If nvJitLink is missing or older than NVRTC, NVRTC compiles the text directly to a cubin: nvJitLink rejects LTO-IR from a newer toolkit.
//! The result is as good, but parts from other front ends cannot be linked.
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
//! The compiler reads no files: the text may `#include` only the headers in the [`Input`], and NVRTC has none built in. There are two
//! exceptions: an option `-I` and an `#include` with an absolute path. The [cache](crate::cache) does not notice when such a file changes.

mod cubin;
mod diagnostic;
mod error;
mod input;
mod resource_usage;
mod toolchain;

pub use cubin::{CompiledKernel, Cubin};
pub use diagnostic::{Diagnostic, Severity};
pub use error::{CompileError, NoLinker, Stage};
pub use input::{Input, LtoIr, Source};
pub use resource_usage::ResourceUsage;
pub use toolchain::Toolchain;
