//! Buffers and one-shot kernels on each device of this machine: `y = 2 x + y`. After one element of `x` changes, only that is copied.
//!
//! Run with `cargo run --example memory`.

use std::sync::Arc;

use dotcompute::cuda::cuda::{CudaKernel, CudaLauncher, CudaOptions};
use dotcompute::memory::{DeviceMemory, MemoryPool, PoolOptions, UnifiedBuffer};
use dotcompute::orchestrator::{Argument, CpuKernel, Geometry, Launcher, Orchestrator};

const COUNT: usize = 1 << 16;

/// The kernel for GPUs, with one thread per element.
const AXPY: &str = r#"
extern "C" __global__ void axpy(float factor, const float *x, float *y, unsigned long long count) {
    unsigned long long i = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    if (i < count) y[i] += factor * x[i];
}
"#;

/// The kernel for the CPU: a closure, called once per launch.
fn on_cpu() -> CpuKernel {
    CpuKernel::new(|arguments| {
        let factor = arguments.value::<f32>()?;
        let (x, y) = (arguments.read::<f32>()?, arguments.write::<f32>()?);
        let count = arguments.value::<u64>()? as usize;
        y.iter_mut().zip(x).take(count).for_each(|(y, x)| *y += factor * x);
        Ok(())
    })
}

fn axpy<L: Launcher>(
    orchestrator: &Orchestrator<L>,
    kernel: L::Source,
    memory: Arc<dyn DeviceMemory>,
) -> Result<(), Box<dyn std::error::Error>> {
    orchestrator.compile("axpy", kernel)?;
    let pool = MemoryPool::new(memory, PoolOptions::new().limit(1 << 20));
    let mut x = UnifiedBuffer::from_slice(pool.clone(), &[1.0_f32; COUNT])?;
    let mut y = UnifiedBuffer::from_slice(pool.clone(), &[0.5_f32; COUNT])?;
    for round in 0..2 {
        let (reads, writes) = (Argument::read(&mut x), Argument::write(&mut y));
        let arguments = [Argument::value(2.0_f32), reads, writes, Argument::value(COUNT as u64)];
        let launch = orchestrator.launch("axpy", Geometry::linear(COUNT, 256), arguments)?;
        println!(
            "  launch {round}: {:?} in the kernel, {:?} in total, {} bytes copied to the device",
            launch.kernel_time, launch.total, launch.copied_bytes
        );
        x.host_range_mut(7..8)?[0] = 100.0;
    }
    assert_eq!(y.host()?[..9], [4.5, 4.5, 4.5, 4.5, 4.5, 4.5, 4.5, 202.5, 4.5]);
    // 512 KiB of the 1 MiB limit are in use, so a buffer of 1 MiB does not fit. The error contains the size that would fit.
    let error = UnifiedBuffer::<u8>::new(pool, 1 << 20)?.device().map(drop).unwrap_err();
    println!("  {error}");
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for accelerator in dotcompute::accelerators() {
        println!("{}, {}", accelerator.device(), accelerator.properties().name);
        let memory = accelerator.memory()?;
        if accelerator.properties().compute_capability.is_none() {
            axpy(&Orchestrator::cpu(), on_cpu(), memory)?;
            continue;
        }
        let mut options = CudaOptions::default();
        options.device = accelerator.device().index;
        let orchestrator = Orchestrator::new(CudaLauncher::with_options(options)?);
        axpy(&orchestrator, CudaKernel::cuda_cpp("axpy.cu", AXPY).entry("axpy"), memory)?;
    }
    if let Err(error) = dotcompute::cuda::cuda::accelerators() {
        println!("no GPU: {error}");
    }
    Ok(())
}
