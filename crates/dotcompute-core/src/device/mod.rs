//! Device.

mod device_kernel;
pub(crate) mod device_proxy;

pub use crate::backend::device_port::Shape;
pub use device_kernel::DeviceKernel;
