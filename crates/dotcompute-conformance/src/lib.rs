//! Conformance tests: what every [`Backend`] and every [`DeviceMemory`] of DotCompute must do, written once.
//!
//! # Contract
//!
//! The traits' own documentation states the contract. These tests check it through the public API, with a runtime on top, as users see
//! it. They use the small ring kernels of [`TestKernel`], and assert nothing about timing.
//!
//! | macro | implements | checks |
//! | --- | --- | --- |
//! | [`backend_tests!`] | [`TestBackend`] | ask, tell, receive, deactivation, supervision, abort, pipelines, exact accounting |
//! | [`device_backend_tests!`] | [`TestDevice`] | all of these, then checkpoint and restore, failed launches, a lost device |
//! | [`link_tests!`] | [`TestDevice`] | connections between ring kernels on one device |
//! | [`device_memory_tests!`] | [`TestMemory`] | blocks, page-locked memory, and `UnifiedBuffer` against a model |
//!
//! # How to instantiate them
//!
//! Add this crate as a dev-dependency, implement the trait for a type that opens your backend, and call the macro in a module of an
//! integration test. Each case becomes a `#[test]` with its own fixture:
//!
//! ```
//! use dotcompute_conformance::{Count, Echo, Number, Sum, TestBackend, TestKernel};
//! use dotcompute_core::handle::KernelHandle;
//! use dotcompute_core::options::KernelOptions;
//! use dotcompute_core::runtime::Runtime;
//!
//! /// The CPU backend.
//! struct Cpu;
//!
//! impl TestBackend for Cpu {
//!     fn open() -> Self {
//!         Cpu
//!     }
//!
//!     fn runtime(&self) -> Runtime {
//!         Runtime::new().unwrap()
//!     }
//!
//!     fn launch(
//!         &self,
//!         runtime: &Runtime,
//!         kernel: TestKernel,
//!         name: &str,
//!         options: KernelOptions,
//!     ) -> KernelHandle<Number, Number> {
//!         match kernel {
//!             TestKernel::Sum => runtime.launch_with(name, options, Sum::default).unwrap(),
//!             TestKernel::Count => runtime.launch_with(name, options, || Count).unwrap(),
//!             TestKernel::Echo => runtime.launch_with(name, options, || Echo).unwrap(),
//!         }
//!     }
//! }
//!
//! mod cpu {
//!     dotcompute_conformance::backend_tests!(super::Cpu);
//! }
//! # // The tests are compiled here and run in `crates/dotcompute-core/tests/it/conformance.rs`; one of them for an example that runs.
//! # dotcompute_conformance::backend::a_request_without_a_reply_is_an_error::<Cpu>();
//! ```
//!
//! A device backend compiles the test kernels from [`DEVICE_HANDLERS`] and implements [`TestDevice`] too. On a machine without the device,
//! [`TestBackend::unavailable`] returns the reason: each test prints it after `skipped: ` and passes.
//! [`loopback`] is the smallest backend that passes; the crate `dotcompute-cuda` instantiates the tests for its emulated device, for CUDA,
//! and for a fake CUDA driver, where every test runs in its own process.
//!
//! Every test runs under a [`watchdog`](mod@watchdog), which prints the stacks of all threads if the test hangs. Other tests that can hang use it with
//! [`watchdog!`].
//!
//! [`Backend`]: dotcompute_core::backend::Backend
//! [`DeviceMemory`]: dotcompute_core::memory::DeviceMemory

// The cases are tests: they panic by assertions, which are their documentation.
#![allow(clippy::missing_panics_doc)]

pub mod backend;
pub mod buffer_model;
pub mod cpu;
pub mod device;
pub mod links;
pub mod loopback;
pub mod memory;
pub mod watchdog;

mod fixture;
mod kernels;
mod thread_dump;

pub use fixture::{Fixture, TIMEOUT, TestBackend, TestDevice, TestMemory};
pub use kernels::{
    Count, DEVICE_HANDLERS, Echo, FAILING, FIRST_WITHOUT_REPLY, Number, Sum, TestKernel, number,
};
