//! The CPU backend under test.

use dotcompute_core::handle::KernelHandle;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};

use crate::fixture::TestBackend;
use crate::kernels::{Count, Echo, Number, Sum, TestKernel};

/// The CPU backend, with the test kernels as Rust. They run on the pool, or on threads of their own, as each test's options say.
#[derive(Debug)]
pub struct Cpu;

impl TestBackend for Cpu {
    fn open() -> Self {
        Self
    }

    fn runtime(&self) -> Runtime {
        Runtime::with_options(RuntimeOptions::new().workers(2)).expect("a runtime")
    }

    fn launch(
        &self,
        runtime: &Runtime,
        kernel: TestKernel,
        name: &str,
        options: KernelOptions,
    ) -> KernelHandle<Number, Number> {
        let launched = match kernel {
            TestKernel::Sum => runtime.launch_with(name, options, Sum::default),
            TestKernel::Count => runtime.launch_with(name, options, || Count),
            TestKernel::Echo => runtime.launch_with(name, options, || Echo),
        };
        launched.expect("launching a test kernel")
    }
}
