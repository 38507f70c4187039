//! What a backend launches.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::device_port::DeviceProgram;
use crate::options::Placement;

/// A ring kernel to be launched.
pub struct LaunchPlan {
    /// Its name, for threads, logs and errors.
    pub kernel: Arc<str>,
    /// Where it runs on the backend.
    pub placement: Placement,
    /// Stack that a thread of its own needs, in bytes. 0 on a device, where it has no thread.
    pub stack_bytes: usize,
    /// What it runs.
    pub program: Program,
}

/// What a ring kernel runs.
#[non_exhaustive]
pub enum Program {
    /// A future for the host, to be polled from launch until it is ready. It waits for activation by itself, catches panics of user code,
    /// and checks for commands in every poll.
    Host(HostTask),
    /// A handler for a device. It handles no message before its first command.
    Device(Box<DeviceProgram>),
}

/// The driver of a ring kernel on the host.
pub type HostTask = Pin<Box<dyn Future<Output = ()> + Send>>;
