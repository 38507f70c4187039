//! The peers and ourselves: one file for each, with the fastest fair way to do what each bench asks.

pub mod crossbeam;
pub mod dotcompute;
pub mod kameo;
pub mod ractor;
pub mod rtrb;
pub mod tokio;
