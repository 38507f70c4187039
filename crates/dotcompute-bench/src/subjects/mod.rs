//! The compared implementations: one file each, with the fastest fair way to do what each bench measures.

pub mod crossbeam;
pub mod dotcompute;
pub mod kameo;
pub mod ractor;
pub mod rtrb;
pub mod tokio;
