//! Settings that the driver reads from the environment when it is initialised.
//!
//! A resident kernel needs two: eager module loading ([`module_loading`](super::ModuleLoading)) and as many hardware queues as the device
//! has ([`HardwareQueues`](super::HardwareQueues)). Setting a variable is sound only while no other thread can read the environment, so this
//! module sets them only in a process with one thread. A program that starts threads early must call [`request_resident_settings`] first, or
//! be started with the variables set.

use std::env;

use dotcompute_core::environment::{CUDA_DEVICE_MAX_CONNECTIONS, CUDA_MODULE_LOADING};

/// Requests eager module loading and 32 hardware queues through the environment. Returns whether both variables now have these values.
///
/// The request takes effect if the driver is initialised later, by any code in this process; [`Driver::module_loading`] and
/// [`Driver::hardware_queues`] return what is in effect. Values that are already set are kept. In a process with several threads nothing is
/// changed, because another thread might be reading the environment: call this first in `main`, or start the program with
/// `CUDA_MODULE_LOADING=EAGER CUDA_DEVICE_MAX_CONNECTIONS=32`.
///
/// ```
/// let requested = dotcompute_cuda::driver::request_resident_settings();
/// assert!(!requested || std::env::var("CUDA_MODULE_LOADING").is_ok_and(|value| value == "EAGER"));
/// ```
///
/// [`Driver::module_loading`]: super::Driver::module_loading
/// [`Driver::hardware_queues`]: super::Driver::hardware_queues
pub fn request_resident_settings() -> bool {
    let loads_eagerly = request(CUDA_MODULE_LOADING, "EAGER");
    request(CUDA_DEVICE_MAX_CONNECTIONS, "32") && loads_eagerly
}

/// Sets a variable unless it is set. Returns whether it has the value now.
fn request(name: &str, wanted: &str) -> bool {
    match env::var_os(name) {
        Some(value) => value == wanted,
        None if can_set_env() => {
            // SAFETY: `can_set_env` has established that no other thread can read or write the environment, or that the system synchronizes
            // access. Only this thread could start another one, and it is here. Adding a variable does not move existing strings, so
            // pointers that C code may hold stay valid.
            unsafe { env::set_var(name, wanted) };
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
