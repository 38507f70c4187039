//! Lazy and eager module loading.
//!
//! By default the driver loads code lazily, at the first launch of a function. Loading waits for the device to be idle, which never happens
//! while a kernel is resident, and it holds a lock that other threads' driver calls wait for. This crate does two things about it.
//!
//! - **It requests eager loading** with the variable `CUDA_MODULE_LOADING`, which the driver reads when it is initialised
//!   ([`request_resident_settings`](super::request_resident_settings)). That covers every module in the process, for example those of a BLAS
//!   library or a neural network.
//! - **It loads its own modules completely** in either mode: [`Module::load`](super::Module::load) loads every function.

use std::fmt;
use std::mem::MaybeUninit;

use cudarc::driver::sys;

use super::DriverError;

/// When the driver loads the code of modules onto the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModuleLoading {
    /// Together with the module.
    Eager,
    /// At the first launch of a function. While a kernel is resident, such a launch from another module never completes.
    Lazy,
}

impl ModuleLoading {
    /// Queries the driver, which must be initialised.
    pub(super) fn query() -> Result<Self, DriverError> {
        let mut mode = MaybeUninit::uninit();
        // SAFETY: the driver is initialised, so the library is present; `mode` is writable.
        let outcome = unsafe { sys::cuModuleGetLoadingMode(mode.as_mut_ptr()) }.result();
        outcome.map_err(DriverError::while_doing("reading its module loading mode"))?;
        // SAFETY: the call succeeded, so `mode` is one of the two modes of the enumeration.
        Ok(match unsafe { mode.assume_init() } {
            sys::CUmoduleLoadingMode_enum::CU_MODULE_EAGER_LOADING => Self::Eager,
            sys::CUmoduleLoadingMode_enum::CU_MODULE_LAZY_LOADING => Self::Lazy,
        })
    }
}

impl fmt::Display for ModuleLoading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eager => "eagerly",
            Self::Lazy => "lazily",
        })
    }
}
