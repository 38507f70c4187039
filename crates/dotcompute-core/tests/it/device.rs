//! Ring kernels on a device: what the runtime does beyond the conformance tests, on a loopback device.

use std::sync::Arc;

use dotcompute_conformance::cpu::Cpu;
use dotcompute_conformance::loopback::{HandlerOutput, Loopback, sum};
use dotcompute_conformance::{Fixture, Number, TIMEOUT, TestKernel, number, watchdog};
use dotcompute_core::backend::device_port::DeviceCode;
use dotcompute_core::device::DeviceKernel;
use dotcompute_core::error::{AskError, LaunchError};
use dotcompute_core::lifecycle::State;
use dotcompute_core::message::record::{RecordBytes, RecordLayout, bytes_of};
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};

/// A runtime on a device with the handlers `sum` and `truncated`.
fn runtime() -> Runtime {
    let device: Arc<Loopback> = Loopback::new(&[("sum", sum), ("truncated", truncated)]);
    Runtime::with_options(RuntimeOptions::new().workers(2).device(device)).unwrap()
}

/// Handler that breaks the contract: its reply has fewer bytes than the record.
fn truncated(_: &mut [u8], _: &[u8], _: bool, outputs: &mut Vec<HandlerOutput>) -> i32 {
    outputs.push(HandlerOutput::Replied(vec![1, 2, 3]));
    0
}

#[test]
fn a_launch_without_its_handler_or_without_a_device_is_an_error_with_nothing_held() {
    watchdog!();
    let device_runtime = runtime();
    for _ in 0..2 {
        let kernel = DeviceKernel::<Number, Number>::cuda_cpp("test.cu", "").entry("missing");
        let error = device_runtime.launch_on_device("x", KernelOptions::new(), kernel).unwrap_err();
        assert!(matches!(error, LaunchError::Backend { .. }), "the name is free again: {error}");
        assert!(error.to_string().contains("no handler `missing`"), "{error}");
    }
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("test.cu", "");
    let error = Runtime::new().unwrap().launch_on_device("x", KernelOptions::new(), kernel).unwrap_err();
    assert!(error.to_string().contains("RuntimeOptions::device"), "{error}");
}

#[test]
fn the_state_of_a_host_kernel_has_no_bytes_to_checkpoint() {
    watchdog!();
    let fixture = Fixture::<Cpu>::new();
    let kernel = fixture.launch(TestKernel::Sum, "sum", KernelOptions::new());
    let error = kernel.checkpoint_bytes(TIMEOUT).unwrap_err().to_string();
    assert!(error.contains("Rust value"), "{error}");
}

#[test]
fn records_declared_at_run_time_are_sent_and_returned_as_bytes() {
    watchdog!();
    let runtime = runtime();
    let layout = RecordLayout::opaque("Number", 8, 8).unwrap();
    let code = DeviceCode::CudaCpp { file: "test.cu".into(), text: "".into() };
    let kernel = DeviceKernel::with_layouts(code, layout, layout).entry("sum").state(number(30));
    let kernel = runtime.launch_on_device("open", KernelOptions::new(), kernel).unwrap();
    kernel.activate().unwrap();
    let request = RecordBytes::from_slice(bytes_of(&number(12)));
    assert_eq!(kernel.ask(request.clone()).unwrap().as_slice(), bytes_of(&number(42)));
    assert_eq!(kernel.checkpoint_bytes(TIMEOUT).unwrap(), bytes_of(&number(42)));
    kernel.deactivate(TIMEOUT).unwrap();
    kernel.tell(request.clone()).unwrap();
    kernel.abort().unwrap();
    let mut letters = runtime.take_dead_letters();
    assert_eq!(letters.pop().unwrap().take_message(), Some(request), "with its bytes");
}

#[test]
fn a_device_that_breaks_the_contract_is_lost_and_its_events_are_not_used() {
    watchdog!();
    let runtime = runtime();
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("test.cu", "").entry("truncated").state(number(0));
    let kernel =
        runtime.launch_on_device("truncated", KernelOptions::new(), kernel.queue_capacity(4)).unwrap();
    kernel.activate().unwrap();
    let AskError::Failed(fault) = kernel.ask(number(1)).unwrap_err() else { panic!() };
    assert!(fault.cause.contains("3 bytes"), "{fault}");
    assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
}
