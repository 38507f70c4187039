//! Ring kernels on a device: their description, and the device proxy that runs each of them from the host.
//!
//! A handler is a Rust function with `#[device_handler]` ([`DeviceHandler`]), or text in CUDA C++ ([`DeviceKernel`]).

mod constants;
pub(crate) mod device_handler;
mod device_kernel;
pub(crate) mod device_proxy;
mod device_unit;
mod numbers;
mod operations;

pub use crate::backend::device_port::Shape;
#[doc(hidden)]
pub use constants::DeviceConstant;
pub use device_handler::{
    DeviceContext, DeviceError, DeviceHandler, DeviceHandlerWithoutState, DeviceLaunch, DeviceResult,
    HandlerState, HostHandler, KernelFactory, NoState,
};
pub use device_kernel::DeviceKernel;
#[doc(hidden)]
pub use device_unit::{DeviceFunction, DeviceUnit};
pub use dotcompute_macros::core_device_fn as device_fn;
pub use dotcompute_macros::core_device_handler as device_handler;
#[doc(hidden)]
pub use numbers::{Elements, ElementsMut, Scalar};
#[doc(hidden)]
pub use operations::{checked, wrapping};

/// The attributes for users of the crate `dotcompute`.
#[doc(hidden)]
pub mod __private {
    pub use dotcompute_macros::{device_fn, device_handler};
}
