//! A cubin on the device.

use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::DriverError;
use crate::compile::Cubin;

/// A cubin that was loaded onto a device, every function of it. Unloaded when it is dropped.
///
/// Loading and unloading wait for the device: do both while no kernel is resident.
#[derive(Debug)]
pub struct Module {
    handle: sys::CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: a module is the context's, not a thread's: the driver lets any thread use it that has made the context current, and takes
// its own locks. What is done here makes it current first.
unsafe impl Send for Module {}
// SAFETY: as above.
unsafe impl Sync for Module {}

impl Module {
    /// Loads a cubin. Every function is on the device when this returns, also where the driver loads lazily.
    ///
    /// # Errors
    ///
    /// [`DriverError::Call`]: the cubin is for another architecture, or there is too little memory.
    pub fn load(context: &Arc<CudaContext>, cubin: &Cubin) -> Result<Self, DriverError> {
        let doing =
            || format!("loading {} bytes of code onto device {}", cubin.as_bytes().len(), context.ordinal());
        context.bind_to_thread().map_err(|error| DriverError::while_doing(doing())(error))?;
        // SAFETY: a cubin is whole, so that the driver reads nothing behind it.
        let handle = unsafe { result::module::load_data(cubin.as_bytes().as_ptr().cast()) };
        let handle = handle.map_err(|error| DriverError::while_doing(doing())(error))?;
        // From here on it is unloaded if something fails.
        let module = Self { handle, context: Arc::clone(context) };
        module.load_functions().map_err(DriverError::while_doing(doing()))?;
        Ok(module)
    }

    /// Loads what the driver may have left for later.
    fn load_functions(&self) -> Result<(), cudarc::driver::DriverError> {
        let mut count = 0;
        // SAFETY: the module is loaded; `count` may be written to.
        unsafe { sys::cuModuleGetFunctionCount(&raw mut count, self.handle) }.result()?;
        let mut functions: Vec<sys::CUfunction> = vec![std::ptr::null_mut(); count as usize];
        // SAFETY: as above; there is room for `count` functions.
        unsafe { sys::cuModuleEnumerateFunctions(functions.as_mut_ptr(), count, self.handle) }.result()?;
        for function in functions {
            // SAFETY: a function of the module's, as the driver has just told.
            unsafe { sys::cuFuncLoad(function) }.result()?;
        }
        Ok(())
    }

    /// The driver's handle, for its functions. It is good as long as the module is.
    pub fn handle(&self) -> sys::CUmodule {
        self.handle
    }

    /// The context that it was loaded in.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // A context that is lost, or a driver that has gone at the end of the process, has unloaded it already.
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: loaded and not yet unloaded; who has taken the handle out was told how long it is good.
            let _ = unsafe { result::module::unload(self.handle) };
        }
    }
}
