//! What a backend that runs device programs does besides.

use dotcompute_core::error::{AskError, LaunchError, Refusal};
use dotcompute_core::lifecycle::State;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::supervision::Supervision;

#[doc(hidden)]
pub use crate::fixture::run;
use crate::fixture::{Fixture, TIMEOUT, TestDevice};
use crate::kernels::TestKernel::Sum;
use crate::kernels::{Number, number};
use crate::watchdog::step;

/// Defines the tests of [`backend_tests!`](crate::backend_tests!) and those of a [`TestDevice`], in the current module.
///
/// [`LoopbackDevice`](crate::loopback::LoopbackDevice), the smallest device backend, shows what a `TestDevice` has to provide:
///
/// ```
/// mod loopback {
///     dotcompute_conformance::device_backend_tests!(dotcompute_conformance::loopback::LoopbackDevice);
/// }
/// ```
#[macro_export]
macro_rules! device_backend_tests {
    ($device:ty) => {
        $crate::backend_tests!($device);
        $crate::__tests! { device, $device:
            state_is_checkpointed_and_restored_between_messages
            a_launch_that_fails_leaves_its_name_free
            a_lost_device_fails_its_kernels_at_once
        }
    };
}

/// `checkpoint` and `restore` act between two messages: before activation, while messages arrive, and while deactivated.
pub fn state_is_checkpointed_and_restored_between_messages<D: TestDevice>() {
    let fixture = Fixture::<D>::new();
    let options = KernelOptions::new().supervision(Supervision::Resume);
    let kernel = fixture.backend.launch(&fixture.runtime, Sum, "sum", options);
    kernel.restore(&number(40), TIMEOUT).unwrap();
    assert_eq!(kernel.checkpoint::<Number>(TIMEOUT).unwrap(), number(40), "before it is activated");
    kernel.activate().unwrap();
    assert_eq!(kernel.ask(number(2)).unwrap(), number(42));
    step("checkpoints while another thread sends");
    // While another thread sends: each checkpoint lies between two messages, and no message is lost.
    let sender = std::thread::spawn({
        let kernel = kernel.clone();
        move || (0..2000).for_each(|_| kernel.tell(number(1001)).unwrap())
    });
    for _ in 0..20 {
        let state = kernel.checkpoint::<Number>(TIMEOUT).unwrap();
        assert_eq!((state.value - 42) % 1001, 0);
    }
    sender.join().unwrap();
    assert_eq!(kernel.ask(number(1)).unwrap(), number(43 + 2000 * 1001));

    step("restore while deactivated");
    kernel.deactivate(TIMEOUT).unwrap();
    kernel.restore(&number(7), TIMEOUT).unwrap();
    assert_eq!(kernel.state(), State::Deactivated, "and stays so");
    kernel.reactivate().unwrap();
    assert_eq!(kernel.ask(number(1)).unwrap(), number(8));
    let error = kernel.restore_bytes(&[1, 2, 3], TIMEOUT).unwrap_err().to_string();
    assert!(error.contains("`restore`") && error.contains("8 bytes"), "{error}");
    assert_eq!(kernel.ask(number(1)).unwrap(), number(9), "as it was");
    kernel.terminate(TIMEOUT).unwrap();
    let error = kernel.checkpoint_bytes(TIMEOUT).unwrap_err().to_string();
    assert!(error.contains("Terminated"), "{error}");
}

/// A handler that the device code does not have is an error of the launch, which names it and leaves nothing behind.
pub fn a_launch_that_fails_leaves_its_name_free<D: TestDevice>() {
    let fixture = Fixture::<D>::new();
    for _ in 0..2 {
        let kernel = fixture.backend.kernel("sum").entry("missing");
        let error = fixture.runtime.launch_on_device("x", KernelOptions::new(), kernel).unwrap_err();
        assert!(matches!(error, LaunchError::Backend { .. }), "the name is free again: {error}");
        assert!(error.to_string().contains("missing"), "{error}");
    }
    let kernel = fixture.launch(Sum, "x", KernelOptions::new());
    assert_eq!(kernel.ask(number(1)).unwrap(), number(1));
}

/// A device that is lost fails its ring kernels and ends every ask with the reason. Skipped if the device cannot be lost.
pub fn a_lost_device_fails_its_kernels_at_once<D: TestDevice>() {
    let fixture = Fixture::<D>::new();
    let kernel = fixture.launch(Sum, "sum", KernelOptions::new());
    kernel.deactivate(TIMEOUT).unwrap();
    let caller = std::thread::spawn({
        let kernel = kernel.clone();
        move || kernel.ask(number(1))
    });
    while kernel.stats().sent < 1 {
        std::thread::yield_now();
    }
    if !fixture.backend.lose_device("the context died of an illegal address") {
        kernel.abort().unwrap();
        assert!(caller.join().unwrap().is_err());
        println!("skipped: this backend cannot lose its device on demand");
        return;
    }
    let AskError::Failed(fault) = caller.join().unwrap().unwrap_err() else { panic!() };
    assert!(fault.cause.contains("illegal address"), "{fault}");
    assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
    let AskError::NotSent(error) = kernel.ask(number(1)).unwrap_err() else { panic!() };
    assert!(matches!(error.reason, Refusal::Ended { state: State::Failed }));
    assert!(kernel.stats().is_conserved());
}
