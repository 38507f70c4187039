//! Queues between processes: a ring in POSIX shared memory.
//!
//! | module | subject |
//! | --- | --- |
//! | [`segment`] | the shared-memory object, its mapping, and the header before the ring |
//! | [`frame`] | messages as records of a few fixed sizes |
//! | [`owner_process`] | which process owns an endpoint, and whether it still runs |
//! | [`parking`] | parking on a word in shared memory until another process wakes it |
//! | [`endpoints`] | claiming endpoints, waiting on them, releasing them |
//! | [`ring`] | the Python class |

mod endpoints;
mod frame;
mod owner_process;
mod parking;
mod ring;
mod segment;

use pyo3::prelude::*;

/// Adds the queue to the extension module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ring::SharedRing>()?;
    Ok(())
}
