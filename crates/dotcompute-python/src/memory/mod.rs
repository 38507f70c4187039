//! Devices, memory pools and buffers: the implementation of `pydotcompute.core`.
//!
//! | module | subject |
//! | --- | --- |
//! | `device` | the devices of this machine |
//! | `pool` | the memory pool of a device |
//! | `buffer_memory` | host memory for the buffer protocol, and device memory by address |
//! | `buffer_copies` | host copy and device copy of a buffer: dirty ranges and copying |
//! | `dlpack` | device memory for other libraries |
//! | `errors` | errors as Python exceptions |

mod buffer_copies;
mod buffer_memory;
mod device;
mod dlpack;
mod errors;
mod pool;

use pyo3::prelude::*;

/// Adds the names of this module to the extension module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<device::Device>()?;
    module.add_class::<pool::DevicePool>()?;
    module.add_class::<buffer_memory::HostCopy>()?;
    module.add_class::<buffer_memory::DeviceCopy>()?;
    module.add_class::<buffer_copies::BufferCopies>()?;
    module.add_function(wrap_pyfunction!(dlpack::device_capsule, module)?)?;
    module.add_function(wrap_pyfunction!(device::cpu_device, module)?)?;
    module.add_function(wrap_pyfunction!(device::cuda_devices, module)?)?;
    Ok(())
}
