//! Kernel.

mod context;
pub(crate) mod handler_driver;
pub(crate) mod inbox;
pub(crate) mod loop_driver;
pub mod loops;
pub(crate) mod poll_step;
mod ring_kernel;

pub use context::{Context, ReplyTo};
pub use ring_kernel::RingKernel;
