//! Ring kernels on a device: their description, and the device proxy that runs each of them from the host.

mod device_kernel;
pub(crate) mod device_proxy;

pub use crate::backend::device_port::Shape;
pub use device_kernel::DeviceKernel;
