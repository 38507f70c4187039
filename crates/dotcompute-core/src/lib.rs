//! DotCompute's runtime: ring kernels, their lifecycle, supervision and telemetry, and the backends they run on.
//!
//! Users depend on the crate `dotcompute`, which re-exports what is here.
//!
//! | module | subject |
//! | --- | --- |
//! | [`message`] | headers, ids, priorities, encoding, record layout |
//! | [`kernel`] | what users write: [`RingKernel`](kernel::RingKernel) and its [`Context`](kernel::Context) |
//! | [`loops`] | the other form: a function that receives and sends until it is told to stop |
//! | [`runtime`] | launching, finding, connecting and ending ring kernels |
//! | [`handle`] | `tell`, `ask` and `receive` |
//! | [`lifecycle`] | states and the calls that are allowed in each |
//! | [`supervision`] | what happens after a panic or an error |
//! | [`dead_letter`] | messages that will never be handled, with the reason |
//! | [`telemetry`] | counters and latency histograms |
//! | [`backend`] | where ring kernels run |
//! | [`environment`] | the environment variables that are read |
//! | [`accelerator`] | the devices of this machine |
//! | [`memory`] | arrays with a half on the host and a half on a device |
//! | [`orchestrator`] | kernels that run once, beside ring kernels |

// The derive macro names this crate by its published name, also in this crate's own tests and examples.
extern crate self as dotcompute_core;

pub mod accelerator;
pub mod backend;
pub mod dead_letter;
pub mod device;
pub mod environment;
pub mod error;
pub mod handle;
pub mod kernel;
pub mod lifecycle;
mod links;
pub mod loops;
pub mod memory;
pub mod message;
pub mod options;
pub mod orchestrator;
pub mod runtime;
pub mod supervision;
pub mod telemetry;

mod attendant;
mod checkpoint;
mod driver;
mod envelope;
mod intake;
mod outlet;
mod shared;

pub use message::Message;
