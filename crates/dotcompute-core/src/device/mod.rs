//! Ring kernels on a device: their description, and the device proxy that runs each of them from the host.
//!
//! A handler is a Rust function with `#[device_handler]` ([`DeviceHandler`]), or text in CUDA C++ ([`DeviceKernel`]).

pub(crate) mod device_handler;
mod device_kernel;
pub(crate) mod device_proxy;
mod device_unit;
mod operations;

pub use crate::backend::device_port::Shape;
pub use device_handler::{
    DeviceContext, DeviceError, DeviceHandler, DeviceHandlerWithoutState, DeviceLaunch, DeviceResult,
    HandlerState, HostHandler, KernelFactory, NoState,
};
pub use device_kernel::DeviceKernel;
#[doc(hidden)]
pub use device_unit::{DeviceConstant, DeviceFunction, DeviceUnit};
pub use dotcompute_macros::core_device_fn as device_fn;
pub use dotcompute_macros::core_device_handler as device_handler;
#[doc(hidden)]
pub use operations::{Elements, ElementsMut, Scalar, checked, wrapping};

/// The attributes for users of the crate `dotcompute`.
#[doc(hidden)]
pub mod __private {
    pub use dotcompute_macros::{device_fn, device_handler};
}
