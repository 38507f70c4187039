//! Queues between threads of one interpreter: the implementation of `ring_kernels.sync_queue` and `ring_kernels._cython`.
//!
//! | module | subject |
//! | --- | --- |
//! | [`gil_wait`] | waiting detached from the interpreter, GIL hand-over, Ctrl-C |
//! | [`spin`] | how long to spin before parking |
//! | [`object_ring`] | a ring of Python objects with exclusive endpoints |
//! | [`spsc_queue`] | `SPSCQueue`, optimized for waiting, and `FastSPSCQueue`, optimized for non-blocking calls |
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
