//! What can go wrong with the driver.

use std::ffi::CStr;
use std::time::Duration;

use cudarc::driver::sys::CUresult;
use thiserror::Error;

use crate::library::Version;

/// What went wrong with the driver.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DriverError {
    /// There is no driver or no device on this machine.
    #[error("the CUDA driver cannot be used: {missing}; {advice}")]
    Unavailable {
        /// What is missing.
        missing: String,
        /// What to install or set.
        advice: String,
    },
    /// The driver lacks functions that are needed.
    #[error(
        "the CUDA driver is for CUDA {version}, and {oldest} is the oldest that can be used; install a newer driver"
    )]
    TooOld {
        /// That of this machine.
        version: Version,
        /// The oldest that would do.
        oldest: Version,
    },
    /// There is no device of this index.
    #[error(
        "there is no CUDA device {index}: this process sees {count}, numbered from 0 (CUDA_VISIBLE_DEVICES can hide some)"
    )]
    NoSuchDevice {
        /// What was asked for.
        index: u32,
        /// How many there are.
        count: u32,
    },
    /// There is no memory.
    #[error("the CUDA driver, {doing}: it gave none; free some, or ask for less")]
    OutOfMemory {
        /// What was being done.
        doing: String,
    },
    /// Something took longer than it may.
    #[error("the CUDA driver, {doing}: it was not done after {waited:?}; is the device hung?")]
    TimedOut {
        /// What was being done.
        doing: String,
        /// How long was waited.
        waited: Duration,
    },
    /// The driver refused a call.
    #[error("the CUDA driver, {doing}: {description} ({name}, code {code}){}", advice(*.code))]
    Call {
        /// What was being done.
        doing: String,
        /// The driver's number for what went wrong.
        code: u32,
        /// The driver's name for it.
        name: String,
        /// The driver's words for it.
        description: String,
    },
}

impl DriverError {
    /// Whether the context is lost with everything in it: after such an error every call in it fails, until it is destroyed.
    ///
    /// ```
    /// use dotcompute_cuda::driver::DriverError;
    ///
    /// let name = "CUDA_ERROR_ILLEGAL_ADDRESS".to_owned();
    /// let error = DriverError::Call { doing: "waiting".into(), code: 700, name, description: String::new() };
    /// assert!(error.context_is_lost());
    /// ```
    pub fn context_is_lost(&self) -> bool {
        // Of the driver's list of results, those of which it says that the process or the context must be left behind.
        matches!(self, Self::Call { code: 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721, .. })
    }

    pub(super) fn unavailable(missing: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Unavailable { missing: missing.into(), advice: advice.into() }
    }

    /// The error of initialising: some of them mean that there is nothing to be used.
    pub(super) fn from_init(error: &cudarc::driver::DriverError) -> Self {
        let call = Self::call("initialising".into(), error);
        match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => Self::unavailable(
                "it finds no device that this process may use",
                "look at `nvidia-smi` and CUDA_VISIBLE_DEVICES; in a container, start it with the GPU passed through",
            ),
            CUresult::CUDA_ERROR_STUB_LIBRARY => Self::unavailable(
                "the libcuda.so that is found is a toolkit's stub, good for linking only",
                "install NVIDIA's driver, and take the folder `stubs` out of LD_LIBRARY_PATH",
            ),
            _ => call,
        }
    }

    /// Makes an error of a call's result, with what was being done.
    pub(crate) fn while_doing(
        doing: impl Into<String>,
    ) -> impl FnOnce(cudarc::driver::DriverError) -> DriverError {
        move |error| Self::call(doing.into(), &error)
    }

    fn call(doing: String, error: &cudarc::driver::DriverError) -> Self {
        let text = |text: Result<&CStr, _>, otherwise: &str| {
            text.map_or_else(|_| otherwise.to_owned(), |text| text.to_string_lossy().into_owned())
        };
        let name = text(error.error_name(), "an unknown error");
        let description = text(error.error_string(), "it does not say why");
        Self::Call { doing, code: error.0 as u32, name, description }
    }
}

/// What to do about an error of this number.
fn advice(code: u32) -> &'static str {
    match code {
        2 => "; free device memory, or ask for less",
        209 => "; compile it for this device's architecture",
        46 => "; another process has the device for itself",
        802 => "; the system is not ready: is the fabric manager running?",
        803 => "; the driver's library and its kernel module are of different versions: restart the machine",
        804 => "; this device does not support running a newer CUDA on an older driver: update the driver",
        _ => "",
    }
}
