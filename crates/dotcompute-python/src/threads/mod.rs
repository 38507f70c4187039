//! Queues between threads of one interpreter: what `ring_kernels.sync_queue` and `ring_kernels._cython` give their users.
//!
//! | module | what |
//! | --- | --- |
//! | [`waiting`] | detaching from the interpreter, waiting in Rust, coming back; Ctrl-C |
//! | [`pace`] | how long to spin before sleeping |
//! | [`object_ring`] | a ring of Python objects whose two ends may not be shared, and say so |
//! | [`spsc_queue`] | `SPSCQueue`, which waits, and `FastSPSCQueue`, which mostly does not |
//! | [`sync_queue`] | `SyncQueue`, for any number of threads on both sides |

pub(crate) mod errors;
pub(crate) mod gil_wait;
mod object_ring;
pub(crate) mod spin;
mod spsc_queue;
mod sync_queue;

use pyo3::prelude::*;

/// Adds the queues to the extension module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<spsc_queue::SpscQueue>()?;
    module.add_class::<spsc_queue::FastSpscQueue>()?;
    module.add_class::<sync_queue::SyncQueue>()?;
    Ok(())
}
