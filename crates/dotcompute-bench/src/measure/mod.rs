//! The measuring loops that subjects call. They import no subject.

pub mod ask;
pub mod idle_kernels;
pub mod queue;
pub mod tell;
