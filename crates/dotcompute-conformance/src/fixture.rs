//! What an implementer provides for the tests, and the fixture that each test starts from.

use std::sync::Arc;
use std::time::Duration;

use dotcompute_core::device::DeviceKernel;
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::memory::{DeviceMemory, DeviceSlice, DeviceSliceMut};
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::Runtime;

use crate::kernels::{Number, TestKernel};
use crate::watchdog::{DEFAULT_LIMIT, watched};

/// Bound of every wait in the tests: longer than anything here takes.
pub const TIMEOUT: Duration = Duration::from_secs(20);

/// A backend under test. Each test opens one of its own.
///
/// [`backend_tests!`](crate::backend_tests!) has an example.
pub trait TestBackend: Sized {
    /// Why this machine cannot run the tests, which then print the reason and pass.
    fn unavailable() -> Option<String> {
        None
    }

    /// Opens the backend.
    fn open() -> Self;

    /// A runtime with two workers that runs device programs on this backend.
    fn runtime(&self) -> Runtime;

    /// Launches a test kernel under a name. On a device it has a queue of 4 messages, so that the tests fill it.
    fn launch(
        &self,
        runtime: &Runtime,
        kernel: TestKernel,
        name: &str,
        options: KernelOptions,
    ) -> KernelHandle<Number, Number>;

    /// Loses the device with everything on it, as an error of its context does. False if the backend has no such call.
    fn lose_device(&self, _reason: &str) -> bool {
        false
    }
}

/// A backend under test that runs device programs.
///
/// [`device_backend_tests!`](crate::device_backend_tests!) has an example.
pub trait TestDevice: TestBackend {
    /// Messages that a link in device memory holds.
    const LINK_CAPACITY: u64 = 256;

    /// Links that a ring kernel may have as the producer. Further connections go through the host.
    const MAX_LINKS: u64 = 8;

    /// After this time without messages a ring kernel is off the device, if the backend has an idle timeout.
    const IDLE_TIME: Duration = Duration::from_millis(1300);

    /// The device kernel with the handler of this name, a state of `Number { value: 0 }` and a queue of 4 messages. The handlers are `sum`
    /// and `count`; the device has none called `missing`.
    fn kernel(&self, entry: &'static str) -> DeviceKernel<Number, Number>;

    /// Launches a test kernel: [`TestBackend::launch`] of a device.
    fn launch_on_device(
        &self,
        runtime: &Runtime,
        kernel: TestKernel,
        name: &str,
        options: KernelOptions,
    ) -> KernelHandle<Number, Number> {
        runtime.launch_on_device(name, options, self.kernel(kernel.entry())).expect("launching a test kernel")
    }
}

/// A `DeviceMemory` under test, with the device's own means to access it.
///
/// [`device_memory_tests!`](crate::device_memory_tests!) has an example.
pub trait TestMemory {
    /// Cases of the property test.
    const CASES: u32 = 400;

    /// A size that the device can address and does not have.
    const TOO_LARGE_BYTES: usize = isize::MAX as usize - 4096;

    /// Why this machine cannot run the tests, which then print the reason and pass.
    fn unavailable() -> Option<String> {
        None
    }

    /// Opens the memory.
    fn open() -> Arc<dyn DeviceMemory>;

    /// Sets all elements, as the device does.
    fn fill(slice: DeviceSliceMut<'_, u16>, value: u16);

    /// The elements, as the device reads them.
    fn read(slice: DeviceSlice<'_, u16>) -> Vec<u16>;
}

/// A backend with a runtime.
pub struct Fixture<B> {
    /// The backend under test.
    pub backend: B,
    /// Its runtime.
    pub runtime: Runtime,
}

impl<B: TestBackend> Fixture<B> {
    /// Opens the backend and creates its runtime.
    #[expect(clippy::new_without_default, reason = "opening a backend is not a default")]
    pub fn new() -> Self {
        let backend = B::open();
        let runtime = backend.runtime();
        Self { backend, runtime }
    }

    /// Launches a test kernel and activates it.
    ///
    /// # Panics
    ///
    /// If either fails.
    pub fn launch(
        &self,
        kernel: TestKernel,
        name: &str,
        options: KernelOptions,
    ) -> KernelHandle<Number, Number> {
        let kernel = self.backend.launch(&self.runtime, kernel, name, options);
        kernel.activate().expect("activating a test kernel");
        kernel
    }
}

/// Runs one test of a backend under a watchdog, or prints why it is skipped.
#[doc(hidden)]
pub fn run<B: TestBackend>(test: &str, case: fn()) {
    run_unless(B::unavailable(), test, case);
}

pub(crate) fn run_unless(unavailable: Option<String>, test: &str, case: fn()) {
    match unavailable {
        Some(reason) => println!("skipped: {reason}"),
        None => watched(test, DEFAULT_LIMIT, case),
    }
}

/// A `#[test]` for each case of a module of this crate.
#[doc(hidden)]
#[macro_export]
macro_rules! __tests {
    ($module:ident, $implementation:ty: $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                let test = concat!(module_path!(), "::", stringify!($case));
                $crate::$module::run::<$implementation>(test, $crate::$module::$case::<$implementation>);
            }
        )*
    };
}
