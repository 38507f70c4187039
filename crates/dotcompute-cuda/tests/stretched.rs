//! The conformance tests on an emulated device under stress: its stores become visible late, and its fences take long, at random.
//!
//! The other tests of the emulated device run under stress too if `DOTCOMPUTE_EMULATED_STRETCH` has a seed.

use std::sync::Arc;
use std::time::Duration;

use dotcompute_conformance::{
    DEVICE_HANDLERS, Number, TIMEOUT, TestBackend, TestDevice, TestKernel, number, watchdog,
};
use dotcompute_core::device::{DeviceKernel, Shape};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_cuda::emulated::{EmulatedBackend, EmulatedOptions};

mod thread_shape {
    dotcompute_conformance::device_backend_tests!(super::Stretched<0>);
    dotcompute_conformance::link_tests!(super::Stretched<0>);
}

mod grid_shape {
    dotcompute_conformance::device_backend_tests!(super::Stretched<1>);
    dotcompute_conformance::link_tests!(super::Stretched<1>);
}

/// The emulated device under stress, with ring kernels of this shape.
struct Stretched<const SHAPE: usize>(Arc<EmulatedBackend>);

const SHAPES: [Shape; 2] = [Shape::Thread { threads: 1 }, Shape::Grid { blocks: 2, threads: 2 }];

/// An emulated device under stress whose ring kernels leave often.
fn device(seed: u64) -> Arc<EmulatedBackend> {
    let mut options = EmulatedOptions::default();
    options.stretch_seed = Some(seed);
    options.idle_timeout = Duration::from_millis(1);
    options.max_residency = Duration::from_millis(20);
    EmulatedBackend::with_options(options).unwrap()
}

fn runtime(device: Arc<EmulatedBackend>) -> Runtime {
    Runtime::with_options(RuntimeOptions::new().workers(2).device(device)).unwrap()
}

impl<const SHAPE: usize> TestBackend for Stretched<SHAPE> {
    fn open() -> Self {
        Self(device(17))
    }

    fn runtime(&self) -> Runtime {
        runtime(self.0.clone())
    }

    fn launch(
        &self,
        runtime: &Runtime,
        kernel: TestKernel,
        name: &str,
        options: KernelOptions,
    ) -> KernelHandle<Number, Number> {
        self.launch_on_device(runtime, kernel, name, options)
    }
}

impl<const SHAPE: usize> TestDevice for Stretched<SHAPE> {
    fn kernel(&self, entry: &'static str) -> DeviceKernel<Number, Number> {
        let kernel = DeviceKernel::cuda_cpp("conformance.cu", DEVICE_HANDLERS).entry(entry);
        kernel.state(number(0)).queue_capacity(4).shape(SHAPES[SHAPE])
    }
}

/// Requests arrive around the idle timeout, while the ring kernel decides whether it leaves.
#[test]
fn no_request_is_lost_while_a_kernel_leaves_the_device() {
    watchdog!();
    for seed in 0..4 {
        let runtime = runtime(device(seed));
        let sum = DeviceKernel::<Number, Number>::cuda_cpp("conformance.cu", DEVICE_HANDLERS)
            .entry("sum")
            .state(number(0));
        let sum = sum.shape(Shape::Block { threads: 1 });
        let sum = runtime.launch_on_device("sum", KernelOptions::new(), sum).unwrap();
        sum.activate().unwrap();
        for round in 1..=200 {
            assert_eq!(sum.ask(number(1)).unwrap(), number(round));
            std::thread::sleep(Duration::from_micros(900 + round));
        }
        runtime.shutdown(TIMEOUT).unwrap();
        assert_eq!(sum.stats().handled, 200);
    }
}
