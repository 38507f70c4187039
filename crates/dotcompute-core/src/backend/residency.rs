//! Residency.

use std::sync::Arc;
use std::time::Instant;

use super::device_port::DevicePort;
use super::shared_task::SharedTask;

/// A ring kernel that has been made resident.
pub struct Resident {
    /// The runtime's hold on it.
    pub residency: Box<dyn Residency>,
    /// The way to a [`Program::Device`]; none for a program of the host, which looks after itself.
    pub port: Option<Box<dyn DevicePort>>,
}

/// The runtime's hold on one resident ring kernel.
pub trait Residency: Send + Sync {
    /// Where whoever waits for the ring kernel may run it; none if it runs only in a place of its own.
    fn shared_task(&self) -> Option<Arc<SharedTask>> {
        None
    }

    /// Waits until the backend has taken its resources back after the end, at most until `deadline`. False if it had not.
    fn join(&self, deadline: Instant) -> bool;
}
