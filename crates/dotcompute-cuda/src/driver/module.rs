//! Modules: cubins loaded onto a device.

use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::DriverError;
use crate::compile::Cubin;

/// A cubin loaded onto a device with all of its functions. Dropping it unloads it.
///
/// Loading and unloading synchronize with the device: do both only while no kernel is resident.
#[derive(Debug)]
pub struct Module {
    handle: sys::CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: a module belongs to a context, not to a thread. The driver locks internally and allows any thread with the context current to use
// it; the methods here make the context current first.
unsafe impl Send for Module {}
// SAFETY: as for `Send`; `&Module` gives no other access.
unsafe impl Sync for Module {}

impl Module {
    /// Loads a cubin. Every function is on the device when this returns, even if the driver loads lazily.
    ///
    /// # Errors
    ///
    /// [`DriverError::Call`]: the cubin is for another architecture, or there is not enough memory.
    pub fn load(context: &Arc<CudaContext>, cubin: &Cubin) -> Result<Self, DriverError> {
        let doing =
            || format!("loading {} bytes of code onto device {}", cubin.as_bytes().len(), context.ordinal());
        context.bind_to_thread().map_err(|error| DriverError::while_doing(doing())(error))?;
        // SAFETY: a `Cubin` is a complete ELF file, so the driver reads no bytes past its end.
        let handle = unsafe { result::module::load_data(cubin.as_bytes().as_ptr().cast()) };
        let handle = handle.map_err(|error| DriverError::while_doing(doing())(error))?;
        // From here on, an error drops `module`, which unloads it.
        let module = Self { handle, context: Arc::clone(context) };
        module.load_functions().map_err(DriverError::while_doing(doing()))?;
        Ok(module)
    }

    /// Loads every function that the driver may have deferred.
    fn load_functions(&self) -> Result<(), cudarc::driver::DriverError> {
        let mut count = 0;
        // SAFETY: `self.handle` is a loaded module; `count` is writable.
        unsafe { sys::cuModuleGetFunctionCount(&raw mut count, self.handle) }.result()?;
        let mut functions: Vec<sys::CUfunction> = vec![std::ptr::null_mut(); count as usize];
        // SAFETY: `self.handle` is a loaded module; `functions` has space for `count` handles.
        unsafe { sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, self.handle) }.result()?;
        for function in functions {
            // SAFETY: the driver has just returned `function` as one of this module.
            unsafe { sys::cuFuncLoad(function) }.result()?;
        }
        Ok(())
    }

    /// Returns the driver's handle. It is valid while the module is.
    pub fn handle(&self) -> sys::CUmodule {
        self.handle
    }

    /// Returns the context that the module was loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // If the context is lost or the driver is shut down at process exit, the module is already unloaded.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: the module is loaded and is unloaded only here. Users of `handle` may not use it after the module is dropped.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}
