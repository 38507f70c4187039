//! The conformance tests on the emulated device, in every shape, and what only this device has.

use std::sync::Arc;
use std::time::Duration;

use dotcompute_conformance::{
    DEVICE_HANDLERS, Number, TIMEOUT, TestBackend, TestDevice, TestKernel, number, watchdog,
};
use dotcompute_core::device::{DeviceKernel, Shape};
use dotcompute_core::error::AskError;
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::lifecycle::State;
use dotcompute_core::message::Message;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use dotcompute_cuda::emulated::{EmulatedBackend, EmulatedOptions};

mod thread_shape {
    dotcompute_conformance::device_backend_tests!(super::Emulated<0>);
    dotcompute_conformance::link_tests!(super::Emulated<0>);
}

mod block_shape {
    dotcompute_conformance::device_backend_tests!(super::Emulated<1>);
    dotcompute_conformance::link_tests!(super::Emulated<1>);
}

mod grid_shape {
    dotcompute_conformance::device_backend_tests!(super::Emulated<2>);
    dotcompute_conformance::link_tests!(super::Emulated<2>);
}

/// The emulated device, with ring kernels of this shape.
struct Emulated<const SHAPE: usize>(Arc<EmulatedBackend>);

const SHAPES: [Shape; 3] =
    [Shape::Thread { threads: 1 }, Shape::Block { threads: 3 }, Shape::Grid { blocks: 2, threads: 2 }];

impl<const SHAPE: usize> TestBackend for Emulated<SHAPE> {
    fn open() -> Self {
        Self(EmulatedBackend::new().unwrap())
    }

    fn runtime(&self) -> Runtime {
        Runtime::with_options(RuntimeOptions::new().workers(2).device(self.0.clone())).unwrap()
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

impl<const SHAPE: usize> TestDevice for Emulated<SHAPE> {
    fn kernel(&self, entry: &'static str) -> DeviceKernel<Number, Number> {
        test_kernel(entry).queue_capacity(4).shape(SHAPES[SHAPE])
    }
}

/// A ring kernel of the conformance tests.
fn test_kernel(entry: &'static str) -> DeviceKernel<Number, Number> {
    DeviceKernel::cuda_cpp("conformance.cu", DEVICE_HANDLERS).entry(entry).state(number(0))
}

/// A runtime on an emulated device with changed options.
fn runtime_with(change: impl FnOnce(&mut EmulatedOptions)) -> Runtime {
    let mut options = EmulatedOptions::default();
    change(&mut options);
    let device = EmulatedBackend::with_options(options).unwrap();
    Runtime::with_options(RuntimeOptions::new().workers(2).device(device)).unwrap()
}

fn launch<I, O>(runtime: &Runtime, name: &str, kernel: DeviceKernel<I, O>) -> KernelHandle<I, O>
where
    I: dotcompute_core::message::record::RecordMessage,
    O: dotcompute_core::message::record::RecordMessage,
{
    let options = KernelOptions::new().supervision(Supervision::Resume);
    let handle = runtime.launch_on_device(name, options, kernel).unwrap();
    handle.activate().unwrap();
    handle
}

/// Handler that fails on a number out of order.
const IN_ORDER: &str = r#"
extern "C" __device__ int32_t handle(Ctx *ctx, Number *state, const Number *message, Number *reply) {
    if (message->value != state->value) return 1;
    bool first = ctx->thread == 0 && ctx->block == 0;
    ctx->sync();
    if (first) state->value += 1;
    ctx->sync();
    if (ctx->wants_reply && first) {
        *reply = *state;
        ctx->reply(reply);
    }
    return 0;
}
"#;

#[test]
fn a_million_messages_arrive_in_order() {
    watchdog!();
    const COUNT: u64 = 1_000_000;
    let runtime = runtime_with(|_| {});
    let kernel =
        DeviceKernel::<Number, Number>::cuda_cpp("order.cu", IN_ORDER).state(number(0)).queue_capacity(256);
    let kernel = launch(&runtime, "order", kernel.shape(Shape::Block { threads: 1 }));
    for value in 0..COUNT {
        kernel.tell(number(value)).unwrap();
    }
    assert_eq!(kernel.ask(number(COUNT)).unwrap(), number(COUNT + 1));
    assert!(
        kernel.stats().handled >= COUNT,
        "messages before the request are counted when its reply arrives"
    );
    kernel.terminate(TIMEOUT).unwrap();
    let stats = kernel.stats();
    assert_eq!((stats.handled, stats.dead_letters), (COUNT + 1, 0));
    runtime.shutdown(TIMEOUT).unwrap();
}

#[test]
fn threads_take_a_message_each() {
    watchdog!();
    const TEXT: &str = r#"
        extern "C" __device__ int32_t handle(Ctx *ctx, Number *state, const Number *message, Number *reply) {
            dc::fetch_add_relaxed(reinterpret_cast<dc::u64 *>(&state->value));
            if (message->value % 10 == 3) return static_cast<int32_t>(message->value);
            reply->value = message->value * message->value;
            if (ctx->wants_reply) ctx->reply(reply);
            else ctx->send(reply);
            return 0;
        }
    "#;
    let runtime = runtime_with(|_| {});
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("threads.cu", TEXT).state(number(0));
    let kernel = launch(&runtime, "threads", kernel.shape(Shape::Thread { threads: 4 }).queue_capacity(32));
    for value in 0..1000 {
        kernel.tell(number(value)).unwrap();
    }
    let mut squares: Vec<u64> = (0..900).map(|_| kernel.receive_timeout(TIMEOUT).unwrap().value).collect();
    squares.sort_unstable();
    let expected: Vec<u64> = (0..1000).filter(|value| value % 10 != 3).map(|value| value * value).collect();
    assert_eq!(squares, expected);
    // Concurrent callers: each gets the reply to its own request.
    std::thread::scope(|scope| {
        for first in 0..4u64 {
            let kernel = kernel.clone();
            scope.spawn(move || {
                for value in (first * 500..(first + 1) * 500).filter(|value| value % 10 != 3) {
                    assert_eq!(kernel.ask(number(value)).unwrap(), number(value * value));
                }
            });
        }
    });
    kernel.terminate(TIMEOUT).unwrap();
    let stats = kernel.stats();
    assert_eq!((stats.handled, stats.dead_letters), (900 + 1800, 100));
    assert!(stats.is_conserved());
}

#[test]
fn blocks_of_a_grid_synchronize_and_share_work() {
    watchdog!();
    const TEXT: &str = r#"
        struct State { unsigned long long partial[64]; };
        extern "C" __device__ int32_t handle(Ctx *ctx, State *state, const Number *message, Number *reply) {
            unsigned rank = ctx->block * ctx->threads + ctx->thread, size = ctx->blocks * ctx->threads;
            unsigned long long sum = 0;
            for (unsigned long long value = rank + 1; value <= message->value; value += size) sum += value;
            state->partial[rank] = sum;
            ctx->sync();
            if (rank == 0) {
                for (unsigned each = 0; each < size; ++each) reply->value += state->partial[each];
                ctx->reply(reply);
            }
            return 0;
        }
    "#;
    let runtime = runtime_with(|_| {});
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("grid.cu", TEXT).state_bytes(vec![0; 512], 8);
    let kernel = launch(&runtime, "grid", kernel.shape(Shape::Grid { blocks: 3, threads: 2 }));
    for upto in 0..200 {
        assert_eq!(kernel.ask(number(upto)).unwrap(), number(upto * (upto + 1) / 2));
    }
}

#[test]
fn an_idle_kernel_leaves_the_device_and_is_relaunched_with_its_state() {
    watchdog!();
    let runtime = runtime_with(|options| options.idle_timeout = Duration::from_millis(2));
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("order.cu", IN_ORDER).state(number(0));
    let kernel = launch(&runtime, "order", kernel.shape(Shape::Grid { blocks: 2, threads: 1 }));
    for value in 0..300 {
        assert_eq!(kernel.ask(number(value)).unwrap(), number(value + 1));
        if value % 20 == 0 {
            std::thread::sleep(Duration::from_millis(6));
        } else if value % 7 == 0 {
            // Close to the idle timeout: the message arrives while the ring kernel is leaving.
            std::thread::sleep(Duration::from_micros(1900 + 5 * value));
        }
    }
    std::thread::sleep(Duration::from_millis(10));
    kernel.deactivate(TIMEOUT).unwrap();
    kernel.tell(number(300)).unwrap();
    kernel.reactivate().unwrap();
    assert_eq!(kernel.ask(number(301)).unwrap(), number(302));
    std::thread::sleep(Duration::from_millis(10));
    kernel.terminate(TIMEOUT).unwrap();
    assert_eq!(kernel.stats().handled, 302);
    runtime.shutdown(TIMEOUT).unwrap();
}

#[test]
fn a_busy_kernel_leaves_periodically_and_loses_no_message() {
    watchdog!();
    for idle_timeout in [Duration::ZERO, Duration::from_micros(300)] {
        let runtime = runtime_with(|options| {
            options.max_residency = Duration::from_micros(500);
            options.idle_timeout = idle_timeout;
        });
        let kernel = DeviceKernel::<Number, Number>::cuda_cpp("order.cu", IN_ORDER).state(number(0));
        let kernel = launch(&runtime, "order", kernel.shape(Shape::Grid { blocks: 2, threads: 1 }));
        for value in 0..20_000 {
            if value % 100 == 99 {
                assert_eq!(kernel.ask(number(value)).unwrap(), number(value + 1));
            } else {
                kernel.tell(number(value)).unwrap();
            }
        }
        kernel.terminate(TIMEOUT).unwrap();
        let stats = kernel.stats();
        assert_eq!((stats.handled, stats.dead_letters), (20_000, 0));
    }
}

/// The event ring fills up while the handler runs, and the handler waits for free slots. It still reaches its message boundary.
#[test]
fn a_kernel_blocked_on_output_quiesces_and_pauses() {
    watchdog!();
    const COUNT: u64 = 2_000;
    let runtime = runtime_with(|_| {});
    let options = KernelOptions::new().output_capacity(4);
    let unread = runtime.launch_on_device("unread", options, test_kernel("count")).unwrap();
    unread.activate().unwrap();
    (0..4).for_each(|_| unread.tell(number(COUNT)).unwrap());
    for round in 0..3 {
        // A launch quiesces the ring kernels that are resident.
        let kernel = launch(&runtime, &format!("sum-{round}"), test_kernel("sum"));
        assert_eq!(kernel.ask(number(4)).unwrap(), number(4));
        runtime.quiesced(TIMEOUT, || ()).unwrap();
    }
    assert_eq!(unread.checkpoint::<Number>(TIMEOUT).unwrap(), number(0));
    unread.deactivate(TIMEOUT).unwrap();
    unread.reactivate().unwrap();
    for output in 0..4 * COUNT {
        assert_eq!(unread.receive_timeout(TIMEOUT).unwrap(), number(output % COUNT));
    }
    unread.terminate(TIMEOUT).unwrap();
    assert!(unread.stats().is_conserved());
}

#[test]
fn a_state_may_be_larger_than_its_image() {
    watchdog!();
    const TEXT: &str = r#"
        struct State { unsigned long long first, table[1 << 17]; };
        extern "C" __device__ int32_t handle(Ctx *ctx, State *state, const Number *message, Number *reply) {
            if (message->value == 13) return 1;
            reply->value = state->first + state->table[message->value]++;
            ctx->reply(reply);
            return 0;
        }
    "#;
    let runtime = runtime_with(|_| {});
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("table.cu", TEXT);
    let kernel = kernel
        .state_bytes(vec![7, 0, 0, 0, 0, 0, 0, 0], 8)
        .state_size(8 + (8 << 17))
        .shape(Shape::Block { threads: 1 });
    let restart = Supervision::Restart { max: 1, within: Duration::from_secs(60), backoff: Duration::ZERO };
    let options = KernelOptions::new().supervision(restart);
    let kernel = runtime.launch_on_device("table", options, kernel).unwrap();
    kernel.activate().unwrap();
    for _ in 0..2 {
        for index in [0, 1, (1 << 17) - 1] {
            assert_eq!(kernel.ask(number(index)).unwrap(), number(7));
            assert_eq!(kernel.ask(number(index)).unwrap(), number(8));
        }
        let state = kernel.checkpoint_bytes(TIMEOUT).unwrap();
        assert_eq!((state.len(), state[0], state[8], state[state.len() - 8]), (8 + (8 << 17), 7, 2, 2));
        // The restart resets the image and the zeros after it.
        let _ = kernel.ask(number(13));
    }
}

#[test]
fn many_kernels_terminated_at_once_all_end() {
    watchdog!();
    for _ in 0..10 {
        let runtime = runtime_with(|_| {});
        let kernel = || test_kernel("sum").shape(Shape::Block { threads: 1 });
        let kernels: Vec<_> =
            (0..40).map(|index| launch(&runtime, &format!("sum-{index}"), kernel())).collect();
        for kernel in &kernels {
            assert_eq!(kernel.ask(number(3)).unwrap(), number(3));
        }
        runtime.shutdown(TIMEOUT).unwrap();
    }
}

#[test]
fn a_handler_that_never_returns_is_an_error_in_time() {
    watchdog!();
    const TEXT: &str = r#"
        extern "C" __device__ int32_t handle(Ctx *ctx, void *, const Number *message, Number *reply) {
            volatile unsigned long long value = message->value;
            while (value == 13) dc::pause_ns(2000);
            ctx->reply(reply);
            return 0;
        }
    "#;
    let text =
        || DeviceKernel::<Number, Number>::cuda_cpp("loop.cu", TEXT).shape(Shape::Block { threads: 1 });
    let runtime = runtime_with(|options| options.heartbeat_timeout = Duration::from_millis(200));
    let kernel = launch(&runtime, "loop", text());
    kernel.ask(number(1)).unwrap();
    let AskError::Failed(fault) = kernel.ask(number(13)).unwrap_err() else { panic!() };
    assert!(fault.cause.contains("no heartbeat for") && fault.cause.contains("message number 1"), "{fault}");
    assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
    // The device and the name stay usable.
    let again = launch(&runtime, "loop", text());
    again.ask(number(2)).unwrap();
    drop(runtime);
    assert!(again.wait_ended(TIMEOUT).has_ended());
}

#[test]
fn a_runtime_that_is_dropped_takes_its_kernels_off_the_device() {
    watchdog!();
    for messages in [0, 100] {
        let runtime = runtime_with(|_| {});
        let kernel = launch(&runtime, "count", test_kernel("count"));
        // Its outputs are not read: it is blocked on output when the owner of the runtime panics.
        (0..messages).for_each(|_| kernel.tell(number(100)).unwrap());
        let panicked = std::thread::spawn(move || {
            let _runtime = runtime;
            panic!("injected");
        });
        assert!(panicked.join().is_err());
        assert!(kernel.wait_ended(TIMEOUT).has_ended());
        assert!(kernel.stats().is_conserved());
    }
}

#[test]
fn a_compile_error_names_the_handlers_own_line() {
    watchdog!();
    let runtime = runtime_with(|_| {});
    let text = "extern \"C\" __device__ int32_t handle(Ctx *, void *, const Number *message, Number *) {\n\
                \x20   return message->valeu;\n}\n";
    let error = runtime
        .launch_on_device(
            "typo",
            KernelOptions::new(),
            DeviceKernel::<Number, Number>::cuda_cpp("typo.cu", text),
        )
        .unwrap_err()
        .to_string();
    assert!(error.contains("typo.cu:2") && error.contains("valeu"), "{error}");
}

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Large {
    bytes: [u64; 600],
}

#[test]
fn a_launch_that_does_not_fit_is_an_error_with_what_would_fit() {
    watchdog!();
    let runtime = runtime_with(|options| options.blocks = 3);
    let text = || test_kernel("sum");
    let launch_error = |kernel: DeviceKernel<Number, Number>| {
        runtime.launch_on_device("too-large", KernelOptions::new(), kernel).unwrap_err().to_string()
    };
    let huge = "struct State {}; extern \"C\" __device__ int32_t handle(Ctx *, State *, const Number *, Number *) { return 0; }";
    let huge = DeviceKernel::<Number, Number>::cuda_cpp("huge.cu", huge).state_bytes(vec![], 8);
    let cases = [
        (text().shape(Shape::Block { threads: 0 }), "1 to 1024"),
        (text().shape(Shape::Block { threads: 2000 }), "2000 threads"),
        (text().shape(Shape::Grid { blocks: 0, threads: 1 }), "0 blocks"),
        (text().shape(Shape::Grid { blocks: 4, threads: 1 }), "needs 4 blocks, but 3 of the device's 3"),
        (text().shape(Shape::Thread { threads: 32 }).queue_capacity(8), "queue has 8 slots"),
        (text().queue_capacity(0), "rings"),
        (text().state_bytes(vec![0; 8], 3), "an alignment of 3"),
        (huge.state_size(1 << 55), "its state has 36028797018963968 bytes, more than the host can allocate"),
        (text().entry("no name"), "`no name`"),
        (text().entry("missing"), "missing"),
    ];
    for (kernel, expected) in cases {
        let error = launch_error(kernel);
        assert!(error.contains("`too-large`") && error.contains(expected), "{error}");
    }
    let large = DeviceKernel::<Large, Number>::cuda_cpp("conformance.cu", "");
    let error = runtime.launch_on_device("large", KernelOptions::new(), large).unwrap_err().to_string();
    assert!(error.contains("message has 4800 bytes") && error.contains("at most 4072"), "{error}");
    // The failed launches hold neither blocks nor the name.
    let kernel = launch(&runtime, "too-large", text().shape(Shape::Grid { blocks: 3, threads: 1 }));
    assert_eq!(kernel.ask(number(4)).unwrap(), number(4));
}

#[test]
fn quiesced_kernels_are_relaunched_with_the_messages_sent_meanwhile() {
    watchdog!();
    let runtime = runtime_with(|options| options.idle_timeout = Duration::from_millis(3));
    let order = DeviceKernel::<Number, Number>::cuda_cpp("order.cu", IN_ORDER).state(number(0));
    let order = launch(&runtime, "order", order.shape(Shape::Grid { blocks: 2, threads: 1 }));
    let sum = launch(&runtime, "sum", test_kernel("sum"));
    sum.deactivate(TIMEOUT).unwrap();
    let sender = {
        let order = order.clone();
        std::thread::spawn(move || (0..20_000).for_each(|value| order.tell(number(value)).unwrap()))
    };
    for _ in 0..40 {
        let handled = runtime
            .quiesced(TIMEOUT, || {
                let before = order.stats().handled;
                std::thread::sleep(Duration::from_micros(300));
                // Messages handled before the ring kernel left may still be counted: at most one queue of them.
                order.stats().handled - before
            })
            .unwrap();
        assert!(handled <= 64, "{handled} messages were handled while the device was quiesced");
        std::thread::sleep(Duration::from_micros(700));
    }
    sender.join().unwrap();
    assert_eq!(order.ask(number(20_000)).unwrap(), number(20_001));
    assert_eq!(order.stats().dead_letters, 0);
    sum.reactivate().unwrap();
    assert_eq!(sum.ask(number(5)).unwrap(), number(5), "still deactivated before, and with its state");
    runtime.shutdown(TIMEOUT).unwrap();
}

#[test]
fn a_kernel_that_does_not_quiesce_in_time_is_named_and_continues() {
    watchdog!();
    const SLOW: &str = r#"
        extern "C" __device__ int32_t handle(Ctx *ctx, void *, const Number *message, Number *reply) {
            if (ctx->thread != 0) return 0;
            ctx->send(reply);
            for (uint64_t start = ctx->now_ns(); ctx->now_ns() - start < message->value;) dc::pause_ns(1000);
            return 0;
        }
    "#;
    let runtime = runtime_with(|_| {});
    let slow = launch(&runtime, "slow", DeviceKernel::<Number, Number>::cuda_cpp("slow.cu", SLOW));
    // The handler runs far longer than `quiesced` waits, also if this thread is preempted in between.
    slow.tell(number(5_000_000_000)).unwrap();
    slow.receive_timeout(TIMEOUT).unwrap();
    let error = runtime.quiesced(Duration::from_millis(20), || unreachable!()).unwrap_err().to_string();
    assert!(error.contains("slow did not reach a message boundary"), "{error}");
    slow.tell(number(0)).unwrap();
    slow.receive_timeout(TIMEOUT).unwrap();
    assert_eq!(runtime.quiesced(TIMEOUT, || 7).unwrap(), 7);
    runtime.shutdown(TIMEOUT).unwrap();
}
