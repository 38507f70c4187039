//! GPU-native actors: ring kernels stay resident on a device and exchange typed messages in microseconds.
//!
//! # Contract
//!
//! A *ring kernel* owns its state, takes messages from a bounded mailbox and handles them one at a time, on a CPU thread or on a GPU.
//!
//! - **No work per message but the message.** Launch allocates all resources and may fail. After that a message needs no allocation, no
//!   system call except to wake a parked thread, and on a GPU no kernel launch.
//! - **Exact accounting.** `sent = handled + dead letters + queued`, after every fault and every way to end.
//! - **Failures reach the caller.** If a handler panics or returns an error, `ask` returns an error with the kernel's name, the message
//!   type and the cause. The message becomes a dead letter. With `panic = "abort"` in its profile a program loses one half of this: a
//!   panic ends the process, while errors are handled as ever ([`supervision`]).
//! - **Order.** Four priority bands, first in, first out within a band. Lower bands age, so that none starves
//!   ([`BandOrder`](options::BandOrder)). [`Backpressure`](options::Backpressure) selects what a full mailbox does: it blocks the sender,
//!   rejects the message, or drops the oldest one.
//! - **One behaviour on every device.** The same messages, calls and errors apply on the CPU, on the emulated device and on a GPU.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use dotcompute::prelude::*;
//!
//! struct Sum(u64);
//!
//! impl RingKernel for Sum {
//!     type Input = u64;
//!     type Output = u64;
//!     fn handle(&mut self, number: u64, ctx: &mut Context<u64>) -> HandlerResult {
//!         self.0 += number;
//!         ctx.reply(self.0);
//!         Ok(())
//!     }
//! }
//!
//! let runtime = Runtime::new()?;
//! let sum = runtime.launch("sum", || Sum(0))?;
//! sum.activate()?;
//! sum.tell(40)?; // returns when the message is in the mailbox
//! assert_eq!(sum.ask(2)?, 42); // waits for the reply
//! sum.terminate(Duration::from_secs(5))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The folder [`examples`](https://docs.rs/crate/dotcompute/latest/source/examples/) has one program for each subject: messages,
//! backpressure, supervision, pipelines, loops, async callers, memory and devices.
//!
//! # Features
//!
//! All are on by default. With `default-features = false` the crate is the CPU runtime alone, with at most 30 crates in its dependency
//! tree, build-time crates included.
//!
//! | feature | what it brings | what applies without it |
//! | --- | --- | --- |
//! | `cuda` | the module `cuda`: CUDA devices, the emulated device, device code | ring kernels run on the CPU |
//! | `encode` | `message::Encode` and serde's impls: messages as MessagePack; implies `uuid` | messages stay in the process |
//! | `histograms` | latency percentiles in [`KernelStats`](telemetry::KernelStats) | counters only; percentiles are 0 |
//! | `pinning` | [`Placement::Pinned`](options::Placement::Pinned) | pinning is an error of `launch` |
//! | `renamed-crate` | `#[derive(Message)]` where Cargo.toml gives this crate another name | the crate is called `dotcompute` |
//! | `uuid` | conversions between [`MessageId`](message::MessageId) and `uuid::Uuid` | ids are numbers, bytes and text |

// `#[derive(Message)]` names this crate by its published name, also inside this crate.
extern crate self as dotcompute;

use accelerator::Accelerator;

pub use dotcompute_core::{
    accelerator, backend, dead_letter, error, handle, kernel, lifecycle, loops, memory, options,
    orchestrator, ring, runtime, status, supervision, telemetry,
};
#[cfg(feature = "cuda")]
pub use dotcompute_cuda as cuda;
pub use message::Message;

/// Messages: the trait, its derive, headers, ids, priorities, records and encoding. See [`dotcompute_core::message`].
pub mod message {
    #[doc(inline)]
    pub use dotcompute_core::message::__private::Message;
    #[doc(inline)]
    pub use dotcompute_core::message::*;
}

/// Ring kernels on devices: handlers in Rust and in CUDA C++. See [`dotcompute_core::device`].
pub mod device {
    pub use dotcompute_core::device::__private::{device_fn, device_handler};
    #[doc(inline)]
    pub use dotcompute_core::device::*;
}

/// Returns the devices of this machine: its CPU, then the GPUs that can be used.
///
/// There are no GPUs without the feature `cuda`. With it, `cuda::cuda::accelerators` returns the reason if there are none.
///
/// ```
/// for accelerator in dotcompute::accelerators() {
///     println!("{}: {}", accelerator.device(), accelerator.properties().name);
/// }
/// ```
pub fn accelerators() -> Vec<Accelerator> {
    #[cfg(feature = "cuda")]
    let gpus = cuda::cuda::accelerators().unwrap_or_default();
    #[cfg(not(feature = "cuda"))]
    let gpus = Vec::new();
    std::iter::once(Accelerator::cpu()).chain(gpus).collect()
}

/// The items that most programs need: `use dotcompute::prelude::*;`.
pub mod prelude {
    pub use crate::Message;
    pub use crate::device::{
        DeviceContext, DeviceError, DeviceKernel, DeviceResult, Shape, device_fn, device_handler,
    };
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

/// Runs the examples of the README as documentation tests.
#[cfg(all(doctest, feature = "cuda", feature = "encode"))]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// Runs the program of the page about device handlers.
#[cfg(all(doctest, feature = "cuda"))]
#[doc = include_str!("../../../docs/device-handlers.md")]
struct DeviceHandlers;
