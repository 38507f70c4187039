//! Launch plan.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::device_port::DeviceProgram;
use crate::options::Placement;

/// A ring kernel about to become resident.
pub struct LaunchPlan {
    /// Its name, for threads, logs and errors.
    pub kernel: Arc<str>,
    /// Where on the backend.
    pub placement: Placement,
    /// What it runs.
    pub program: Program,
}

/// What a ring kernel runs.
#[non_exhaustive]
pub enum Program {
    /// A task for the host: to be polled until it is ready, from the moment of launch on. It waits for activation by itself,
    /// catches the panics of user code, and looks for commands whenever it is polled.
    Host(HostTask),
    /// A handler for a device: it handles nothing before its first command.
    Device(Box<DeviceProgram>),
}

/// A ring kernel that runs on the host, as a task.
pub type HostTask = Pin<Box<dyn Future<Output = ()> + Send>>;
