//! Native ring kernels: handlers written in Python and compiled to machine code, run by the core runtime without the interpreter.
//!
//! | module | subject |
//! | --- | --- |
//! | [`codec`] | messages of Python to records and back, by a layout computed beforehand |
//! | [`handler`] | a compiled handler as a ring kernel of the core runtime |
//! | [`raised`] | the exceptions that compiled handlers raise |
//! | [`kernel`] | `NativeKernel`: tell, ask, receive |
//! | [`device`] | compiled handlers as ring kernels of a GPU, or of the device that pretends to be one |
//! | [`launch`] | `NativeRuntime`: launching, dead letters, the end |
//! | [`wait`] | waiting with the interpreter free and Ctrl-C at work |
//! | `bell` | the same from an event loop |
//! | [`error`] | errors of the core as exceptions of the package |

mod blocking;
mod device;
mod error;
mod exceptions;
mod handler;
mod kernel;
#[cfg(unix)]
mod loop_notifier;
mod record_codec;
mod runtime;

use pyo3::prelude::*;

/// Adds the names of this module to the extension.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<record_codec::RecordCodec>()?;
    module.add_class::<kernel::NativeKernel>()?;
    module.add_class::<runtime::NativeRuntime>()?;
    #[cfg(unix)]
    module.add_class::<loop_notifier::NativeNotifier>()?;
    #[cfg(unix)]
    module.add_class::<loop_notifier::NativeOperation>()?;
    module.add_function(wrap_pyfunction!(device::link_cubin, module)?)?;
    Ok(())
}
