//! What a backend returns for a launched ring kernel.

use std::sync::Arc;
use std::time::Instant;

use super::device_port::DevicePort;
use super::shared_task::SharedTask;

/// A launched ring kernel.
pub struct Resident {
    /// Keeps track of its resources.
    pub residency: Box<dyn Residency>,
    /// The host's access to a [`Program::Device`]. `None` for a [`Program::Host`], which needs none.
    pub port: Option<Box<dyn DevicePort>>,
}

/// The resources of one launched ring kernel.
pub trait Residency: Send + Sync {
    /// Returns the task that a waiting caller may poll inline. `None` if the ring kernel has a dedicated thread.
    fn shared_task(&self) -> Option<Arc<SharedTask>> {
        None
    }

    /// Waits until the backend has released its resources after the end, at most until `deadline`. Returns `false` on timeout.
    fn join(&self, deadline: Instant) -> bool;
}
