//! Delivery of outputs: to the output ring, or to the mailboxes of connected ring kernels.
//!
//! A handler never waits for a free slot. An output that does not fit is queued in its lane, and the inbox takes no further message until
//! the lanes are empty. Backpressure thus propagates upstream and never blocks a pool worker.

pub(crate) mod kernel_sink;
mod lane;
pub(crate) mod ring_sink;
pub(crate) mod router;
