//! `quiesced`, nested and from several threads, on the emulated device.

use std::sync::{Arc, Weak};
use std::time::Duration;

use dotcompute_conformance::{DEVICE_HANDLERS, Number, TIMEOUT, number, watchdog};
use dotcompute_core::backend::BackendError;
use dotcompute_core::device::{DeviceKernel, Shape};
use dotcompute_core::error::HandlerResult;
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_cuda::emulated::EmulatedBackend;

fn runtime() -> Runtime {
    let device = EmulatedBackend::new().unwrap();
    Runtime::with_options(RuntimeOptions::new().workers(2).device(device)).unwrap()
}

fn launch(runtime: &Runtime, name: &str, entry: &'static str) -> KernelHandle<Number, Number> {
    let kernel = DeviceKernel::cuda_cpp("conformance.cu", DEVICE_HANDLERS).entry(entry).state(number(0));
    let kernel = kernel.shape(Shape::Block { threads: 1 });
    let kernel = runtime.launch_on_device(name, KernelOptions::new(), kernel).unwrap();
    kernel.activate().unwrap();
    kernel
}

#[test]
fn a_quiesced_thread_may_quiesce_launch_and_connect() {
    watchdog!();
    let runtime = runtime();
    let [count, sum] = [launch(&runtime, "count", "count"), launch(&runtime, "sum", "sum")];
    let late = runtime
        .quiesced(TIMEOUT, || {
            assert_eq!(runtime.quiesced(TIMEOUT, || 3).unwrap(), 3);
            // A nested call that returns does not bring the ring kernels back.
            count.tell(number(5)).unwrap();
            count.connect(&sum).unwrap();
            let late = launch(&runtime, "late", "sum");
            late.tell(number(7)).unwrap();
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!((count.stats().handled, late.stats().handled), (0, 0), "the device is quiet");
            late
        })
        .unwrap();
    assert_eq!(late.ask(number(1)).unwrap(), number(8));
    runtime.quiesced(TIMEOUT, || ()).unwrap();
    runtime.shutdown(TIMEOUT).unwrap();
    assert_eq!((count.stats().handled, sum.stats().handled), (1, 5));
}

#[test]
fn a_panic_in_a_nested_closure_releases_the_device() {
    watchdog!();
    let runtime = runtime();
    let sum = launch(&runtime, "sum", "sum");
    let nested = || runtime.quiesced(TIMEOUT, || runtime.quiesced(TIMEOUT, || panic!("injected")));
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(nested)).is_err());
    assert_eq!(sum.ask(number(1)).unwrap(), number(1));
    // Another thread gets the device.
    std::thread::scope(|scope| scope.spawn(|| runtime.quiesced(TIMEOUT, || ())).join()).unwrap().unwrap();
}

#[test]
fn other_threads_wait_for_a_quiesced_device_or_are_refused() {
    watchdog!();
    let runtime = runtime();
    let sum = launch(&runtime, "sum", "sum");
    std::thread::scope(|scope| {
        let waiter = runtime
            .quiesced(TIMEOUT, || {
                let refused = scope.spawn(|| runtime.quiesced(Duration::from_millis(20), || ()));
                let error = refused.join().unwrap().unwrap_err();
                assert!(matches!(error, BackendError::QuiescedElsewhere { .. }), "{error}");
                assert!(error.to_string().contains("another thread has kept it quiet for 20ms"), "{error}");
                // A launch needs no quiet device here, and does not disturb one.
                let other = scope.spawn(|| launch(&runtime, "other", "sum")).join().unwrap();
                other.tell(number(2)).unwrap();
                std::thread::sleep(Duration::from_millis(5));
                assert_eq!(other.stats().handled, 0);
                scope.spawn(|| runtime.quiesced(TIMEOUT, || 4).unwrap())
            })
            .unwrap();
        assert_eq!(waiter.join().unwrap(), 4, "it waits until the closure has returned");
    });
    assert_eq!(sum.ask(number(1)).unwrap(), number(1));
    runtime.shutdown(TIMEOUT).unwrap();
}

/// Quiesces the device in its handler, and replies with the error.
struct Quiesces(Weak<Runtime>);

impl RingKernel for Quiesces {
    type Input = u64;
    type Output = String;

    fn handle(&mut self, _: u64, ctx: &mut Context<String>) -> HandlerResult {
        let runtime = self.0.upgrade().ok_or("the runtime has ended")?;
        let outcome = runtime.quiesced(TIMEOUT, || unreachable!());
        ctx.reply(outcome.map_or_else(|error| error.to_string(), |()| String::from("no error")));
        Ok(())
    }
}

#[test]
fn a_handler_that_quiesces_gets_an_error_at_once() {
    watchdog!();
    let runtime = Arc::new(runtime());
    let sum = launch(&runtime, "sum", "sum");
    let weak = Arc::downgrade(&runtime);
    let quiesces = runtime.launch("quiesces", move || Quiesces(Weak::clone(&weak))).unwrap();
    quiesces.activate().unwrap();
    let text = quiesces.ask(1).unwrap();
    assert!(text.contains("the call comes from the handler of a ring kernel"), "{text}");
    assert_eq!(sum.ask(number(1)).unwrap(), number(1));
}
