//! The parts of the `dotcompute` command.

pub mod detect;
pub mod detector;
pub mod device_detector;
pub mod doctor;
pub mod error;
pub mod nab;
pub mod plot;
pub mod series;
pub mod time;
pub mod watch;
