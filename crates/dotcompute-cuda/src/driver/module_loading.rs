//! Lazy and eager module loading.
//!
//! By default the driver loads code lazily, at the first launch of a function. Loading waits for the device to be idle, which never happens
//! while a kernel is resident, and it holds a lock that other threads' driver calls wait for. This crate does two things about it.
//!
//! - **It requests eager loading** with the variable `CUDA_MODULE_LOADING`, which the driver reads when it is initialised. That covers
//!   every module in the process, for example those of a BLAS library or a neural network. Setting a variable is sound only while no other
//!   thread can read the environment, so [`request_eager_loading`] sets it only in a process with one thread. A program that starts threads
//!   early must call it first, or be started with the variable set.
//! - **It loads its own modules completely** in either mode: [`Module::load`](super::Module::load) loads every function.

use std::env;
use std::fmt;
use std::mem::MaybeUninit;

use cudarc::driver::sys;
use dotcompute_core::environment::CUDA_MODULE_LOADING;

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

/// Requests eager module loading through the environment. Returns whether the variable is now `EAGER`.
///
/// The request takes effect if the driver is initialised later, by any code in this process; [`Driver::module_loading`] returns the mode in
/// effect. A value that is already set is kept. In a process with several threads nothing is changed, because another thread might be
/// reading the environment: call this first in `main`, or start the program with `CUDA_MODULE_LOADING=EAGER`.
///
/// ```
/// let requested = dotcompute_cuda::driver::request_eager_loading();
/// assert!(!requested || std::env::var("CUDA_MODULE_LOADING").is_ok_and(|value| value == "EAGER"));
/// ```
///
/// [`Driver::module_loading`]: super::Driver::module_loading
pub fn request_eager_loading() -> bool {
    match env::var_os(CUDA_MODULE_LOADING) {
        Some(value) => value == "EAGER",
        None if can_set_env() => {
            // SAFETY: `can_set_env` has established that no other thread can read or write the environment, or that the system synchronizes
            // access. Only this thread could start another one, and it is here. Adding a variable does not move existing strings, so
            // pointers that C code may hold stay valid.
            unsafe { env::set_var(CUDA_MODULE_LOADING, "EAGER") };
            true
        }
        None => false,
    }
}

/// Returns whether this is the only thread of the process.
#[cfg(target_os = "linux")]
fn can_set_env() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Windows synchronizes access to the environment.
#[cfg(windows)]
fn can_set_env() -> bool {
    true
}

/// The number of threads is not known on this platform.
#[cfg(not(any(target_os = "linux", windows)))]
fn can_set_env() -> bool {
    false
}
