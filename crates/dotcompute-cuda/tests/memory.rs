//! The conformance tests of memory and one-shot kernels on a GPU; without one, on the fake driver.

mod common;
mod fake_driver;

use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::result;
use dotcompute_conformance::{TestMemory, watchdog};
use dotcompute_core::memory::{
    DeviceMemory, DeviceSlice, DeviceSliceMut, MemoryError, MemoryPool, PoolOptions, UnifiedBuffer,
};
use dotcompute_core::orchestrator::{
    Argument, Geometry, KernelLaunchError, Orchestrator, OrchestratorError, Origin,
};
use dotcompute_cuda::cuda::baseline::{FlagPingPong, KernelSource};
use dotcompute_cuda::cuda::{CudaKernel, CudaLauncher, CudaMemory, accelerators};

const AXPY: &str = "\
extern \"C\" __global__ void axpy(float factor, const float *x, float *y, unsigned long long count) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i < count) y[i] += factor * x[i];
}
";
const TYPES: [&str; 4] = ["float", "const float *", "float *", "unsigned long long"];

fn memory() -> Option<Arc<CudaMemory>> {
    fake_driver::opened(CudaMemory::open(0))
}

fn orchestrator() -> Option<Orchestrator<CudaLauncher>> {
    fake_driver::opened(CudaLauncher::with_options(fake_driver::options())).map(Orchestrator::new)
}

fn axpy() -> CudaKernel {
    CudaKernel::cuda_cpp("axpy.cu", fake_driver::one_shot(AXPY, "axpy", &TYPES)).entry("axpy")
}

mod gpu {
    dotcompute_conformance::device_memory_tests!(super::Gpu);
}

/// A GPU's memory. The device's accesses are driver calls that the crate itself does not use.
struct Gpu;

impl TestMemory for Gpu {
    const CASES: u32 = 60;
    const TOO_LARGE_BYTES: usize = 1 << 45;

    fn unavailable() -> Option<String> {
        fake_driver::unavailable()
    }

    fn open() -> Arc<dyn DeviceMemory> {
        CudaMemory::open(0).expect("a device: `unavailable` found one")
    }

    fn fill(slice: DeviceSliceMut<'_, u16>, value: u16) {
        let values = vec![value; slice.len()];
        if !values.is_empty() {
            // SAFETY: `slice` borrows its device memory mutably and has the length of `values`.
            unsafe { result::memcpy_htod_sync(slice.address(), &values) }.unwrap();
        }
    }

    fn read(slice: DeviceSlice<'_, u16>) -> Vec<u16> {
        assert!(slice.as_slice().is_none(), "the host cannot access it");
        let mut values = vec![0; slice.len()];
        // SAFETY: `slice` borrows its device memory and has the length of `values`.
        unsafe { result::memcpy_dtoh_sync(&mut values, slice.address()) }.unwrap();
        values
    }
}

#[test]
fn blocks_are_pooled_and_an_allocation_beyond_a_limit_is_an_error() {
    watchdog!();
    let Some(memory) = memory() else { return };
    let pool = MemoryPool::new(memory.clone(), PoolOptions::new().limit(1 << 20));
    let first = pool.allocate(5000).unwrap();
    let (address, text) = (first.address(), format!("{first:?}"));
    assert!(address % 256 == 0 && text.contains("5000"), "{text}");
    drop(first);
    assert_eq!(pool.allocate(5100).unwrap().address(), address);
    assert!(matches!(pool.allocate(1 << 21), Err(MemoryError::Limit { .. })));
    let error = memory.allocate(1 << 45).unwrap_err();
    let MemoryError::NoDeviceMemory { free: Some(free), .. } = error else { panic!("{error}") };
    assert!(free > 0 && error.to_string().contains("cuda 0"), "{error}");
    memory.trim().unwrap();
    let error = CudaMemory::open(77).unwrap_err().to_string();
    assert!(error.contains("there is no CUDA device 77"), "{error}");
}

#[test]
fn host_memory_can_be_page_locked() {
    watchdog!();
    let Some(memory) = memory() else { return };
    assert!(memory.supports_page_locked());
    let mut buffer = UnifiedBuffer::<u32>::page_locked(memory, 7).unwrap();
    buffer.host_mut().unwrap();
    assert!(buffer.is_page_locked());
}

#[test]
fn a_one_shot_kernel_runs_on_buffers_and_is_timed() {
    watchdog!();
    let (Some(memory), Some(orchestrator)) = (memory(), orchestrator()) else { return };
    let text = axpy();
    orchestrator.compile("axpy", text.clone()).unwrap();
    assert_eq!(orchestrator.compile("axpy", text).unwrap().origin, Origin::Registered);
    for count in [1_usize, 1000, 100_000] {
        let ramp: Vec<f32> = (0..count).map(|i| i as f32).collect();
        let mut x = UnifiedBuffer::from_slice(memory.clone(), &ramp).unwrap();
        let mut y = UnifiedBuffer::from_slice(memory.clone(), &vec![1.0_f32; count]).unwrap();
        let arguments = [
            Argument::value(2.0_f32),
            Argument::read(&mut x),
            Argument::write(&mut y),
            Argument::value(count as u64),
        ];
        let launch = orchestrator.launch("axpy", Geometry::linear(count, 256), arguments).unwrap();
        assert!(launch.kernel_time > Duration::ZERO && launch.kernel_time <= launch.total, "{launch:?}");
        assert_eq!(launch.copied_bytes, 8 * count as u64);
        assert!(y.host().unwrap().iter().zip(&ramp).all(|(y, x)| *y == 2.0 * x + 1.0));
    }
}

#[test]
fn many_threads_launch_at_once() {
    watchdog!();
    let (Some(memory), Some(orchestrator)) = (memory(), orchestrator()) else { return };
    if fake_driver::folder().is_some() {
        println!("skipped: the fake driver runs one one-shot kernel at a time");
        return;
    }
    orchestrator.compile("axpy", axpy()).unwrap();
    std::thread::scope(|scope| {
        for factor in 1..=8_u8 {
            let (memory, orchestrator) = (&memory, &orchestrator);
            scope.spawn(move || {
                let mut x = UnifiedBuffer::from_slice(memory.clone(), &[1.0_f32; 1000]).unwrap();
                let mut y = UnifiedBuffer::<f32>::new(memory.clone(), 1000).unwrap();
                for _ in 0..100 {
                    let factor = Argument::value(f32::from(factor));
                    let (x, y) = (Argument::read(&mut x), Argument::write(&mut y));
                    let arguments = [factor, x, y, Argument::value(1000_u64)];
                    orchestrator.launch("axpy", Geometry::linear(1000, 128), arguments).unwrap();
                }
                assert_eq!(y.host().unwrap(), [100.0 * f32::from(factor); 1000]);
            });
        }
    });
}

#[test]
fn a_kernel_that_does_not_compile_or_launch_is_an_error() {
    watchdog!();
    let (Some(memory), Some(orchestrator)) = (memory(), orchestrator()) else { return };
    let broken =
        CudaKernel::cuda_cpp("broken.cu", "extern \"C\" __global__ void kernel() {\n  nothing;\n}").line(40);
    let error = orchestrator.compile("broken", broken).unwrap_err().to_string();
    assert!(error.starts_with("compiling `broken`") && error.contains("broken.cu:41"), "{error}");
    let error = orchestrator.compile("missing", axpy().entry("axpi")).unwrap_err().to_string();
    assert!(error.contains("`axpi` must be an `extern \"C\" __global__` function"), "{error}");

    orchestrator.compile("axpy", axpy()).unwrap();
    let mut x = UnifiedBuffer::from_slice(memory.clone(), &[1.0_f32]).unwrap();
    let launch = |geometry, arguments: Vec<Argument<'_>>| {
        let error = orchestrator.launch("axpy", geometry, arguments).unwrap_err();
        let OrchestratorError::Launch { source, .. } = error else { panic!("{error}") };
        source
    };
    let problem = launch(Geometry::linear(1, 1), vec![Argument::read(&mut x)]);
    assert!(matches!(problem, KernelLaunchError::ArgumentCount { takes: 4, given: 1 }), "{problem}");
    let mut y = UnifiedBuffer::from_slice(memory.clone(), &[1.0_f32]).unwrap();
    let arguments = vec![
        Argument::value(1.0_f64),
        Argument::read(&mut x),
        Argument::write(&mut y),
        Argument::value(1_u64),
    ];
    let problem = launch(Geometry::linear(1, 1), arguments).to_string();
    assert_eq!(problem, "argument 0: expected a parameter of 4 bytes, got a value of f64, which takes 8");
    let problem = launch(Geometry::linear(1, 4096), vec![]).to_string();
    assert!(problem.contains("a block of [4096, 1, 1]"), "{problem}");
    let problem = launch(Geometry::new([1, 1 << 20, 1], [1; 3]), vec![]).to_string();
    assert!(problem.contains("a grid of [1, 1048576, 1]"), "{problem}");
    assert_eq!(orchestrator.history().len(), 4);
}

/// No operation on buffers or one-shot kernels waits for a resident kernel.
#[test]
fn buffers_move_and_kernels_run_beside_a_resident_kernel() {
    watchdog!();
    const FLAG: &str = include_str!("../../dotcompute-bench/device/baseline.cu");
    let (Some(memory), Some(orchestrator), Some(backend)) =
        (memory(), orchestrator(), fake_driver::backend(|_| {}))
    else {
        return;
    };
    orchestrator.compile("axpy", axpy()).unwrap();
    let pool = MemoryPool::new(memory.clone(), PoolOptions::new());
    let run = |memory: Arc<dyn DeviceMemory>| {
        let mut x = UnifiedBuffer::from_slice(memory.clone(), &[3.0_f32; 64]).unwrap();
        let mut y = UnifiedBuffer::<f32>::new(memory, 64).unwrap();
        let (x, output) = (Argument::read(&mut x), Argument::write(&mut y));
        let arguments = [Argument::value(2.0_f32), x, output, Argument::value(64_u64)];
        orchestrator.launch("axpy", Geometry::linear(64, 64), arguments).unwrap();
        assert_eq!(y.host().unwrap(), [6.0; 64]);
    };
    run(pool.clone());
    let text = match fake_driver::folder() {
        None => FLAG,
        Some(folder) => fake_driver::marked(FLAG, &fake_driver::host_library(&folder, FLAG)).leak(),
    };
    let flag =
        FlagPingPong::new(&backend, KernelSource { file: "baseline.cu", text, entry: "flag" }).unwrap();
    (0..20).for_each(|_| run(pool.clone()));
    (0..20).for_each(|_| run(memory.clone()));
    drop(flag);
}

#[test]
fn all_gpus_are_accelerators() {
    watchdog!();
    let Some(gpus) = fake_driver::opened(accelerators()) else { return };
    for (index, gpu) in gpus.iter().enumerate() {
        let properties = gpu.properties();
        assert_eq!(gpu.device().to_string(), format!("cuda {index}"));
        assert!(properties.compute_units > 0 && properties.max_threads_per_block >= 1024, "{properties:?}");
        assert!(properties.memory > Some(1 << 30) && properties.compute_capability >= Some((7, 5)));
    }
    let gpu = gpus.first().expect("a driver without devices cannot be opened");
    let mut buffer = UnifiedBuffer::<u32>::new(gpu.memory().unwrap(), 1000).unwrap();
    assert_eq!(buffer.device().unwrap().len(), 1000);
}

#[test]
fn all_tests_pass_on_the_fake_driver() {
    fake_driver::run_all_tests(&[]);
}
