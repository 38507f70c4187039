//! DotCompute's CUDA backend: ring kernels that stay resident on a GPU, or on the emulated device.
//!
//! Building this crate, and starting a program that uses it, needs no part of CUDA. Libraries are searched on first use; for a missing
//! one, [`Unavailable`](library::Unavailable) lists the places that were searched and what to install.
//!
//! | module | subject |
//! | --- | --- |
//! | [`library`] | search and loading of NVIDIA's compiler libraries |
//! | [`nvrtc`] | safe calls of the runtime compiler |
//! | [`nvjitlink`] | safe calls of the linker |
//! | [`compile`] | compilation of sources to a cubin, one path for every front end |
//! | [`cache`] | compiled kernels on disk |
//! | [`driver`] | the driver and its devices |
//! | [`device_code`] | the code that runs on the device |
//! | [`device_selection`] | selection of the device that a runtime uses |
//! | [`cuda`] | the backend for ring kernels on a GPU |
//! | [`emulated`] | the backend for ring kernels on an emulated device |
//!
//! The crate is built and tested on Linux. It builds on other systems too, where it finds libraries only by explicitly given paths.

pub mod architecture;
pub mod cache;
pub mod compile;
pub mod cuda;
pub mod device_code;
pub mod device_selection;
pub mod driver;
pub mod emulated;
pub mod library;
pub mod nvjitlink;
pub mod nvrtc;

mod device_peer;
mod device_port;
mod host_device_channel;
mod launch_checks;
mod links;
mod occupancy;
mod protocol;
mod relauncher;
mod resident_grid;
mod resident_kernel;
mod resident_kernels;
mod watchdog;
mod watched_kernel;

pub use architecture::Architecture;
