//! A ring kernel without its message types.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use super::kernel_cell::KernelCell;
use crate::lifecycle::Command;
use crate::telemetry::KernelStats;

/// A ring kernel without its message types, as the runtime's registry holds it. `lifecycle_calls.rs` adds the lifecycle calls.
pub(crate) trait AnyKernel: Send + Sync {
    fn cell(&self) -> &KernelCell;
    fn stats(&self) -> KernelStats;
    fn close_input(&self);
    /// Returns the ring kernels that this one is connected to.
    fn downstream(&self) -> Vec<Arc<KernelCell>>;
    /// Issues a command to the driver on the host, also for a ring kernel on a device.
    fn command(&self, command: Command);
    /// Ends the ring kernel by dropping its driver, unless it has a dedicated thread. A thread that polls the driver drops it afterwards.
    fn close_task(&self);
    /// Waits until the backend has released its resources, at most until `deadline`. Returns `false` on timeout.
    fn join(&self, deadline: Instant) -> bool;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}
