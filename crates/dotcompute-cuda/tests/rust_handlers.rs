//! Rust handlers on the CPU and on the emulated device: the same replies, states and errors, to the last bit.

mod common;
#[path = "rust_handlers/control.rs"]
mod control;
#[path = "rust_handlers/numbers.rs"]
mod numbers;

use common::{ARCHITECTURES, toolchain};
use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::device::{
    DeviceContext, DeviceHandler, DeviceLaunch, DeviceResult, HandlerState, NoState, Shape, device_handler,
};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::message::Message;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use dotcompute_cuda::compile::Toolchain;
use dotcompute_cuda::device_code::{KERNEL, compile_input};
use dotcompute_cuda::emulated::EmulatedBackend;

#[derive(Message, Clone, Copy, Debug)]
#[message(record)]
#[repr(C)]
struct Input {
    a: i64,
    b: i64,
    x: f64,
    y: f64,
    z: f32,
    small: i32,
    operation: u32,
    bytes: [u8; 4],
}

#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[message(record)]
#[repr(C)]
struct Output {
    words: [u64; 8],
}

#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[message(record)]
#[repr(C)]
struct Pair {
    left: i64,
    right: i64,
}

#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[message(record)]
#[repr(C)]
struct Table {
    cells: [i32; 16],
    rows: [[f32; 2]; 3],
    sum: u64,
    mean: f64,
}

const EMPTY: Table = Table { cells: [1; 16], rows: [[0.5; 2]; 3], sum: 0, mean: 0.0 };

/// Random inputs, among which the ends of every range are frequent.
struct Inputs(u64);

impl Inputs {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 29)
    }

    fn integer(&mut self) -> i64 {
        const EDGES: [i64; 12] = [
            0,
            1,
            -1,
            i64::MIN,
            i64::MAX,
            i32::MIN as i64,
            i32::MAX as i64,
            i8::MIN as i64,
            127,
            255,
            u32::MAX as i64,
            -3,
        ];
        match self.next() % 4 {
            0 => EDGES[self.next() as usize % EDGES.len()],
            1 => self.next() as i64 % 100,
            2 => self.next() as i64 >> 32,
            _ => self.next() as i64,
        }
    }

    fn float(&mut self) -> f64 {
        const EDGES: [f64; 10] = [
            0.0,
            -0.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::MAX,
            f64::MIN_POSITIVE,
            2147483648.0,
            -1e19,
            0.5,
        ];
        match self.next() % 3 {
            0 => EDGES[self.next() as usize % EDGES.len()],
            1 => self.integer() as f64 / 7.0,
            _ => f64::from_bits(self.next()),
        }
    }

    fn input(&mut self) -> Input {
        Input {
            a: self.integer(),
            b: self.integer(),
            x: self.float(),
            y: self.float(),
            z: self.float() as f32,
            small: (self.integer() % 70) as i32,
            operation: (self.next() % 24) as u32,
            bytes: (self.next() as u32).to_le_bytes(),
        }
    }
}

/// Asks a handler on the CPU and on the emulated device the same questions.
fn compare<S: HandlerState>(handler: DeviceHandler<S, Input, Output>)
where
    DeviceHandler<S, Input, Output>: Clone,
{
    watchdog!();
    let runtime = || {
        let device = EmulatedBackend::new().unwrap();
        Runtime::with_options(RuntimeOptions::new().workers(1).device(device)).unwrap()
    };
    let (cpu_runtime, device_runtime) = (runtime(), runtime());
    let options = || KernelOptions::new().supervision(Supervision::Resume);
    let cpu = cpu_runtime.launch_with("kernel", options(), handler.clone()).unwrap();
    let device = device_runtime.launch_on_device("kernel", options(), handler).unwrap();
    for kernel in [&cpu, &device] {
        KernelHandle::activate(kernel).unwrap();
    }
    let mut inputs = Inputs(7);
    let mut replies = 0;
    let mut errors = 0;
    for round in 0..1500 {
        let input = inputs.input();
        let [on_cpu, on_device] =
            [&cpu, &device].map(|kernel| kernel.ask(input).map_err(|error| error.to_string()));
        assert_eq!(on_cpu, on_device, "in round {round}, {input:?}");
        if on_cpu.is_ok() {
            replies += 1;
        } else {
            errors += 1;
        };
    }
    println!("{replies} replies, {errors} errors");
    assert!(replies > 50, "{replies} replies");
    cpu_runtime.shutdown(TIMEOUT).unwrap();
    device_runtime.shutdown(TIMEOUT).unwrap();
}

macro_rules! compare {
    ($($module:ident::$name:ident)*) => {$(
        #[test]
        fn $name() {
            compare($module::$name::handler().state(EMPTY).shape(Shape::Block { threads: 2 }));
        }
    )*};
}

compare! {
    numbers::integers numbers::small_integers numbers::wrapping numbers::floats
    control::loops control::errors control::order control::names
}

#[test]
fn stateless() {
    let handler: DeviceHandler<NoState, _, _> = control::stateless::handler();
    compare(handler.shape(Shape::Thread { threads: 4 }));
}

#[test]
fn what_a_device_cannot_run_is_refused_at_launch() {
    let device = EmulatedBackend::new().unwrap();
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(1).device(device)).unwrap();
    let shared = control::loops::handler().state(EMPTY).shape(Shape::Thread { threads: 2 });
    let error = runtime.launch_on_device("shared", KernelOptions::new(), shared).unwrap_err().to_string();
    assert!(error.ends_with("at the same time; use `Shape::Block`, or a handler without state"), "{error}");
    let recursive = control::recursive::handler();
    let error =
        runtime.launch_on_device("recursive", KernelOptions::new(), recursive).unwrap_err().to_string();
    assert!(error.ends_with("a device has a small stack; use a loop"), "{error}");
    runtime.shutdown(TIMEOUT).unwrap();
}

/// Compiles a handler for every architecture, without warnings.
fn compile<S: HandlerState>(toolchain: &Toolchain, name: &str, handler: DeviceHandler<S, Input, Output>) {
    let kernel = handler.into_kernel().unwrap();
    for architecture in ARCHITECTURES {
        let input = compile_input(name, kernel.program(), architecture).unwrap();
        let kernel =
            toolchain.compile(&input).unwrap_or_else(|error| panic!("{name} for {architecture}: {error}"));
        let functions: Vec<String> =
            kernel.resource_usage().into_iter().map(|usage| usage.function).collect();
        assert_eq!(functions, [KERNEL], "{name} for {architecture}: the handler is inlined");
    }
}

#[test]
fn every_handler_compiles_for_every_architecture() {
    let Some(toolchain) = toolchain() else { return };
    compile(&toolchain, "integers", numbers::integers::handler().state(EMPTY));
    compile(&toolchain, "small_integers", numbers::small_integers::handler().state(EMPTY));
    compile(&toolchain, "wrapping", numbers::wrapping::handler().state(EMPTY));
    compile(&toolchain, "floats", numbers::floats::handler().state(EMPTY));
    compile(&toolchain, "loops", control::loops::handler().state(EMPTY));
    compile(&toolchain, "errors", control::errors::handler().state(EMPTY));
    compile(&toolchain, "order", control::order::handler().state(EMPTY));
    compile(&toolchain, "stateless", control::stateless::handler());
}

/// A record of another module with the name of [`Pair`] and its fields in another order.
mod other {
    use dotcompute_core::message::Message;

    #[derive(Message, Clone, Copy, Debug, PartialEq)]
    #[message(record)]
    #[repr(C)]
    pub struct Pair {
        pub right: i64,
        pub left: i64,
    }
}

#[device_handler]
fn swap(ctx: &mut DeviceContext<other::Pair>, pair: &Pair) -> DeviceResult {
    ctx.reply(other::Pair { right: pair.right, left: pair.left });
    Ok(())
}

#[device_handler]
fn hides_a_record(ctx: &mut DeviceContext<Output>, pair: &Pair) -> DeviceResult {
    let hidden = other::Pair { right: pair.right, left: pair.left };
    ctx.reply(Output { words: [hidden.right as u64; 8] });
    Ok(())
}

/// In C both records would be the struct that comes first, with the other one's fields exchanged.
#[test]
fn records_of_one_name_with_different_fields_are_refused() {
    watchdog!();
    let device = RuntimeOptions::new().device(EmulatedBackend::new().unwrap());
    let runtime = Runtime::with_options(device).unwrap();
    let swap = runtime.launch_on_device("swap", KernelOptions::new(), swap::handler()).map(drop);
    let hidden =
        runtime.launch_on_device("hidden", KernelOptions::new(), hides_a_record::handler()).map(drop);
    for refused in [swap, hidden] {
        let text = refused.unwrap_err().to_string();
        assert!(text.contains("two of its records are called `Pair` and have different fields"), "{text}");
        assert!(text.contains("rename one of them"), "{text}");
    }
}
