//! The measuring loops that subjects call. They import no subject.

pub mod ask;
pub mod cpu_time;
pub mod idle_kernels;
pub mod overload;
pub mod queue;
pub mod task_asks;
pub mod tell;
