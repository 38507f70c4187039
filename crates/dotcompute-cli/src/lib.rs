//! The commands of the `dotcompute` program.

mod arguments;
pub mod detect;
pub mod detector;
pub mod device_detector;
pub mod doctor;
pub mod error;
pub mod hint;
pub mod nab;
pub mod plot;
pub mod series;
pub mod time;
pub mod watch;
