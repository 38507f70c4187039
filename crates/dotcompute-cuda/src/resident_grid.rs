//! The resident grid: what a device, real or emulated, does for a ring kernel besides reading and writing the shared words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dotcompute_core::backend::BackendError;
use dotcompute_core::backend::device_port::{AfterFault, DeviceProgram};

use crate::host_device_channel::ChannelMemory;
use crate::protocol::Launch;

/// Interval between heartbeats.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(5);

/// How long a ring kernel stays resident.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResidencyLimits {
    /// Longest stay without a message; zero for no limit.
    pub(crate) idle: Duration,
    /// Longest stay without a break; zero for no limit.
    pub(crate) max_stay: Duration,
}

/// Device addresses of a ring kernel's memory.
pub(crate) struct DeviceAddresses {
    pub(crate) grid: u64,
    pub(crate) grid_message: u64,
    pub(crate) state: u64,
}

/// Builds the argument of a ring kernel's launches.
pub(crate) fn launch(
    memory: &ChannelMemory,
    addresses: DeviceAddresses,
    program: &DeviceProgram,
    limits: ResidencyLimits,
    max_poll_pause: Duration,
) -> Launch {
    let nanos_u32 = |duration: Duration| u32::try_from(duration.as_nanos()).unwrap_or(u32::MAX);
    let unlimited = Launch {
        input: memory.device_input(),
        events: memory.device_events(),
        control: memory.device_control(),
        grid: addresses.grid,
        grid_message: addresses.grid_message,
        state: addresses.state,
        holds_after_fault: u32::from(program.after_fault == AfterFault::Hold),
        heartbeat_interval_ns: nanos_u32(HEARTBEAT_INTERVAL),
        max_poll_pause_ns: nanos_u32(max_poll_pause),
        threads: program.shape.threads(),
        idle_timeout_ns: 0,
        max_residency_ns: 0,
    };
    limited(unlimited, limits)
}

/// Returns the argument of a launch with these limits.
pub(crate) fn limited(launch: Launch, limits: ResidencyLimits) -> Launch {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    Launch { idle_timeout_ns: nanos(limits.idle), max_residency_ns: nanos(limits.max_stay), ..launch }
}

/// Returns the threads of a block on a GPU whose handler has `threads`: whole warps, and one that watches for the kill word if there is
/// space for it.
pub(crate) fn launched_threads(threads: u32) -> u32 {
    const WARP: u32 = 32;
    const MAX: u32 = 1024;
    if threads > MAX - 2 * WARP { MAX } else { threads.next_multiple_of(WARP) + WARP }
}

/// The grid of one ring kernel: its launch, its exit, its state and its link memory.
pub(crate) trait ResidentGrid: Send + Sync {
    /// Launches the grid. The caller ensures that no earlier grid of this ring kernel runs.
    fn start(&self) -> Result<(), BackendError>;

    /// Waits until the grid has exited, at most until `deadline`. Returns false on timeout.
    fn wait_exited(&self, deadline: Instant) -> bool;

    /// Restores the initial state, while the ring kernel holds after a fault.
    fn reset_state(&self) -> Result<(), BackendError>;

    /// Returns the bytes of the state, while no handler runs.
    fn read_state(&self) -> Result<Vec<u8>, BackendError>;

    /// Overwrites the state, while no handler runs.
    fn write_state(&self, bytes: &[u8]) -> Result<(), BackendError>;

    /// Runs `act` while no ring kernel is resident on the device.
    fn quiesced(&self, act: &mut dyn FnMut()) -> Result<(), BackendError>;

    /// Allocates zeroed device memory for a link. The caller has quiesced the device.
    fn link_memory(&self, bytes: usize) -> Result<Arc<dyn LinkMemory>, BackendError>;

    /// Keeps the memory of a link alive until the grid has exited for good.
    fn keep_alive(&self, memory: Arc<dyn LinkMemory>);

    /// Returns a key that all ring kernels of one device share, and that differs between devices.
    fn device_key(&self) -> usize;

    /// The ring kernel is lost because its handler does not return: the grid keeps what it holds on the device.
    fn abandon(&self);

    /// Returns the device error that keeps the ring kernel from running, if there is one. Never blocks.
    fn device_error(&self) -> Option<String> {
        None
    }
}

/// Device memory of a link. The host reads it only after the link is closed and its target is off the device or lost.
pub(crate) trait LinkMemory: Send + Sync {
    /// Returns the device address.
    fn address(&self) -> u64;

    /// Copies all bytes to the host.
    fn read(&self) -> Result<Vec<u8>, BackendError>;
}
