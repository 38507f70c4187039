//! Any kernel.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use super::kernel_cell::Core;
use crate::lifecycle::Command;
use crate::telemetry::KernelStats;

/// A ring kernel as the runtime sees it: its message types are forgotten.
pub(crate) trait AnyKernel: Send + Sync {
    fn core(&self) -> &Core;
    fn stats(&self) -> KernelStats;
    fn close_input(&self);
    /// Issues a command to the driver, which looks at the command word; a ring kernel on a device has one on the host.
    fn command(&self, command: Command);
    /// Waits until the resources are back, at most until `deadline`. False if they were not.
    fn join(&self, deadline: Instant) -> bool;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}
