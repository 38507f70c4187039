//! Queues between processes: a ring in POSIX shared memory.
//!
//! | module | what |
//! | --- | --- |
//! | [`segment`] | the file, its mapping, and what lies before the ring |
//! | [`frame`] | messages as records of a few fixed sizes |
//! | [`process`] | who has an end, and whether that process still runs |
//! | [`parking`] | sleeping on a word that another process wakes |
//! | [`ends`] | taking ends, waiting at them, giving them back |
//! | [`ring`] | what Python sees |

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
