//! The suite of all ring kernels on the emulated device, in every shape, and what only a device has.

mod links;
#[path = "../../dotcompute-core/tests/suite/mod.rs"]
mod suite;

use std::sync::Arc;
use std::time::Duration;

use dotcompute_core::device::{DeviceKernel, Shape};
use dotcompute_core::error::AskError;
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::lifecycle::State;
use dotcompute_core::message::Message;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use dotcompute_cuda::emulated::{EmulatedBackend, EmulatedOptions};
use suite::{Number, PATIENCE, Place, number};

suite!(of_one_thread, Emulated<0>);
suite!(of_one_block, Emulated<1>);
suite!(of_two_blocks, Emulated<2>);
links!(linked_threads, Emulated<0>);
links!(linked_blocks, Emulated<1>);
links!(linked_grids, Emulated<2>);

/// The suite's ring kernels.
const HANDLERS: &str = include_str!("handlers/suite.cu");

/// That of a ring kernel of this name.
fn entry(name: &str) -> &'static str {
    if name.starts_with("sum") { "sum" } else { "count" }
}

/// The emulated device, with ring kernels of this shape.
struct Emulated<const SHAPE: usize>(Arc<EmulatedBackend>);

const SHAPES: [Shape; 3] =
    [Shape::Thread { threads: 1 }, Shape::Block { threads: 3 }, Shape::Grid { blocks: 2, threads: 2 }];

impl<const SHAPE: usize> Place for Emulated<SHAPE> {
    fn new() -> Self {
        Self(EmulatedBackend::new().unwrap())
    }

    fn runtime(&self) -> Runtime {
        Runtime::with_options(RuntimeOptions::new().workers(2).device(self.0.clone())).unwrap()
    }

    fn launch(&self, runtime: &Runtime, name: &str, options: KernelOptions) -> KernelHandle<Number, Number> {
        let kernel = DeviceKernel::cuda_cpp("suite.cu", HANDLERS).entry(entry(name));
        let kernel = kernel.state(number(0)).queue_capacity(4).shape(SHAPES[SHAPE]);
        runtime.launch_on_device(name, options, kernel).unwrap()
    }
}

#[test]
fn a_state_is_read_and_put_back_between_messages() {
    suite::a_state_is_read_and_put_back_between_messages::<Emulated<1>>();
    suite::a_state_is_read_and_put_back_between_messages::<Emulated<2>>();
}

/// A runtime on a device with these options.
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

/// Fails on a number that is not the next.
const IN_ORDER: &str = r#"
extern "C" __device__ int32_t handle(Ctx *ctx, Number *state, const Number *message, Number *answer) {
    if (message->value != state->value) return 1;
    bool first = ctx->thread == 0 && ctx->block == 0;
    ctx->sync();
    if (first) state->value += 1;
    ctx->sync();
    if (ctx->wants_reply && first) {
        *answer = *state;
        ctx->reply(answer);
    }
    return 0;
}
"#;

#[test]
fn a_million_messages_arrive_in_order() {
    const COUNT: u64 = 1_000_000;
    let runtime = runtime_with(|_| {});
    let kernel =
        DeviceKernel::<Number, Number>::cuda_cpp("order.cu", IN_ORDER).state(number(0)).queue_capacity(256);
    let kernel = launch(&runtime, "order", kernel.shape(Shape::Block { threads: 1 }));
    for value in 0..COUNT {
        kernel.tell(number(value)).unwrap();
    }
    assert_eq!(kernel.ask(number(COUNT)).unwrap(), number(COUNT + 1));
    assert!(kernel.stats().handled >= COUNT, "those before the answer are counted when it comes");
    kernel.terminate(PATIENCE).unwrap();
    let stats = kernel.stats();
    assert_eq!((stats.handled, stats.dead_letters), (COUNT + 1, 0));
    runtime.shutdown(PATIENCE).unwrap();
}

#[test]
fn threads_take_a_message_each() {
    const TEXT: &str = r#"
        extern "C" __device__ int32_t handle(Ctx *ctx, Number *state, const Number *message, Number *answer) {
            dc::fetch_add_relaxed(reinterpret_cast<dc::u64 *>(&state->value));
            if (message->value % 10 == 3) return static_cast<int32_t>(message->value);
            answer->value = message->value * message->value;
            ctx->reply(answer);
            return 0;
        }
    "#;
    let runtime = runtime_with(|_| {});
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("threads.cu", TEXT).state(number(0));
    let kernel = launch(&runtime, "threads", kernel.shape(Shape::Thread { threads: 4 }).queue_capacity(32));
    for value in 0..1000 {
        kernel.tell(number(value)).unwrap();
    }
    let mut squares: Vec<u64> = (0..900).map(|_| kernel.receive_timeout(PATIENCE).unwrap().value).collect();
    squares.sort_unstable();
    let expected: Vec<u64> = (0..1000).filter(|value| value % 10 != 3).map(|value| value * value).collect();
    assert_eq!(squares, expected);
    // Many askers at once: each has the answer to his own question.
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
    kernel.terminate(PATIENCE).unwrap();
    let stats = kernel.stats();
    assert_eq!((stats.handled, stats.dead_letters), (900 + 1800, 100));
    assert!(stats.is_conserved());
}

#[test]
fn blocks_of_a_grid_meet_and_share_their_work() {
    const TEXT: &str = r#"
        struct State { unsigned long long partial[64]; };
        extern "C" __device__ int32_t handle(Ctx *ctx, State *state, const Number *message, Number *answer) {
            unsigned me = ctx->block * ctx->threads + ctx->thread, all = ctx->blocks * ctx->threads;
            unsigned long long sum = 0;
            for (unsigned long long value = me + 1; value <= message->value; value += all) sum += value;
            state->partial[me] = sum;
            ctx->sync();
            if (me == 0) {
                for (unsigned each = 0; each < all; ++each) answer->value += state->partial[each];
                ctx->reply(answer);
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
fn an_idle_kernel_leaves_and_comes_back_with_its_state() {
    let runtime = runtime_with(|options| options.idle_timeout = Duration::from_millis(2));
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("order.cu", IN_ORDER).state(number(0));
    let kernel = launch(&runtime, "order", kernel.shape(Shape::Grid { blocks: 2, threads: 1 }));
    for value in 0..300 {
        assert_eq!(kernel.ask(number(value)).unwrap(), number(value + 1));
        if value % 20 == 0 {
            std::thread::sleep(Duration::from_millis(6));
        } else if value % 7 == 0 {
            // About when it leaves.
            std::thread::sleep(Duration::from_micros(1900 + 5 * value));
        }
    }
    std::thread::sleep(Duration::from_millis(10));
    kernel.deactivate(PATIENCE).unwrap();
    kernel.tell(number(300)).unwrap();
    kernel.reactivate().unwrap();
    assert_eq!(kernel.ask(number(301)).unwrap(), number(302));
    std::thread::sleep(Duration::from_millis(10));
    kernel.terminate(PATIENCE).unwrap();
    assert_eq!(kernel.stats().handled, 302);
    runtime.shutdown(PATIENCE).unwrap();
}

#[test]
fn a_busy_kernel_gives_others_a_turn_and_misses_nothing() {
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
        kernel.terminate(PATIENCE).unwrap();
        let stats = kernel.stats();
        assert_eq!((stats.handled, stats.dead_letters), (20_000, 0));
    }
}

/// Its events fill up in the handler, which waits for room; it comes to a message boundary all the same.
#[test]
fn one_whose_outputs_nobody_reads_makes_way_and_pauses() {
    const COUNT: u64 = 2_000;
    let runtime = runtime_with(|_| {});
    let text = DeviceKernel::cuda_cpp("suite.cu", HANDLERS).entry("count").state(number(0));
    let options = KernelOptions::new().output_capacity(4);
    let unread: KernelHandle<Number, Number> = runtime.launch_on_device("unread", options, text).unwrap();
    unread.activate().unwrap();
    (0..4).for_each(|_| unread.tell(number(COUNT)).unwrap());
    let another = || DeviceKernel::cuda_cpp("suite.cu", HANDLERS).entry("sum").state(number(0));
    for turn in 0..3 {
        // A launch has the others make way.
        let kernel: KernelHandle<Number, Number> = launch(&runtime, &format!("sum-{turn}"), another());
        assert_eq!(kernel.ask(number(4)).unwrap(), number(4));
        runtime.quiesced(PATIENCE, || ()).unwrap();
    }
    assert_eq!(unread.checkpoint::<Number>(PATIENCE).unwrap(), number(0));
    unread.deactivate(PATIENCE).unwrap();
    unread.reactivate().unwrap();
    for turn in 0..4 * COUNT {
        assert_eq!(unread.receive_timeout(PATIENCE).unwrap(), number(turn % COUNT));
    }
    unread.terminate(PATIENCE).unwrap();
    assert!(unread.stats().is_conserved());
}

#[test]
fn a_state_may_be_larger_than_its_image() {
    const TEXT: &str = r#"
        struct State { unsigned long long first, table[1 << 17]; };
        extern "C" __device__ int32_t handle(Ctx *ctx, State *state, const Number *message, Number *answer) {
            if (message->value == 13) return 1;
            answer->value = state->first + state->table[message->value]++;
            ctx->reply(answer);
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
        for place in [0, 1, (1 << 17) - 1] {
            assert_eq!(kernel.ask(number(place)).unwrap(), number(7));
            assert_eq!(kernel.ask(number(place)).unwrap(), number(8));
        }
        let state = kernel.checkpoint_bytes(PATIENCE).unwrap();
        assert_eq!((state.len(), state[0], state[8], state[state.len() - 8]), (8 + (8 << 17), 7, 2, 2));
        // Made anew, all of it.
        let _ = kernel.ask(number(13));
    }
}

#[test]
fn many_that_are_told_to_end_at_once_all_end() {
    for _ in 0..10 {
        let runtime = runtime_with(|_| {});
        let text = || DeviceKernel::cuda_cpp("suite.cu", HANDLERS).entry("sum").state(number(0));
        let kernels: Vec<KernelHandle<Number, Number>> = (0..40)
            .map(|index| launch(&runtime, &format!("sum-{index}"), text().shape(Shape::Block { threads: 1 })))
            .collect();
        for kernel in &kernels {
            assert_eq!(kernel.ask(number(3)).unwrap(), number(3));
        }
        runtime.shutdown(PATIENCE).unwrap();
    }
}

#[test]
fn a_handler_that_never_returns_is_an_error_in_time() {
    const TEXT: &str = r#"
        extern "C" __device__ int32_t handle(Ctx *ctx, void *, const Number *message, Number *answer) {
            volatile unsigned long long turns = message->value;
            while (turns == 13) dc::pause_ns(2000);
            ctx->reply(answer);
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
    assert_eq!(kernel.wait_ended(PATIENCE), State::Failed);
    // The device goes on, and so does the name.
    let again = launch(&runtime, "loop", text());
    again.ask(number(2)).unwrap();
    drop(runtime);
    assert!(again.wait_ended(PATIENCE).has_ended());
}

#[test]
fn a_runtime_that_is_dropped_takes_its_kernels_off_the_device() {
    for told in [0, 100] {
        let runtime = runtime_with(|_| {});
        let kernel = DeviceKernel::cuda_cpp("suite.cu", HANDLERS).entry("count").state(number(0));
        let kernel: KernelHandle<Number, Number> = launch(&runtime, "count", kernel);
        let watching = kernel.clone();
        // Nobody reads its outputs: it waits for room when the program panics.
        (0..told).for_each(|_| kernel.tell(number(100)).unwrap());
        let panicked = std::thread::spawn(move || {
            let _runtime = runtime;
            panic!("injected");
        });
        assert!(panicked.join().is_err());
        assert!(watching.wait_ended(PATIENCE).has_ended());
        assert!(watching.stats().is_conserved());
    }
}

#[test]
fn a_handler_that_does_not_compile_is_told_by_its_own_lines() {
    let runtime = runtime_with(|_| {});
    let text = "extern \"C\" __device__ int32_t handle(Ctx *, void *, const Number *message, Number *) {\n\
                \x20   return message->valeu;\n}\n";
    let refused = runtime
        .launch_on_device(
            "typo",
            KernelOptions::new(),
            DeviceKernel::<Number, Number>::cuda_cpp("typo.cu", text),
        )
        .unwrap_err()
        .to_string();
    assert!(refused.contains("typo.cu:2") && refused.contains("valeu"), "{refused}");
}

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Large {
    bytes: [u64; 600],
}

#[test]
fn what_cannot_fit_is_refused_with_what_would() {
    let runtime = runtime_with(|options| options.blocks = 3);
    let text =
        || DeviceKernel::<Number, Number>::cuda_cpp("suite.cu", HANDLERS).entry("sum").state(number(0));
    let refusal = |kernel: DeviceKernel<Number, Number>| {
        runtime.launch_on_device("refused", KernelOptions::new(), kernel).unwrap_err().to_string()
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
    for (kernel, said) in cases {
        let refused = refusal(kernel);
        assert!(refused.contains("`refused`") && refused.contains(said), "{refused}");
    }
    let large = DeviceKernel::<Large, Number>::cuda_cpp("suite.cu", "");
    let refused = runtime.launch_on_device("large", KernelOptions::new(), large).unwrap_err().to_string();
    assert!(refused.contains("message has 4800 bytes") && refused.contains("at most 4072"), "{refused}");
    // Nothing of all that is held.
    let kernel = launch(&runtime, "refused", text().shape(Shape::Grid { blocks: 3, threads: 1 }));
    assert_eq!(kernel.ask(number(4)).unwrap(), number(4));
}

#[test]
fn all_make_way_and_come_back_with_what_was_sent_meanwhile() {
    let runtime = runtime_with(|options| options.idle_timeout = Duration::from_millis(3));
    let order = DeviceKernel::<Number, Number>::cuda_cpp("order.cu", IN_ORDER).state(number(0));
    let order = launch(&runtime, "order", order.shape(Shape::Grid { blocks: 2, threads: 1 }));
    let sum = DeviceKernel::<Number, Number>::cuda_cpp("suite.cu", HANDLERS).entry("sum").state(number(0));
    let sum = launch(&runtime, "sum", sum);
    sum.deactivate(PATIENCE).unwrap();
    let sender = {
        let order = order.clone();
        std::thread::spawn(move || (0..20_000).for_each(|value| order.tell(number(value)).unwrap()))
    };
    for _ in 0..40 {
        let handled = runtime
            .quiesced(PATIENCE, || {
                let before = order.stats().handled;
                std::thread::sleep(Duration::from_micros(300));
                // What was done before it left may still be counted, and no more than a queue of that.
                order.stats().handled - before
            })
            .unwrap();
        assert!(handled <= 64, "{handled} were handled while the device was quiet");
        std::thread::sleep(Duration::from_micros(700));
    }
    sender.join().unwrap();
    assert_eq!(order.ask(number(20_000)).unwrap(), number(20_001));
    assert_eq!(order.stats().dead_letters, 0);
    sum.reactivate().unwrap();
    assert_eq!(sum.ask(number(5)).unwrap(), number(5), "paused before, and with its state");
    runtime.shutdown(PATIENCE).unwrap();
}

#[test]
fn who_does_not_make_way_in_time_is_named_and_goes_on() {
    const SLOW: &str = r#"
        extern "C" __device__ int32_t handle(Ctx *ctx, void *, const Number *message, Number *answer) {
            if (ctx->thread != 0) return 0;
            ctx->send(answer);
            for (uint64_t begun = ctx->now_ns(); ctx->now_ns() - begun < message->value;) dc::pause_ns(1000);
            return 0;
        }
    "#;
    let runtime = runtime_with(|_| {});
    let slow = launch(&runtime, "slow", DeviceKernel::<Number, Number>::cuda_cpp("slow.cu", SLOW));
    slow.tell(number(400_000_000)).unwrap();
    slow.receive_timeout(PATIENCE).unwrap();
    let refused = runtime.quiesced(Duration::from_millis(20), || unreachable!()).unwrap_err().to_string();
    assert!(refused.contains("slow had not come to a message boundary"), "{refused}");
    slow.tell(number(0)).unwrap();
    slow.receive_timeout(PATIENCE).unwrap();
    assert_eq!(runtime.quiesced(PATIENCE, || 7).unwrap(), 7);
    runtime.shutdown(PATIENCE).unwrap();
}
