//! Conformance tests of DotCompute.

pub mod watchdog;

mod thread_dump;
