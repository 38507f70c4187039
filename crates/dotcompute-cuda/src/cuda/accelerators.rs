//! The GPUs of this machine as accelerators.

use std::sync::Arc;

use dotcompute_core::accelerator::{Accelerator, Properties};
use dotcompute_core::backend::BackendKind;
use dotcompute_core::memory::{DeviceId, Memory};

use super::buffers::CudaMemory;
use crate::driver::{Device, Driver, DriverError};

/// All GPUs that this process may use. None of them is opened for this.
///
/// # Errors
///
/// [`DriverError::Unavailable`] without a driver or a device, or the driver's own word.
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
            CudaMemory::of(&device).map(|memory| memory as Arc<dyn Memory>)
        })
    };
    Ok(Driver::open()?.devices()?.into_iter().map(accelerator).collect())
}

/// What the driver tells of a device.
pub(super) fn properties(device: &Device) -> Properties {
    Properties {
        device: DeviceId { backend: BackendKind::Cuda, index: device.index },
        name: device.name.clone(),
        memory: Some(device.memory),
        units: device.multiprocessors,
        warp: device.warp,
        most_threads_per_block: device.threads_per_block,
        most_block: device.block_dimensions,
        most_grid: device.grid_dimensions,
        most_shared: device.shared_per_block,
        compute_capability: Some((device.architecture.major, device.architecture.minor)),
    }
}
