//! DotCompute's CUDA backend: ring kernels that stay resident on a GPU, or on the emulated device.
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
//! | [`device_code`] | what runs on the device |
//! | [`device_selection`] | which device a runtime is given, and why |
//! | [`cuda`] | the backend: ring kernels on a GPU |
//! | [`emulated`] | a device made of threads |
//!
//! Linux is where this is built and tested; elsewhere the crate builds, and finds nothing unless it is told the libraries' paths.

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
mod resident_grid;
mod resident_kernel;
mod watchdog;

pub use architecture::Architecture;
