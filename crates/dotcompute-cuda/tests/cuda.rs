//! The suite of all ring kernels on a GPU; and, where there is none, on a driver that pretends (`fake/libcuda.c`) and runs the device code
//! on threads: then everything is tested but the GPU itself.
//!
//! With `DOTCOMPUTE_DEVICE=cuda` a machine without a usable GPU fails these tests; otherwise it skips them and says why.

mod coexistence;
mod common;
mod links;
mod pretend;
#[path = "../../dotcompute-core/tests/suite/mod.rs"]
mod suite;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dotcompute_core::device::{DeviceKernel, Shape};
use dotcompute_core::error::AskError;
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::lifecycle::State;
use dotcompute_core::memory::{DeviceMemory as _, UnifiedBuffer};
use dotcompute_core::message::record::RecordMessage;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::orchestrator::{Argument, Geometry, Orchestrator};
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use dotcompute_cuda::cuda::{CudaBackend, CudaKernel, CudaLauncher, CudaMemory, CudaOptions};
use suite::{Bench, Number, PATIENCE, Place, number};

/// The ring kernels of these tests.
const HANDLERS: &str = concat!(include_str!("handlers/suite.cu"), include_str!("handlers/faulty.cu"));

const SHAPES: [(Shape, &str); 3] = [
    (Shape::Thread { threads: 1 }, "ThreadShape"),
    (Shape::Block { threads: 3 }, "BlockShape"),
    (Shape::Grid { blocks: 2, threads: 2 }, "GridShape"),
];

/// The text, and for a driver that pretends what it is to run in the GPU's place.
fn text(entry: &str, shape: &str) -> String {
    let Some(folder) = pretend::folder() else { return HANDLERS.to_owned() };
    // Once for each: the same text is taken from the cache.
    static MADE: Mutex<BTreeMap<String, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap();
    let library = made.entry(format!("{entry}-{shape}")).or_insert_with(|| {
        let kernel = format!(
            "#include \"ring_kernel.cuh\"\n{}typedef dc::Context<Number> Ctx;\n{HANDLERS}\n\
             extern \"C\" size_t dc_launch_bytes() {{ return sizeof(dc::Launch); }}\n\
             DC_RING_KERNEL({shape}, Number, Number, Number, {entry})\n",
            Number::c_struct()
        );
        pretend::host_library(&folder, &kernel)
    });
    pretend::marked(&format!("#line 1 \"suite.cu\"\n{HANDLERS}"), library)
}

fn kernel(entry: &'static str, shape: usize) -> DeviceKernel<Number, Number> {
    let (shape, name) = SHAPES[shape];
    DeviceKernel::cuda_cpp("suite.cu", text(entry, name))
        .entry(entry)
        .state(number(0))
        .queue_capacity(4)
        .shape(shape)
}

/// A GPU, with ring kernels of this shape.
struct Gpu<const SHAPE: usize>(Arc<CudaBackend>);

impl<const SHAPE: usize> Place for Gpu<SHAPE> {
    fn new() -> Self {
        Self(pretend::backend(|_| {}).expect("looked for before"))
    }

    fn runtime(&self) -> Runtime {
        Runtime::with_options(RuntimeOptions::new().workers(2).device(self.0.clone())).unwrap()
    }

    fn launch(&self, runtime: &Runtime, name: &str, options: KernelOptions) -> KernelHandle<Number, Number> {
        let entry = if name.starts_with("sum") { "sum" } else { "count" };
        runtime.launch_on_device(name, options, kernel(entry, SHAPE)).unwrap()
    }
}

/// Every test of the suite, one after another: each has the device to itself.
fn run_suite<const SHAPE: usize>() {
    if pretend::backend(|_| {}).is_none() {
        return;
    }
    suite::it_is_asked_told_and_read_as_any_other::<Gpu<SHAPE>>();
    suite::a_question_without_an_answer_is_an_error::<Gpu<SHAPE>>();
    suite::a_pause_keeps_state_and_mail_and_lets_urgent_mail_pass::<Gpu<SHAPE>>();
    suite::an_error_fails_restarts_or_is_passed_over_as_its_supervision_says::<Gpu<SHAPE>>();
    suite::an_abort_hands_back_what_was_never_handled::<Gpu<SHAPE>>();
    suite::it_stands_in_pipelines_on_either_side_and_full_outputs_hold_it_up::<Gpu<SHAPE>>();
    suite::every_message_is_accounted_for_in_every_way_of_ending::<Gpu<SHAPE>>();
    suite::a_state_is_read_and_put_back_between_messages::<Gpu<SHAPE>>();
}

#[test]
fn suite_of_one_thread() {
    run_suite::<0>();
}

#[test]
fn suite_of_one_block() {
    run_suite::<1>();
}

#[test]
fn suite_of_two_blocks() {
    run_suite::<2>();
}

/// Every test of connections on the device.
fn run_links<const SHAPE: usize>() {
    if pretend::backend(|_| {}).is_none() {
        return;
    }
    links::outputs_reach_the_next_in_order_without_the_host::<Gpu<SHAPE>>();
    links::several_feed_one_and_one_feeds_device_and_host::<Gpu<SHAPE>>();
    links::a_failure_comes_back_with_its_message_and_supervision_decides::<Gpu<SHAPE>>();
    links::a_pause_holds_those_before_and_keeps_nobody_from_the_device::<Gpu<SHAPE>>();
    links::whoever_ends_leaves_nothing_unaccounted_for::<Gpu<SHAPE>>();
    links::one_that_is_away_comes_back_for_what_a_link_brings::<Gpu<SHAPE>>();
    links::more_than_there_are_links_go_by_the_host::<Gpu<SHAPE>>();
}

#[test]
fn links_of_one_thread() {
    run_links::<0>();
}

#[test]
fn links_of_one_block() {
    run_links::<1>();
}

#[test]
fn links_of_two_blocks() {
    run_links::<2>();
}

#[test]
fn ring_kernels_make_way_for_launches_and_for_whoever_needs_the_device() {
    if pretend::backend(|_| {}).is_none() {
        return;
    }
    let bench = Bench::<Gpu<1>>::new();
    let sum = bench.launch("sum", KernelOptions::new());
    for round in 1..=20 {
        assert_eq!(sum.ask(number(1)).unwrap(), number(round));
        let other =
            bench.runtime.launch_on_device("other", KernelOptions::new(), kernel("count", 2)).unwrap();
        other.activate().unwrap();
        other.tell(number(round)).unwrap();
        (0..round).for_each(|value| assert_eq!(other.receive_timeout(PATIENCE).unwrap(), number(value)));
        assert_eq!(bench.runtime.quiesced(PATIENCE, || round).unwrap(), round);
        other.terminate(PATIENCE).unwrap();
    }
}

/// What waits for the device has ring kernels make way.
#[test]
fn memory_is_had_and_one_shot_kernels_are_loaded_beside_ring_kernels() {
    const STORE: &str = "extern \"C\" __global__ void kernel(unsigned long long *x, unsigned long long value) { x[threadIdx.x] = value; }";
    if pretend::backend(|_| {}).is_none() {
        return;
    }
    let bench = Bench::<Gpu<1>>::new();
    let ring_kernel = bench.launch("sum", KernelOptions::new());
    let memory = CudaMemory::open(0).unwrap();
    let orchestrator = Orchestrator::new(CudaLauncher::with_options(pretend::options()).unwrap());
    for round in 1..=3_u64 {
        let mut buffer = UnifiedBuffer::<u64>::page_locked(memory.clone(), 64).unwrap();
        assert_eq!(ring_kernel.ask(number(1)).unwrap(), number(2 * round - 1));
        let text = pretend::one_shot(STORE, "kernel", &["unsigned long long *", "unsigned long long"]);
        let name = format!("store-{round}");
        orchestrator.compile(&name, CudaKernel::cuda_cpp("store.cu", text)).unwrap();
        let arguments = [Argument::write(&mut buffer), Argument::value(round)];
        orchestrator.launch(&name, Geometry::linear(64, 64), arguments).unwrap();
        assert_eq!(buffer.host().unwrap(), [round; 64]);
        drop(buffer);
        memory.trim().unwrap();
        assert_eq!(ring_kernel.ask(number(1)).unwrap(), number(2 * round));
    }
}

#[test]
fn an_idle_kernel_leaves_the_device_and_comes_back() {
    let Some(backend) = pretend::backend(|options| options.idle_timeout = Duration::from_millis(2)) else {
        return;
    };
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend)).unwrap();
    let sum = runtime.launch_on_device("sum", KernelOptions::new(), kernel("sum", 2)).unwrap();
    sum.activate().unwrap();
    for round in 1..=40 {
        assert_eq!(sum.ask(number(1)).unwrap(), number(round));
        std::thread::sleep(Duration::from_micros(1000 + 50 * round));
    }
    runtime.shutdown(PATIENCE).unwrap();
}

#[test]
fn what_cannot_be_resident_is_refused_with_what_could() {
    let Some(backend) = pretend::backend(|_| {}) else { return };
    let device = backend.device().clone();
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(1).device(backend)).unwrap();
    let refusal =
        |kernel| runtime.launch_on_device("big", KernelOptions::new(), kernel).unwrap_err().to_string();
    let grid = kernel("sum", 2).shape(Shape::Grid { blocks: 1 << 20, threads: 1024 });
    let refused = refusal(grid);
    assert!(refused.contains(&format!("{} multiprocessors", device.multiprocessors)), "{refused}");
    const HUGE: &str = "struct State {}; extern \"C\" __device__ int32_t handle(Ctx *, State *, const Number *, Number *) { return 0; }";
    let huge = DeviceKernel::cuda_cpp("huge.cu", HUGE).state_bytes(vec![1; 8], 8).state_size(1 << 45);
    let refused = refusal(huge);
    assert!(refused.contains("35184372088832 bytes of device memory, of which"), "{refused}");
    let refused = refusal(kernel("sum", 1).entry("missing"));
    assert!(refused.contains("missing"), "{refused}");
}

#[test]
fn whoever_waits_for_the_whole_device_gets_a_turn() {
    let change = |options: &mut CudaOptions| {
        options.max_residency = Duration::from_millis(200);
        options.idle_timeout = Duration::ZERO;
    };
    let Some(backend) = pretend::backend(change) else { return };
    let device = backend.device();
    let module = common::toolchain().unwrap().compile(&common::scale(device.architecture)).unwrap();
    let things = coexistence::Things::new(device.context().unwrap(), module.cubin.as_bytes().to_vec());
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend)).unwrap();
    let sum = runtime.launch_on_device("sum", KernelOptions::new(), kernel("sum", 1)).unwrap();
    sum.activate().unwrap();
    let rests = Arc::new(AtomicBool::new(false));
    let busy = std::thread::spawn({
        let (sum, rests) = (sum.clone(), Arc::clone(&rests));
        move || {
            (1..).take_while(|_| !rests.load(Ordering::Relaxed)).for_each(|round| {
                assert_eq!(sum.ask(number(1)).unwrap(), number(round));
            });
        }
    });
    coexistence::make_all(things, PATIENCE);
    rests.store(true, Ordering::Relaxed);
    busy.join().unwrap();
    // Ended: while it lives, a message may have been answered and not yet be counted.
    runtime.shutdown(PATIENCE).unwrap();
    let stats = sum.stats();
    assert!(stats.is_conserved() && stats.dead_letters == 0, "{stats:?}");
}

/// Launches the faulty one, with short patience.
fn faulty(runtime: &Runtime) -> KernelHandle<Number, Number> {
    let options = KernelOptions::new().supervision(Supervision::Resume);
    let kernel = runtime.launch_on_device("faulty", options, kernel("faulty", 1)).unwrap();
    kernel.activate().unwrap();
    assert_eq!(kernel.ask(number(1)).unwrap(), number(1));
    kernel
}

#[test]
fn a_handler_that_never_returns_is_an_error_in_time() {
    let Some(backend) = pretend::backend(|options| options.heartbeat_timeout = Duration::from_millis(300))
    else {
        return;
    };
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend)).unwrap();
    let kernel = faulty(&runtime);
    let AskError::Failed(fault) = kernel.ask(number(13)).unwrap_err() else { panic!() };
    assert!(fault.cause.contains("no heartbeat for"), "{fault}");
    assert_eq!(kernel.wait_ended(PATIENCE), State::Failed);
}

#[test]
fn a_lost_context_fails_all_and_a_new_runtime_works() {
    for _ in 0..2 {
        let Some(backend) = pretend::backend(|_| {}) else { return };
        let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend)).unwrap();
        let bystander = runtime.launch_on_device("sum", KernelOptions::new(), kernel("sum", 1)).unwrap();
        bystander.activate().unwrap();
        assert_eq!(bystander.ask(number(1)).unwrap(), number(1));
        let kernel = faulty(&runtime);
        kernel.tell(number(14)).unwrap();
        assert_eq!(kernel.wait_ended(PATIENCE), State::Failed);
        assert_eq!(bystander.wait_ended(PATIENCE), State::Failed);
        assert!(matches!(bystander.ask(number(1)), Err(AskError::NotSent(_))));
    }
}

/// Runs all of these tests again, each in a process of its own as on a GPU, with a driver that pretends.
#[test]
fn on_a_driver_that_pretends() {
    let tests = [
        "suite_of_one_thread",
        "suite_of_one_block",
        "suite_of_two_blocks",
        "links_of_one_thread",
        "links_of_one_block",
        "links_of_two_blocks",
        "ring_kernels_make_way_for_launches_and_for_whoever_needs_the_device",
        "memory_is_had_and_one_shot_kernels_are_loaded_beside_ring_kernels",
        "an_idle_kernel_leaves_the_device_and_comes_back",
        "whoever_waits_for_the_whole_device_gets_a_turn",
        "what_cannot_be_resident_is_refused_with_what_could",
        "a_handler_that_never_returns_is_an_error_in_time",
        "a_lost_context_fails_all_and_a_new_runtime_works",
    ];
    pretend::run(&tests, &["whoever_waits_for_the_whole_device_gets_a_turn"]);
}
