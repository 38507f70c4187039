//! Ring kernels on a device behave as those on threads do: the same calls, the same errors, the same books.

mod loopback;
mod suite;

use std::sync::Arc;

use dotcompute_core::backend::device_port::DeviceCode;
use dotcompute_core::device::DeviceKernel;
use dotcompute_core::error::{AskError, HandlerResult, LaunchError, Refusal};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::message::record::{RecordBytes, RecordLayout, bytes_of, from_bytes};
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use loopback::{Loopback, Out};
use suite::{Bench, Number, PATIENCE, Place, number};

suite!(on_a_device, Device);
suite!(on_threads, Threads);

/// The suite's ring kernels as Rust, on the pool or on threads of their own as the options say.
struct Threads;

#[derive(Default)]
struct Sum(u64);

impl RingKernel for Sum {
    type Input = Number;
    type Output = Number;

    fn handle(&mut self, message: Number, ctx: &mut Context<Number>) -> HandlerResult {
        match message.value {
            666 => return Err("the handler returned 7".into()),
            0 => std::thread::sleep(std::time::Duration::from_millis(20)),
            _ => {}
        }
        self.0 += message.value;
        if message.value < 1000 {
            ctx.reply(number(self.0));
        }
        Ok(())
    }
}

struct Count;

impl RingKernel for Count {
    type Input = Number;
    type Output = Number;

    fn handle(&mut self, message: Number, ctx: &mut Context<Number>) -> HandlerResult {
        (0..message.value).for_each(|value| ctx.send(number(value)));
        Ok(())
    }
}

impl Place for Threads {
    fn new() -> Self {
        Self
    }

    fn runtime(&self) -> Runtime {
        Runtime::with_options(RuntimeOptions::new().workers(2)).unwrap()
    }

    fn launch(&self, runtime: &Runtime, name: &str, options: KernelOptions) -> KernelHandle<Number, Number> {
        match name {
            "sum" => runtime.launch_with(name, options, Sum::default).unwrap(),
            _ => runtime.launch_with(name, options, || Count).unwrap(),
        }
    }
}

/// The same as device functions, on a device of one thread.
struct Device(Arc<Loopback>);

impl Place for Device {
    fn new() -> Self {
        Self(Loopback::new(&[("sum", sum), ("count", count), ("broken", broken)]))
    }

    fn runtime(&self) -> Runtime {
        Runtime::with_options(RuntimeOptions::new().workers(2).device(self.0.clone())).unwrap()
    }

    fn launch(&self, runtime: &Runtime, name: &str, options: KernelOptions) -> KernelHandle<Number, Number> {
        let kernel =
            DeviceKernel::cuda_cpp("test.cu", "").entry(name.to_owned()).state(number(0)).queue_capacity(4);
        runtime.launch_on_device(name, options, kernel).unwrap()
    }

    fn lose(&self, why: &str) -> bool {
        self.0.lose(why);
        true
    }
}

/// Adds up; answers with the sum. 666 is an error, 0 takes its time, 1000 and more is only counted.
fn sum(state: &mut [u8], message: &[u8], outs: &mut Vec<Out>) -> i32 {
    let value = from_bytes::<Number>(message).unwrap().value;
    if value == 666 {
        return 7;
    }
    if value == 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let total = from_bytes::<Number>(state).unwrap().value + value;
    state.copy_from_slice(bytes_of(&Number { value: total }));
    if value < 1000 {
        outs.push(Out::Replied(bytes_of(&Number { value: total }).to_vec()));
    }
    0
}

/// Sends as many numbers as it is told.
fn count(_: &mut [u8], message: &[u8], outs: &mut Vec<Out>) -> i32 {
    let upto = from_bytes::<Number>(message).unwrap().value;
    outs.extend((0..upto).map(|value| Out::Sent(bytes_of(&Number { value }).to_vec())));
    0
}

/// Answers with half a record.
fn broken(_: &mut [u8], _: &[u8], outs: &mut Vec<Out>) -> i32 {
    outs.push(Out::Replied(vec![1, 2, 3]));
    0
}

#[test]
fn what_does_not_compile_or_has_no_device_is_refused_with_nothing_held() {
    let bench = Bench::<Device>::new();
    for _ in 0..2 {
        let kernel = DeviceKernel::<Number, Number>::cuda_cpp("test.cu", "").entry("missing");
        let refused = bench.runtime.launch_on_device("x", KernelOptions::new(), kernel).unwrap_err();
        assert!(matches!(refused, LaunchError::Backend { .. }), "the name is free again: {refused}");
        assert!(refused.to_string().contains("no handler `missing`"), "{refused}");
    }
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("test.cu", "");
    let refused = Runtime::new().unwrap().launch_on_device("x", KernelOptions::new(), kernel).unwrap_err();
    assert!(refused.to_string().contains("RuntimeOptions::device"), "{refused}");
}

#[test]
fn a_state_is_read_and_put_back_between_messages() {
    suite::a_state_is_read_and_put_back_between_messages::<Device>();
    let bench = Bench::<Threads>::new();
    let refused =
        bench.launch("sum", KernelOptions::new()).checkpoint_bytes(PATIENCE).unwrap_err().to_string();
    assert!(refused.contains("Rust value"), "{refused}");
}

#[test]
fn records_that_are_declared_at_run_time_cross_as_others_do() {
    let bench = Bench::<Device>::new();
    let layout = RecordLayout::opaque("Number", 8, 8).unwrap();
    let code = DeviceCode::CudaCpp { file: "test.cu".into(), text: "".into() };
    let kernel = DeviceKernel::with_layouts(code, layout, layout).entry("sum").state(number(30));
    let kernel = bench.runtime.launch_on_device("open", KernelOptions::new(), kernel).unwrap();
    kernel.activate().unwrap();
    let question = RecordBytes::from_slice(bytes_of(&number(12)));
    assert_eq!(kernel.ask(question.clone()).unwrap().as_slice(), bytes_of(&number(42)));
    assert_eq!(kernel.checkpoint_bytes(PATIENCE).unwrap(), bytes_of(&number(42)));
    kernel.deactivate(PATIENCE).unwrap();
    kernel.tell(question.clone()).unwrap();
    kernel.abort().unwrap();
    let mut letters = bench.runtime.take_dead_letters();
    assert_eq!(letters.pop().unwrap().take_message(), Some(question), "with its bytes");
}

#[test]
fn a_lost_device_fails_its_kernels_at_once() {
    let bench = Bench::<Device>::new();
    let kernel = bench.launch("sum", KernelOptions::new());
    kernel.deactivate(PATIENCE).unwrap();
    let asker = std::thread::spawn({
        let kernel = kernel.clone();
        move || kernel.ask(number(1))
    });
    while kernel.stats().sent < 1 {
        std::thread::yield_now();
    }
    bench.place.lose("the context died of an illegal address");
    let AskError::Failed(fault) = asker.join().unwrap().unwrap_err() else { panic!() };
    assert!(fault.cause.contains("illegal address"), "{fault}");
    assert_eq!(kernel.wait_ended(PATIENCE), State::Failed);
    let AskError::NotSent(refused) = kernel.ask(number(1)).unwrap_err() else { panic!() };
    assert!(matches!(refused.reason, Refusal::Ended { state: State::Failed }));
    assert!(kernel.stats().is_conserved());
}

#[test]
fn a_device_that_breaks_the_contract_is_lost_and_not_believed() {
    let bench = Bench::<Device>::new();
    let kernel = bench.launch("broken", KernelOptions::new());
    let AskError::Failed(fault) = kernel.ask(number(1)).unwrap_err() else { panic!() };
    assert!(fault.cause.contains("3 bytes"), "{fault}");
    assert_eq!(kernel.wait_ended(PATIENCE), State::Failed);
}
