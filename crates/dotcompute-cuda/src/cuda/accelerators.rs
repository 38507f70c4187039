//! The GPUs of this machine as accelerators.

use std::sync::Arc;

use cudarc::driver::result;
use dotcompute_core::accelerator::{Accelerator, Properties};
use dotcompute_core::backend::{BackendError, BackendKind};
use dotcompute_core::memory::{DeviceId, DeviceMemory};

use super::error::device_error;
use super::memory_pool::CudaMemory;
use super::{live_context, unavailable};
use crate::driver::{Device, Driver, DriverError};

/// Lists all GPUs that are visible to this process, without opening any of them.
///
/// # Errors
///
/// [`DriverError::Unavailable`] without a driver or a device, or the error of the driver.
///
/// ```
/// match dotcompute_cuda::cuda::accelerators() {
///     Ok(gpus) => gpus.iter().for_each(|gpu| println!("{}: {}", gpu.device(), gpu.properties().name)),
///     Err(error) => println!("{error}"),
/// }
/// ```
pub fn accelerators() -> Result<Vec<Accelerator>, DriverError> {
    let accelerator = |device: Device| {
        Accelerator::new(properties(&device), move || {
            CudaMemory::of(&device).map(|memory| memory as Arc<dyn DeviceMemory>)
        })
    };
    Ok(Driver::open()?.devices()?.into_iter().map(accelerator).collect())
}

/// Returns the free and the total memory of a GPU in bytes. Opens the GPU, but does not wait for ring kernels on it.
///
/// # Errors
///
/// [`BackendError::Unavailable`] without a driver or such a device, or [`BackendError::Device`] with the error of the driver.
pub fn memory_info(index: u32) -> Result<(u64, u64), BackendError> {
    let driver = Driver::open().map_err(|error| unavailable(&error))?;
    let device = driver.device(index).map_err(|error| unavailable(&error))?;
    let context = live_context(&device).map_err(|error| unavailable(&error))?;
    let doing = || DriverError::while_doing("reading the amount of free memory");
    let info =
        context.bind_to_thread().map_err(doing()).and_then(|()| result::mem_get_info().map_err(doing()));
    let (free, total) = info.map_err(|error| device_error("reading the amount of free memory", &error))?;
    Ok((free as u64, total as u64))
}

/// Converts the attributes of a device.
pub(super) fn properties(device: &Device) -> Properties {
    Properties {
        device: DeviceId { backend: BackendKind::Cuda, index: device.index },
        name: device.name.clone(),
        memory: Some(device.memory),
        compute_units: device.multiprocessors,
        warp_size: device.warp,
        max_threads_per_block: device.threads_per_block,
        max_block_dims: device.block_dimensions,
        max_grid_dims: device.grid_dimensions,
        max_shared_memory: device.shared_per_block,
        compute_capability: Some((device.architecture.major, device.architecture.minor)),
    }
}
