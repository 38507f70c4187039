//! DotCompute's runtime: ring kernels, their lifecycle, supervision and telemetry, and the backends they run on.
//!
//! Users depend on the crate `dotcompute`, which re-exports what is here.

// The derive macro names this crate by its published name, also in this crate's own tests and examples.
extern crate self as dotcompute_core;

pub mod message;

pub use dotcompute_macros::Message;
