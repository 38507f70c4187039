//! Devices, pools and buffers for Python: what `pydotcompute.core` is a face of.
//!
//! | module | subject |
//! | --- | --- |
//! | `device` | the devices of this machine |
//! | `pool` | memory that is kept for later |
//! | `block` | memory that Python looks at: by the buffer protocol, or by its address on a device |
//! | `halves` | which half of a buffer is newer, and copying |
//! | `dlpack` | memory of a GPU for other libraries |
//! | `errors` | errors as exceptions |

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
