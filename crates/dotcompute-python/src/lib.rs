//! `pydotcompute._core`: the extension module of pydotcompute.
//!
//! Each module adds its types to the extension module. The Python package re-exports the public ones.

mod arguments;
mod asyncio;
mod fork;
mod memory;
mod message;
mod native;
#[cfg(unix)]
mod shared_memory;
mod threads;

use pyo3::prelude::*;

/// The extension module of pydotcompute, written in Rust.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    fork::register();
    memory::register(module)?;
    asyncio::register(module)?;
    message::register(module)?;
    native::register(module)?;
    #[cfg(unix)]
    shared_memory::register(module)?;
    threads::register(module)?;
    Ok(())
}
