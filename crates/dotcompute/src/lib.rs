#![doc = include_str!("../../../README.md")]

pub use dotcompute_core::{
    Message, backend, dead_letter, device, error, handle, kernel, lifecycle, loops, message, options, runtime,
};
pub use dotcompute_core::{supervision, telemetry};
pub use dotcompute_cuda as cuda;
pub use dotcompute_ring as ring;

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
