//! The conformance tests on a GPU, in every shape, and what only the CUDA backend has.
//!
//! On a machine without a GPU the tests are skipped and print why; with `DOTCOMPUTE_DEVICE=cuda` they fail instead. Each also runs on the
//! fake driver (`fake_driver/libcuda.c`), which runs the device code on host threads: that tests everything but the GPU.

mod coexistence;
mod common;
mod fake_driver;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dotcompute_conformance::{
    DEVICE_HANDLERS, Fixture, Number, TIMEOUT, TestBackend, TestDevice, TestKernel, number, watchdog,
};
use dotcompute_core::backend::{BackendError, DeviceResource};
use dotcompute_core::device::{DeviceKernel, Shape};
use dotcompute_core::error::{AskError, LaunchError};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::lifecycle::State;
use dotcompute_core::memory::{DeviceMemory as _, UnifiedBuffer};
use dotcompute_core::message::record::RecordMessage;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::orchestrator::{Argument, Geometry, Orchestrator};
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use dotcompute_cuda::cuda::{CudaBackend, CudaKernel, CudaLauncher, CudaMemory, CudaOptions};
use dotcompute_cuda::driver::Driver;

mod thread_shape {
    dotcompute_conformance::device_backend_tests!(super::Gpu<0>);
    dotcompute_conformance::link_tests!(super::Gpu<0>);
}

mod block_shape {
    dotcompute_conformance::device_backend_tests!(super::Gpu<1>);
    dotcompute_conformance::link_tests!(super::Gpu<1>);
}

mod grid_shape {
    dotcompute_conformance::device_backend_tests!(super::Gpu<2>);
    dotcompute_conformance::link_tests!(super::Gpu<2>);
}

/// The handler of this file's own tests.
const FAULTY: &str = include_str!("handlers/faulty.cu");

const SHAPES: [(Shape, &str); 3] = [
    (Shape::Thread { threads: 1 }, "ThreadShape"),
    (Shape::Block { threads: 3 }, "BlockShape"),
    (Shape::Grid { blocks: 2, threads: 2 }, "GridShape"),
];

/// The handlers as text; for the fake driver, with the library to run instead of the kernel.
fn text(entry: &str, shape: &str) -> String {
    let handlers = format!("{DEVICE_HANDLERS}{FAULTY}");
    let Some(folder) = fake_driver::folder() else { return handlers };
    let kernel = format!(
        "#include \"ring_kernel.cuh\"\n{}typedef dc::Context<Number> Ctx;\n{handlers}\n\
         extern \"C\" size_t dc_launch_bytes() {{ return sizeof(dc::Launch); }}\n\
         DC_RING_KERNEL({shape}, Number, Number, Number, {entry})\n",
        Number::c_struct()
    );
    let library = fake_driver::host_library(&folder, &kernel);
    fake_driver::marked(&format!("#line 1 \"conformance.cu\"\n{handlers}"), &library)
}

fn kernel(entry: &'static str, shape: usize) -> DeviceKernel<Number, Number> {
    let (shape, name) = SHAPES[shape];
    DeviceKernel::cuda_cpp("conformance.cu", text(entry, name))
        .entry(entry)
        .state(number(0))
        .queue_capacity(4)
        .shape(shape)
}

/// A GPU, with ring kernels of this shape.
struct Gpu<const SHAPE: usize>(Arc<CudaBackend>);

impl<const SHAPE: usize> TestBackend for Gpu<SHAPE> {
    fn unavailable() -> Option<String> {
        fake_driver::unavailable()
    }

    fn open() -> Self {
        Self(fake_driver::backend(|_| {}).expect("a device: `unavailable` found one"))
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

impl<const SHAPE: usize> TestDevice for Gpu<SHAPE> {
    fn kernel(&self, entry: &'static str) -> DeviceKernel<Number, Number> {
        kernel(entry, SHAPE)
    }
}

#[test]
fn ring_kernels_quiesce_for_launches_and_on_request() {
    watchdog!();
    if fake_driver::backend(|_| {}).is_none() {
        return;
    }
    let fixture = Fixture::<Gpu<1>>::new();
    let sum = fixture.launch(TestKernel::Sum, "sum", KernelOptions::new());
    for round in 1..=20 {
        assert_eq!(sum.ask(number(1)).unwrap(), number(round));
        let other =
            fixture.runtime.launch_on_device("other", KernelOptions::new(), kernel("count", 2)).unwrap();
        other.activate().unwrap();
        other.tell(number(round)).unwrap();
        (0..round).for_each(|value| assert_eq!(other.receive_timeout(TIMEOUT).unwrap(), number(value)));
        assert_eq!(fixture.runtime.quiesced(TIMEOUT, || round).unwrap(), round);
        other.terminate(TIMEOUT).unwrap();
    }
}

/// Calls that wait for the whole device quiesce the ring kernels first.
#[test]
fn memory_is_allocated_and_one_shot_kernels_load_beside_ring_kernels() {
    watchdog!();
    const STORE: &str = "extern \"C\" __global__ void kernel(unsigned long long *x, unsigned long long value) { x[threadIdx.x] = value; }";
    if fake_driver::backend(|_| {}).is_none() {
        return;
    }
    let fixture = Fixture::<Gpu<1>>::new();
    let ring_kernel = fixture.launch(TestKernel::Sum, "sum", KernelOptions::new());
    let memory = CudaMemory::open(0).unwrap();
    let orchestrator = Orchestrator::new(CudaLauncher::with_options(fake_driver::options()).unwrap());
    for round in 1..=3_u64 {
        let mut buffer = UnifiedBuffer::<u64>::page_locked(memory.clone(), 64).unwrap();
        assert_eq!(ring_kernel.ask(number(1)).unwrap(), number(2 * round - 1));
        let text = fake_driver::one_shot(STORE, "kernel", &["unsigned long long *", "unsigned long long"]);
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

/// What quiesces the device works inside `quiesced`, which holds it quiet already, and is refused on another thread.
#[test]
fn a_quiesced_thread_may_launch_connect_and_use_memory() {
    watchdog!();
    let Some(backend) = fake_driver::backend(|options| options.quiesce_timeout = Duration::from_millis(100))
    else {
        return;
    };
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend)).unwrap();
    let launch = |name, entry| {
        let kernel = runtime.launch_on_device(name, KernelOptions::new(), kernel(entry, 1))?;
        kernel.activate().unwrap();
        Ok::<_, LaunchError>(kernel)
    };
    let [count, sum] = [launch("count", "count").unwrap(), launch("sum", "sum").unwrap()];
    let memory = CudaMemory::open(0).unwrap();
    let late = runtime
        .quiesced(TIMEOUT, || {
            assert_eq!(runtime.quiesced(TIMEOUT, || 3).unwrap(), 3);
            let opened = CudaMemory::open(0).unwrap();
            drop(opened.page_locked(64).unwrap());
            memory.trim().unwrap();
            count.connect(&sum).unwrap();
            count.tell(number(5)).unwrap();
            let late = launch("late", "sum").unwrap();
            let error = std::thread::scope(|scope| scope.spawn(|| launch("refused", "sum")).join());
            let error = error.unwrap().unwrap_err().to_string();
            assert!(error.contains("another thread has kept it quiet for 100ms"), "{error}");
            // Waits for the whole device on a GPU, and is reported by the fake driver if a ring kernel is resident.
            memory.trim().unwrap();
            assert_eq!(count.stats().handled, 0);
            late
        })
        .unwrap();
    assert_eq!(late.ask(number(2)).unwrap(), number(2));
    runtime.shutdown(TIMEOUT).unwrap();
    assert_eq!((count.stats().handled, sum.stats().handled), (1, 5));
}

#[test]
fn an_idle_kernel_leaves_the_device_and_is_relaunched() {
    watchdog!();
    let Some(backend) = fake_driver::backend(|options| options.idle_timeout = Duration::from_millis(2))
    else {
        return;
    };
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend)).unwrap();
    let sum = runtime.launch_on_device("sum", KernelOptions::new(), kernel("sum", 2)).unwrap();
    sum.activate().unwrap();
    for round in 1..=40 {
        assert_eq!(sum.ask(number(1)).unwrap(), number(round));
        std::thread::sleep(Duration::from_micros(1000 + 50 * round));
    }
    runtime.shutdown(TIMEOUT).unwrap();
}

#[test]
fn a_launch_that_does_not_fit_is_an_error_with_what_would_fit() {
    watchdog!();
    let Some(backend) = fake_driver::backend(|_| {}) else { return };
    let device = backend.device().clone();
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(1).device(backend)).unwrap();
    let launch_error =
        |kernel| runtime.launch_on_device("big", KernelOptions::new(), kernel).unwrap_err().to_string();
    let grid = kernel("sum", 2).shape(Shape::Grid { blocks: 1 << 20, threads: 1024 });
    let error = launch_error(grid);
    assert!(error.contains(&format!("{} multiprocessors", device.multiprocessors)), "{error}");
    const HUGE: &str = "struct State {}; extern \"C\" __device__ int32_t handle(Ctx *, State *, const Number *, Number *) { return 0; }";
    let huge = DeviceKernel::cuda_cpp("huge.cu", HUGE).state_bytes(vec![1; 8], 8).state_size(1 << 45);
    let error = launch_error(huge);
    assert!(error.contains("35184372088832 bytes of device memory, of which"), "{error}");
    let error = launch_error(kernel("sum", 1).entry("missing"));
    assert!(error.contains("missing"), "{error}");
}

#[test]
fn calls_that_wait_for_the_whole_device_complete() {
    watchdog!();
    let change = |options: &mut CudaOptions| {
        options.max_residency = Duration::from_millis(200);
        options.idle_timeout = Duration::ZERO;
    };
    let Some(backend) = fake_driver::backend(change) else { return };
    let device = backend.device();
    let module = common::toolchain().unwrap().compile(&common::scale(device.architecture)).unwrap();
    let resources = coexistence::Resources::new(device.context().unwrap(), module.cubin.as_bytes().to_vec());
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend)).unwrap();
    let sum = runtime.launch_on_device("sum", KernelOptions::new(), kernel("sum", 1)).unwrap();
    sum.activate().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let busy = std::thread::spawn({
        let (sum, stop) = (sum.clone(), Arc::clone(&stop));
        move || {
            (1..).take_while(|_| !stop.load(Ordering::Relaxed)).for_each(|round| {
                assert_eq!(sum.ask(number(1)).unwrap(), number(round));
            });
        }
    });
    coexistence::make_all_calls(resources, TIMEOUT);
    stop.store(true, Ordering::Relaxed);
    busy.join().unwrap();
    // After the end: until then, a message may have its reply and not be counted yet.
    runtime.shutdown(TIMEOUT).unwrap();
    let stats = sum.stats();
    assert!(stats.is_conserved() && stats.dead_letters == 0, "{stats:?}");
}

/// Launches the ring kernel with the faulty handler.
fn faulty(runtime: &Runtime) -> KernelHandle<Number, Number> {
    let options = KernelOptions::new().supervision(Supervision::Resume);
    let kernel = runtime.launch_on_device("faulty", options, kernel("faulty", 1)).unwrap();
    kernel.activate().unwrap();
    assert_eq!(kernel.ask(number(1)).unwrap(), number(1));
    kernel
}

#[test]
fn a_handler_that_never_returns_is_an_error_in_time() {
    watchdog!();
    let Some(backend) =
        fake_driver::backend(|options| options.heartbeat_timeout = Duration::from_millis(300))
    else {
        return;
    };
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend)).unwrap();
    let kernel = faulty(&runtime);
    let AskError::Failed(fault) = kernel.ask(number(13)).unwrap_err() else { panic!() };
    assert!(fault.cause.contains("no heartbeat for"), "{fault}");
    assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
}

/// On a GPU, killing it ends the context too. The fake driver ends its threads alone.
#[test]
fn a_launch_beside_a_hung_handler_names_it_until_it_is_killed() {
    watchdog!();
    let Some(backend) = fake_driver::backend(|options| {
        options.heartbeat_timeout = Duration::from_millis(300);
        // Only a launch that does not wait for the hung ring kernel returns.
        options.quiesce_timeout = Duration::MAX;
    }) else {
        return;
    };
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend.clone())).unwrap();
    assert_eq!(backend.kill_hung(TIMEOUT).unwrap(), Vec::<String>::new());
    let hung = faulty(&runtime);
    hung.ask(number(13)).unwrap_err();
    assert_eq!(hung.wait_ended(TIMEOUT), State::Failed);
    let launch = || runtime.launch_on_device("next", KernelOptions::new(), kernel("sum", 1));
    let error = launch().unwrap_err().to_string();
    assert!(error.contains("the handler of faulty does not return"), "{error}");
    assert_eq!(backend.kill_hung(TIMEOUT).unwrap(), ["faulty"]);
    if fake_driver::folder().is_some() {
        launch().unwrap();
    }
}

#[test]
fn a_lost_context_fails_all_with_the_cause_and_is_not_replaced() {
    watchdog!();
    let Some(backend) = fake_driver::backend(|_| {}) else { return };
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend)).unwrap();
    let bystander = runtime.launch_on_device("sum", KernelOptions::new(), kernel("sum", 1)).unwrap();
    bystander.activate().unwrap();
    assert_eq!(bystander.ask(number(1)).unwrap(), number(1));
    let memory = CudaMemory::open(0).unwrap();
    let mut buffer = UnifiedBuffer::<u64>::new(memory.clone(), 64).unwrap();
    buffer.device().unwrap();
    let kernel_14 = faulty(&runtime);
    let AskError::Failed(fault) = kernel_14.ask(number(14)).unwrap_err() else { panic!() };
    let is_cause = |text: &str| {
        let parts = [
            "the CUDA context of device 0 is lost",
            "in their handlers at the time: faulty",
            "end this process",
        ];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    };
    is_cause(&fault.cause);
    assert_eq!(kernel_14.wait_ended(TIMEOUT), State::Failed);
    assert_eq!(bystander.wait_ended(TIMEOUT), State::Failed);
    assert!(matches!(bystander.ask(number(1)), Err(AskError::NotSent(_))));
    // Whatever needs the device fails with the cause, in this runtime and in a new one.
    let launched = runtime.launch_on_device("late", KernelOptions::new(), kernel("sum", 1));
    is_cause(&launched.unwrap_err().to_string());
    is_cause(&runtime.quiesced(TIMEOUT, || ()).unwrap_err().to_string());
    is_cause(&memory.allocate(64).unwrap_err().to_string());
    drop((buffer, memory, bystander, kernel_14));
    drop(runtime);
    let reopened = CudaBackend::with_options(fake_driver::options()).err().unwrap();
    is_cause(&reopened.to_string());
    is_cause(&CudaMemory::open(0).err().unwrap().to_string());
}

#[test]
fn a_ring_kernel_without_a_hardware_queue_of_its_own_is_refused() {
    watchdog!();
    let Some(backend) = fake_driver::backend(|_| {}) else { return };
    let queues = Driver::open().unwrap().hardware_queues();
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2).device(backend)).unwrap();
    let launch = |index: u32| {
        runtime.launch_on_device(&format!("sum-{index}"), KernelOptions::new(), kernel("sum", 1))
    };
    let mut kernels = Vec::new();
    let error = loop {
        match launch(kernels.len() as u32) {
            Ok(kernel) => kernels.push(kernel),
            Err(error) => break error,
        }
    };
    let LaunchError::Backend {
        source: BackendError::NoRoom { resource, free, capacity, problem, .. }, ..
    } = error
    else {
        panic!("{error}")
    };
    // On the fake driver, which has 16 multiprocessors, those are short first if there are many queues.
    assert_eq!(free, 0, "{problem}");
    assert_eq!(kernels.len() as u32, capacity, "{problem}");
    if queues.count <= 16 {
        assert_eq!(resource, DeviceResource::HardwareQueues, "{problem}");
        assert!(problem.contains(&format!("the device has {queues}")), "{problem}");
        assert!(problem.contains("terminate a ring kernel"), "{problem}");
    }
    // Every admitted ring kernel runs beside the others, and a queue is free again once its ring kernel has ended.
    for kernel in &kernels {
        kernel.activate().unwrap();
    }
    for kernel in &kernels {
        assert_eq!(kernel.ask(number(5)).unwrap(), number(5));
    }
    kernels.pop().unwrap().terminate(TIMEOUT).unwrap();
    launch(99).unwrap().activate().unwrap();
}

#[test]
fn eight_queues_are_enough_for_five_ring_kernels_on_the_fake_driver() {
    let test = "a_ring_kernel_without_a_hardware_queue_of_its_own_is_refused";
    for count in ["8", "4"] {
        let variables = [("CUDA_DEVICE_MAX_CONNECTIONS", count)];
        fake_driver::run_tests(|name| name == test, &variables, &["ALIASES", "STALE", "WAITS"]);
    }
}

#[test]
fn a_connected_ring_kernel_gets_more_outputs_than_a_link_holds() {
    watchdog!();
    if fake_driver::backend(|_| {}).is_none() {
        return;
    }
    let fixture = Fixture::<Gpu<1>>::new();
    let options = || KernelOptions::new().output_capacity(4096);
    let count = fixture.launch(TestKernel::Count, "count", options());
    let sum = fixture.launch(TestKernel::Sum, "sum", options());
    count.connect(&sum).unwrap();
    count.tell(number(600)).unwrap();
    let started = Instant::now();
    while sum.stats().handled < 600 {
        assert!(started.elapsed() < TIMEOUT, "{:?}", sum.stats());
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(sum.ask(number(0)).unwrap(), number(599 * 600 / 2));
}

/// With one hardware queue, nothing else runs until a launch has ended. Links are not used then, and one test needs two ring kernels at once: a
/// handler of one waits until the other has handled its outputs.
#[test]
fn ring_kernels_take_turns_if_launches_block_on_the_fake_driver() {
    let excluded = ["link", "fan_in", "deactivated_consumer", "full_outputs_block_it"];
    let selects = |test: &str| {
        let in_shape = test.starts_with("block_shape::") && !excluded.iter().any(|part| test.contains(part));
        in_shape || test == "a_connected_ring_kernel_gets_more_outputs_than_a_link_holds"
    };
    let variables = [("CUDA_DEVICE_MAX_CONNECTIONS", "1"), ("CUDA_LAUNCH_BLOCKING", "1")];
    fake_driver::run_tests(selects, &variables, &["STALE"]);
}

/// Nothing in the environment says that a debugger is attached: the first launch does.
#[test]
fn a_launch_that_does_not_return_in_time_is_noticed_on_the_fake_driver() {
    let selects = |test: &str| {
        let parts = [
            "supervision_decides_what_follows_an_error",
            "deactivation_keeps_state",
            "a_connected_ring_kernel",
        ];
        test.matches("::").count() == usize::from(test.starts_with("block_shape"))
            && parts.iter().any(|part| test.contains(part))
    };
    let variables = [("CUDA_DEVICE_MAX_CONNECTIONS", "32"), ("FAKE_BLOCKING", "1")];
    fake_driver::run_tests(selects, &variables, &["STALE"]);
}

#[test]
fn all_tests_pass_on_the_fake_driver() {
    fake_driver::run_all_tests(&["calls_that_wait_for_the_whole_device_complete"]);
}
