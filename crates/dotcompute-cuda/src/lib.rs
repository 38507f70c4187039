//! DotCompute's CUDA backend. So far its lowest floor: the driver, the compiler, and a cache of what was compiled.
//!
//! Nothing of CUDA is needed to build this crate, nor to start a program that uses it: libraries are looked for when they are first
//! asked for, and one that is missing is an [`Unavailable`](library::Unavailable) that says where was looked and what to install.
//!
//! | module | subject |
//! | --- | --- |
//! | [`library`] | finding and loading NVIDIA's compiler libraries |
//! | [`nvrtc`] | the runtime compiler, as safe calls |
//! | [`nvjitlink`] | the linker, as safe calls |
//! | [`compile`] | from sources to a cubin, by one path for every front end |
//! | [`cache`] | compiled kernels on disk |
//! | [`driver`] | the driver and its devices |
//!
//! Linux is where this is built and tested; elsewhere the crate builds, and finds nothing unless it is told the libraries' paths.

pub mod architecture;
pub mod cache;
pub mod compile;
pub mod driver;
pub mod library;
pub mod nvjitlink;
pub mod nvrtc;

pub use architecture::Architecture;
