//! Native ring kernels: handlers written in Python and compiled to machine code, which the core runtime runs without the interpreter.
//!
//! | module | subject |
//! | --- | --- |
//! | [`record_codec`] | Python messages to records and back, by a precomputed layout |
//! | [`handler`] | a compiled handler as a ring kernel of the core runtime |
//! | [`device`] | compiled handlers as ring kernels of a GPU, or of the emulated device |
//! | [`execution_place`] | where a native ring kernel runs |
//! | [`exceptions`] | exceptions that compiled handlers raise |
//! | [`kernel`] | `NativeKernel`: tell, ask, receive |
//! | `kernel_lifecycle` | its activation, pause, end and state |
//! | [`runtime`] | `NativeRuntime`: launch, dead letters, shutdown |
//! | [`blocking`] | waiting while detached from the interpreter, interruptible by Ctrl-C |
//! | `loop_notifier`, `loop_operation` | the same operations for an event loop |
//! | [`error`] | errors of the core as exceptions of the package |

mod blocking;
mod device;
mod error;
mod exceptions;
mod execution_place;
mod handler;
mod kernel;
mod kernel_lifecycle;
#[cfg(unix)]
mod loop_notifier;
#[cfg(unix)]
mod loop_operation;
mod record_codec;
mod runtime;

use pyo3::prelude::*;

/// Adds the names of this module to the extension module.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<record_codec::RecordCodec>()?;
    module.add_class::<kernel::NativeKernel>()?;
    module.add_class::<runtime::NativeRuntime>()?;
    #[cfg(unix)]
    module.add_class::<loop_notifier::NativeNotifier>()?;
    #[cfg(unix)]
    module.add_class::<loop_operation::NativeOperation>()?;
    module.add_function(wrap_pyfunction!(device::link_cubin, module)?)?;
    Ok(())
}
