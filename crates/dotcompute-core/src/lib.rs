//! DotCompute's runtime: ring kernels, their lifecycle, supervision and telemetry, and the backends they run on.
//!
//! Users depend on the crate `dotcompute`, which re-exports this one. `docs/contributing/architecture.md` describes the path of a message
//! through the modules.
//!
//! | module | subject |
//! | --- | --- |
//! | [`handle`] | the caller's side: `tell`, `ask`, `receive`, `connect`, lifecycle calls |
//! | [`kernel`] | handler form: [`RingKernel`](kernel::RingKernel) and its [`Context`](kernel::Context) |
//! | [`loops`] | loop form: a function that receives and sends until it is told to stop |
//! | [`device`] | description of a ring kernel for a device |
//! | [`runtime`] | launching, finding and ending ring kernels |
//! | [`backend`] | where ring kernels run |
//! | [`options`] | capacities, backpressure, placement, waiting |
//! | [`lifecycle`] | states and commands |
//! | [`status`] | what a ring kernel does at present, and why it takes no message |
//! | [`supervision`] | what happens after a panic or an error |
//! | [`dead_letter`] | messages that will never be handled, with the reason |
//! | [`deadline`] | deadlines from timeouts, `Duration::MAX` included |
//! | [`telemetry`] | counters and latency histograms |
//! | [`environment`] | the environment variables that are read |
//! | [`error`] | the errors of the runtime |
//! | [`message`] | headers, ids, priorities, encoding, record layout |
//! | [`memory`] | arrays with a host copy and a device copy |
//! | [`accelerator`] | the devices of this machine |
//! | [`orchestrator`] | kernels that run once, beside ring kernels |

// The derive macro uses this crate's published name, also in this crate's own tests and examples.
extern crate self as dotcompute_core;

pub mod accelerator;
pub mod backend;
mod cell;
pub mod dead_letter;
pub mod deadline;
pub mod device;
mod envelope;
pub mod environment;
pub mod error;
mod fault;
pub mod handle;
pub mod kernel;
pub mod lifecycle;
pub mod memory;
pub mod message;
pub mod options;
pub mod orchestrator;
mod output;
pub mod runtime;
mod stack;
pub mod status;
pub mod supervision;
pub mod telemetry;
mod user_code;

#[cfg(feature = "histograms")]
mod histogram;
#[cfg(not(feature = "histograms"))]
mod no_histogram;

#[doc(no_inline)]
pub use dotcompute_ring as ring;
#[doc(inline)]
pub use kernel::loops;
pub use message::Message;
