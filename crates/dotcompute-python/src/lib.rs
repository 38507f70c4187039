//! `pydotcompute._core`: what of pydotcompute is written in Rust.
//!
//! Each module adds its types to the one extension module; the Python package re-exports them where users look for them.

mod asyncio;
mod memory;
mod message;
mod native;
#[cfg(unix)]
mod shared_memory;
mod threads;

use pyo3::prelude::*;

/// The extension module. Each part adds its own names.
#[pymodule(gil_used = false)]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    memory::register(module)?;
    asyncio::register(module)?;
    message::register(module)?;
    native::register(module)?;
    #[cfg(unix)]
    shared_memory::register(module)?;
    threads::register(module)?;
    Ok(())
}
