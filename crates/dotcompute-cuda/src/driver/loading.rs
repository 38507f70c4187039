//! When the driver loads code onto the device.
//!
//! By default it does so lazily: at the first launch of a function. Then it waits for the device to be idle, which it never is while a
//! kernel is resident, and holds a lock meanwhile that everybody else's calls wait for. So two things are done about it.
//!
//! - **Eager loading is asked for** with the variable `CUDA_MODULE_LOADING`, which the driver reads when it is initialised. It covers the
//!   modules of everybody in the process: those of a BLAS library or of a neural network too. Setting a variable is sound only while no
//!   other thread can look at one, so [`request_eager_loading`] does it where the process has one thread, and nowhere else. A program
//!   that starts threads early calls it first, or is started with the variable set.
//! - **Modules of ours are loaded whole** in any mode, by [`Module::load`](super::Module::load), which asks for every function of them.

use std::env;
use std::fmt;
use std::mem::MaybeUninit;

use cudarc::driver::sys;

use super::DriverError;

/// The variable that the driver reads when it is initialised.
const VARIABLE: &str = "CUDA_MODULE_LOADING";

/// When the driver loads the code of modules onto the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ModuleLoading {
    /// With the module.
    Eager,
    /// When a function is first launched. While a kernel is resident, that of another's module never ends.
    Lazy,
}

impl ModuleLoading {
    /// Asks the driver, which has been initialised.
    pub(super) fn ask() -> Result<Self, DriverError> {
        let mut mode = MaybeUninit::uninit();
        // SAFETY: the library is there: it has been initialised. `mode` may be written to.
        let outcome = unsafe { sys::cuModuleGetLoadingMode(mode.as_mut_ptr()) }.result();
        outcome.map_err(DriverError::while_doing("asking when it loads modules"))?;
        // SAFETY: after a success it has been written, with one of the two modes that there are.
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

/// Asks the driver, through the environment, to load modules eagerly. Returns whether the variable is now set to that.
///
/// It has an effect if the driver is initialised afterwards, by whomever in this process; [`Driver::module_loading`] tells what came of
/// it. A value that is set already is left as it is, since somebody chose it. Nothing is done in a process of several threads, where
/// another might be reading the environment: call this first in `main`, or start the program with `CUDA_MODULE_LOADING=EAGER`.
///
/// ```
/// let asked = dotcompute_cuda::driver::request_eager_loading();
/// assert!(!asked || std::env::var("CUDA_MODULE_LOADING").is_ok_and(|value| value == "EAGER"));
/// ```
///
/// [`Driver::module_loading`]: super::Driver::module_loading
pub fn request_eager_loading() -> bool {
    match env::var_os(VARIABLE) {
        Some(value) => value == "EAGER",
        None if environment_is_ours() => {
            // SAFETY: there is no other thread that could be reading or writing the environment (or the system keeps them apart):
            // only this one could start another, and it is here. No pointer into the environment that C code may have kept is made
            // invalid by adding a variable: the strings stay where they are.
            unsafe { env::set_var(VARIABLE, "EAGER") };
            true
        }
        None => false,
    }
}

/// Whether this is the only thread of the process.
#[cfg(target_os = "linux")]
fn environment_is_ours() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() == 1)
}

/// Windows keeps readers and writers of the environment apart itself.
#[cfg(windows)]
fn environment_is_ours() -> bool {
    true
}

/// There is no telling here.
#[cfg(not(any(target_os = "linux", windows)))]
fn environment_is_ours() -> bool {
    false
}
