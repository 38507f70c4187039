//! Loaded modules and the kernel functions in them.

use std::sync::Arc;

use cudarc::driver::{result, sys};
use dotcompute_core::backend::device_port::Shape;

use super::deferred_free::DeferredFreeList;
use crate::device_code::KERNEL;
use crate::driver::{Device, DriverError, Module};
use crate::resident_grid::launched_threads;

/// Owns a loaded module. Unloading synchronizes with the device, so `drop` queues it on the deferred free list.
pub(super) struct ModuleGuard {
    module: Option<Module>,
    deferred_free: Arc<DeferredFreeList>,
}

impl ModuleGuard {
    pub(super) fn new(module: Module, deferred_free: &Arc<DeferredFreeList>) -> Self {
        Self { module: Some(module), deferred_free: Arc::clone(deferred_free) }
    }
}

impl Drop for ModuleGuard {
    fn drop(&mut self) {
        let module = self.module.take();
        self.deferred_free.defer(move || drop(module));
    }
}

/// A kernel function of a loaded module. The owner keeps the module's [`ModuleGuard`] beside it.
#[derive(Clone, Copy)]
pub(super) struct Function(pub(super) sys::CUfunction);

// SAFETY: the driver ties a function handle to its context, not to a thread.
unsafe impl Send for Function {}
// SAFETY: as above; driver calls lock internally, so concurrent calls with one handle are allowed.
unsafe impl Sync for Function {}

impl Function {
    /// Returns the ring kernel entry point of `module`.
    pub(super) fn of(module: &Module) -> Result<Self, DriverError> {
        let function = Self::named(module, KERNEL)?;
        // The first block on an idle multiprocessor fixes the split between L1 cache and shared memory there, and a resident block would keep
        // it forever: with the default, a kernel that needs much shared memory could no longer run there. The largest shared memory suits all.
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT;
        let largest = sys::CUshared_carveout::CU_SHAREDMEM_CARVEOUT_MAX_SHARED as i32;
        // SAFETY: `module` is loaded for as long as it is borrowed.
        unsafe { sys::cuFuncSetAttribute(function.0, attribute, largest) }
            .result()
            .map_err(DriverError::while_doing("setting the shared memory of its multiprocessors"))?;
        Ok(function)
    }

    /// Returns the kernel `name` of `module`.
    pub(super) fn named(module: &Module, name: &str) -> Result<Self, DriverError> {
        let symbol = std::ffi::CString::new(name).unwrap_or_default();
        // SAFETY: `module` is loaded for as long as it is borrowed.
        let function = unsafe { result::module::get_function(module.handle(), symbol) };
        function.map(Self).map_err(DriverError::while_doing(format!("finding `{name}` in its module")))
    }

    /// Returns the sizes of the parameters, in bytes.
    pub(super) fn parameters(self) -> Vec<usize> {
        let size = |index| {
            let (mut offset, mut size) = (0, 0);
            // SAFETY: the caller keeps the function's module loaded; `offset` and `size` are writable. The driver returns an error for
            // an index past the last parameter.
            let result = unsafe { sys::cuFuncGetParamInfo(self.0, index, &raw mut offset, &raw mut size) };
            (result == sys::CUresult::CUDA_SUCCESS).then_some(size)
        };
        (0..).map_while(size).collect()
    }

    /// Returns how many blocks of `threads` threads one multiprocessor holds at once.
    pub(super) fn occupancy(self, threads: u32) -> Result<u32, DriverError> {
        // SAFETY: the caller keeps the function's module loaded.
        let blocks = unsafe {
            result::occupancy::max_active_block_per_multiprocessor(self.0, threads.cast_signed(), 0)
        };
        let blocks = blocks.map_err(DriverError::while_doing("computing the occupancy of a kernel"))?;
        Ok(blocks.unsigned_abs())
    }
}

/// Returns the number of multiprocessors that a ring kernel occupies, or the reason why it cannot be resident on this device.
pub(super) fn required_multiprocessors(
    device: &Device,
    function: Function,
    shape: Shape,
) -> Result<u32, String> {
    let occupancy =
        function.occupancy(launched_threads(shape.threads())).map_err(|error| error.to_string())?;
    let max_blocks = occupancy.saturating_mul(device.multiprocessors);
    if shape.blocks() > max_blocks {
        return Err(format!(
            "a grid of {} blocks of {} threads cannot be resident at once: {occupancy} fit on each of the {} multiprocessors of {}, \
             {max_blocks} in all; use fewer blocks or fewer threads per block",
            shape.blocks(),
            shape.threads(),
            device.multiprocessors,
            device.name
        ));
    }
    // The device spreads blocks over the multiprocessors, so each block occupies one until every multiprocessor has a block.
    Ok(shape.blocks().min(device.multiprocessors))
}
