//! One-shot kernels on the `cpu` device.

use std::sync::Arc;
use std::time::Duration;

use dotcompute_core::backend::BackendKind;
use dotcompute_core::error::HandlerResult;
use dotcompute_core::memory::{
    BufferState, CpuMemory, DeviceBlock, DeviceId, DeviceMemory, HostBlock, MemoryError, MemoryPool,
    PoolOptions, UnifiedBuffer,
};
use dotcompute_core::orchestrator::{
    Argument, Arguments, CpuKernel, CpuLauncher, Geometry, KernelLaunchError, Orchestrator,
    OrchestratorError, Origin,
};

const ONE: Geometry = Geometry::new([1; 3], [1; 3]);

fn scale() -> CpuKernel {
    CpuKernel::new(|arguments: &mut Arguments<'_>| -> HandlerResult {
        let factor = arguments.value::<u64>()?;
        let (input, output) = (arguments.read::<u64>()?, arguments.write::<u64>()?);
        for (output, input) in output.iter_mut().zip(input) {
            *output = factor * input;
        }
        if factor == 13 { Err("thirteen".into()) } else { Ok(()) }
    })
}

fn orchestrator() -> Orchestrator<CpuLauncher> {
    let orchestrator = Orchestrator::with_history(CpuLauncher::new(), 3);
    orchestrator.compile("scale", scale()).unwrap();
    orchestrator
}

fn buffers() -> (UnifiedBuffer<u64>, UnifiedBuffer<u64>) {
    let pool = MemoryPool::new(CpuMemory::new(), PoolOptions::new());
    let input = UnifiedBuffer::from_slice(pool.clone(), &[1, 2, 3]).unwrap();
    (input, UnifiedBuffer::new(pool, 3).unwrap())
}

/// The error text of a launch.
fn launch_error<'a>(
    orchestrator: &Orchestrator<CpuLauncher>,
    kernel: &str,
    arguments: impl IntoIterator<Item = Argument<'a>>,
) -> String {
    orchestrator.launch(kernel, ONE, arguments).unwrap_err().to_string()
}

#[test]
fn a_kernel_runs_on_device_copies_and_only_changes_are_copied() {
    let orchestrator = orchestrator();
    let (mut input, mut output) = buffers();
    for factor in 1..=5_u64 {
        let arguments = [Argument::value(factor), Argument::read(&mut input), Argument::write(&mut output)];
        let launch = orchestrator.launch("scale", ONE, arguments).unwrap();
        // The first launch copies all of the input, later ones the changed element. The output is never copied.
        let copied = if factor == 1 { 24 } else { 8 };
        assert_eq!((launch.number, launch.copied_bytes, launch.error), (factor - 1, copied, None));
        assert!(launch.total >= launch.kernel_time + launch.prepare_time);
        assert_ne!(output.state(), BufferState::Synchronized);
        assert_eq!(
            output.host().unwrap(),
            input.host().unwrap().iter().map(|x| x * factor).collect::<Vec<_>>()
        );
        input.host_range_mut(1..2).unwrap()[0] = factor;
    }
}

#[test]
fn the_history_is_bounded_and_includes_failures() {
    let orchestrator = orchestrator();
    orchestrator.compile("nothing", CpuKernel::new(|_| Ok(()))).unwrap();
    let (mut input, mut output) = buffers();
    for factor in 11..=13_u64 {
        let arguments = [Argument::value(factor), Argument::read(&mut input), Argument::write(&mut output)];
        let _ = orchestrator.launch("scale", ONE, arguments);
    }
    orchestrator.launch("nothing", ONE, []).unwrap();
    let numbers: Vec<_> =
        orchestrator.history().iter().map(|launch| (launch.number, launch.kernel.to_string())).collect();
    assert_eq!(numbers, [(1, "scale".into()), (2, "scale".into()), (3, "nothing".into())]);
    let of_scale = orchestrator.history_of("scale");
    assert_eq!(of_scale.len(), 2);
    assert_eq!(of_scale[0].error, None);
    assert_eq!(of_scale[1].error.as_deref(), Some("launching `scale`: the kernel failed: thirteen"));
    assert_eq!(of_scale[1].kernel_time, Duration::ZERO);
    // The output written before the failure is visible.
    assert_eq!(output.host().unwrap(), [13, 26, 39]);
    orchestrator.clear_history();
    assert!(orchestrator.history().is_empty());
    assert_eq!(orchestrator.launch("nothing", ONE, []).unwrap().number, 4);
}

#[test]
fn a_name_stands_for_one_kernel() {
    let orchestrator = orchestrator();
    let kernel = scale();
    let error = orchestrator.compile("scale", kernel.clone()).unwrap_err();
    assert!(matches!(error, OrchestratorError::NameTaken { .. }), "{error}");
    assert!(orchestrator.forget("scale") && !orchestrator.forget("scale"));
    assert_eq!(orchestrator.compile("scale", kernel.clone()).unwrap().origin, Origin::Compiled);
    assert_eq!(orchestrator.compile("scale", kernel).unwrap().origin, Origin::Registered);
    assert_eq!(
        launch_error(&orchestrator, "scala", []),
        "launching `scala`: unknown kernel; compile it first, or use one of: `scale`"
    );
    assert!(orchestrator.history().is_empty());
}

#[test]
fn argument_errors_name_the_expected_and_the_given_type() {
    let orchestrator = orchestrator();
    let (mut input, mut output) = buffers();
    assert_eq!(
        launch_error(&orchestrator, "scale", [Argument::value(1_u32)]),
        "launching `scale`: the kernel failed: expected a value of u64, got a value of u32"
    );
    let text = launch_error(&orchestrator, "scale", [Argument::value(1_u64)]);
    assert!(text.ends_with("expected a buffer of u64, got no argument"), "{text}");
    let text = launch_error(&orchestrator, "scale", [Argument::value(1_u64), Argument::value(1_u64)]);
    assert!(text.ends_with("expected a buffer of u64, got a value of u64"), "{text}");
    let arguments = [Argument::value(1_u64), Argument::read(&mut input), Argument::read(&mut output)];
    let text = launch_error(&orchestrator, "scale", arguments);
    assert!(text.ends_with("expected a buffer of u64 to write, got a buffer of 3 u64 to read"), "{text}");
    let two_more = [1, 2].map(Argument::value::<u64>);
    let arguments = [Argument::value(1_u64), Argument::read(&mut input), Argument::write(&mut output)];
    let text = launch_error(&orchestrator, "scale", arguments.into_iter().chain(two_more));
    assert!(text.ends_with("expected 3 arguments, got 5"), "{text}");
    let error = orchestrator.launch("scale", Geometry::linear(5, 0), []).unwrap_err().to_string();
    assert!(error.contains("cannot run a block of [0, 1, 1]"), "{error}");
}

#[test]
fn a_panic_is_an_error_and_later_launches_work() {
    let orchestrator = orchestrator();
    orchestrator.compile("panics", CpuKernel::new(|_| panic!("out of cheese"))).unwrap();
    assert_eq!(
        launch_error(&orchestrator, "panics", []),
        "launching `panics`: the kernel panicked: out of cheese"
    );
    let (mut input, mut output) = buffers();
    let arguments = [Argument::value(2_u64), Argument::read(&mut input), Argument::write(&mut output)];
    orchestrator.launch("scale", ONE, arguments).unwrap();
    assert_eq!(output.host().unwrap(), [2, 4, 6]);
}

/// Memory of a GPU with no free bytes.
#[derive(Debug)]
struct Elsewhere;

impl DeviceMemory for Elsewhere {
    fn device(&self) -> DeviceId {
        DeviceId { backend: BackendKind::Cuda, index: 2 }
    }

    fn allocate(&self, requested: usize) -> Result<Box<dyn DeviceBlock>, MemoryError> {
        Err(MemoryError::NoDeviceMemory { device: self.device(), requested, free: Some(0) })
    }

    fn supports_page_locked(&self) -> bool {
        true
    }

    fn page_locked(&self, requested: usize) -> Result<Box<dyn HostBlock>, MemoryError> {
        Err(MemoryError::NoHostMemory { requested })
    }

    fn trim(&self) -> Result<(), MemoryError> {
        Ok(())
    }
}

#[test]
fn buffers_of_another_device_and_failed_allocations_are_errors() {
    let orchestrator = orchestrator();
    let mut elsewhere = UnifiedBuffer::<u64>::new(Arc::new(Elsewhere), 3).unwrap();
    let text = launch_error(&orchestrator, "scale", [Argument::value(1_u64), Argument::read(&mut elsewhere)]);
    assert_eq!(
        text,
        "launching `scale`: argument 1: the buffer is on cuda 2, but the kernel runs on cpu 0; create the buffer with the memory of cpu 0"
    );
    let pool = MemoryPool::new(CpuMemory::new(), PoolOptions::new().limit(512));
    let mut large = UnifiedBuffer::<u64>::new(pool, 100).unwrap();
    let error = orchestrator.launch("scale", ONE, [Argument::read(&mut large)]).unwrap_err();
    let OrchestratorError::Launch { source: KernelLaunchError::Argument { position: 0, .. }, .. } = error
    else {
        panic!("{error}")
    };
    assert_eq!(orchestrator.history()[1].error, Some(error.to_string()));
}
