#![doc = include_str!("../../../README.md")]

use accelerator::Accelerator;

pub use dotcompute_core::{
    Message, accelerator, backend, dead_letter, device, error, handle, kernel, lifecycle, loops, memory,
};
pub use dotcompute_core::{message, options, orchestrator, runtime, supervision, telemetry};
pub use dotcompute_cuda as cuda;
pub use dotcompute_ring as ring;

/// The devices of this machine: its processor, and the GPUs that can be used. Why there are none of these,
/// [`cuda::cuda::accelerators`] says.
///
/// ```
/// for accelerator in dotcompute::accelerators() {
///     println!("{}: {}", accelerator.device(), accelerator.properties().name);
/// }
/// ```
pub fn accelerators() -> Vec<Accelerator> {
    let gpus = cuda::cuda::accelerators().unwrap_or_default();
    std::iter::once(Accelerator::cpu()).chain(gpus).collect()
}

/// What most programs need: `use dotcompute::prelude::*;`.
pub mod prelude {
    pub use crate::Message;
    pub use crate::device::{DeviceKernel, Shape};
    pub use crate::error::{
        AskError, HandlerError, HandlerResult, LaunchError, LifecycleError, ReceiveError, TellError,
    };
    pub use crate::handle::{KernelHandle, Received};
    pub use crate::kernel::{Context, ReplyTo, RingKernel};
    pub use crate::lifecycle::State;
    pub use crate::loops::LoopContext;
    pub use crate::message::{MessageHeader, MessageId, Priority};
    pub use crate::options::{Backpressure, KernelOptions, Placement, Telemetry};
    pub use crate::ring::wait::WaitStrategy;
    pub use crate::runtime::{Runtime, RuntimeOptions};
    pub use crate::supervision::Supervision;
}
