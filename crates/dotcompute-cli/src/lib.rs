//! The parts of the `dotcompute` command.

pub mod detector;
pub mod nab;
pub mod series;
pub mod time;
