//! Where a ring kernel's outputs go: its output ring, or the input rings of the ring kernels it is connected to.
//!
//! A handler never waits for room. What does not fit at once waits in the driver, and no further message is taken until it
//! has gone: that is how backpressure travels upstream without a pool worker ever being blocked.

pub(crate) mod kernel_sink;
mod lane;
pub(crate) mod ring_sink;
pub(crate) mod router;
