//! Errors of the CUDA driver.

use std::ffi::CStr;
use std::time::Duration;

use cudarc::driver::sys::CUresult;
use thiserror::Error;

use super::HardwareQueues;
use crate::library::Version;

/// An error of the CUDA driver.
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
    /// The driver is older than [`MIN_DRIVER_VERSION`](super::MIN_DRIVER_VERSION) and lacks functions that this crate needs.
    #[error(
        "the CUDA driver is for CUDA {version}, and {minimum} is the oldest that can be used; install a newer driver"
    )]
    TooOld {
        /// The CUDA version of the installed driver.
        version: Version,
        /// The oldest supported version.
        minimum: Version,
    },
    /// There is no device of this index.
    #[error(
        "there is no CUDA device {index}: this process sees {count}, numbered from 0 (CUDA_VISIBLE_DEVICES can hide some)"
    )]
    NoSuchDevice {
        /// The requested index.
        index: u32,
        /// The number of devices.
        count: u32,
    },
    /// An allocation failed.
    #[error("the CUDA driver, {doing}: out of memory; free some, or allocate less")]
    OutOfMemory {
        /// What was being done.
        doing: String,
    },
    /// An operation did not complete within its timeout.
    #[error("the CUDA driver, {doing}: not complete after {waited:?}; check whether the device hangs")]
    TimedOut {
        /// What was being done.
        doing: String,
        /// The duration of the wait.
        waited: Duration,
    },
    /// Every hardware queue for this kind of work is in use. A launch in a shared queue would wait behind a resident ring kernel.
    #[error(
        "no hardware queue is free for it: the device has {queues}, of which it may take one of {capacity}; the others are for copies, buffers and \
         one-shot kernels; {}",
        .queues.advice()
    )]
    NoHardwareQueue {
        /// The queues of the device.
        queues: HardwareQueues,
        /// How many of them this kind of work may take.
        capacity: u32,
    },
    /// The context of a device is lost to an earlier error. CUDA cannot restore it within the process.
    #[error(
        "the CUDA context of device {device} is lost: {cause}; every ring kernel and all memory on this device are lost with it, so end this \
         process and start a new one"
    )]
    ContextLost {
        /// The index of the device.
        device: u32,
        /// The error that was noticed first, and the ring kernels that were in their handlers.
        cause: String,
    },
    /// A call to the driver failed.
    #[error("the CUDA driver, {doing}: {description} ({name}, code {code}){}", advice(*.code))]
    Call {
        /// What was being done.
        doing: String,
        /// The driver's error code.
        code: u32,
        /// The name of the code.
        name: String,
        /// The driver's description of the code.
        description: String,
    },
}

impl DriverError {
    /// Returns whether the context is lost: every later call in it fails until it is destroyed.
    ///
    /// ```
    /// use dotcompute_cuda::driver::DriverError;
    ///
    /// let name = "CUDA_ERROR_ILLEGAL_ADDRESS".to_owned();
    /// let error = DriverError::Call { doing: "waiting".into(), code: 700, name, description: String::new() };
    /// assert!(error.context_is_lost());
    /// ```
    pub fn context_is_lost(&self) -> bool {
        // The results after which, by the driver's documentation, the context or the process must be discarded.
        matches!(
            self,
            Self::ContextLost { .. }
                | Self::Call { code: 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721, .. }
        )
    }

    pub(super) fn unavailable(missing: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Unavailable { missing: missing.into(), advice: advice.into() }
    }

    /// Converts an error of `cuInit`. Some results mean that no driver or device is usable.
    pub(super) fn from_init(error: &cudarc::driver::DriverError) -> Self {
        let call = Self::call("initialising".into(), error);
        match error.0 {
            CUresult::CUDA_ERROR_NO_DEVICE => Self::unavailable(
                "it finds no device that this process may use",
                "check `nvidia-smi` and CUDA_VISIBLE_DEVICES; in a container, start it with the GPU passed through",
            ),
            CUresult::CUDA_ERROR_STUB_LIBRARY => Self::unavailable(
                "the libcuda.so that was found is a toolkit's stub, which serves for linking only",
                "install NVIDIA's driver, and remove the folder `stubs` from LD_LIBRARY_PATH",
            ),
            _ => call,
        }
    }

    /// Returns a converter for the error of a driver call made while `doing`.
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
        let description = text(error.error_string(), "no description");
        Self::Call { doing, code: error.0 as u32, name, description }
    }
}

/// Returns the advice for an error code.
fn advice(code: u32) -> &'static str {
    match code {
        2 => "; free device memory, or allocate less",
        209 => "; compile it for this device's architecture",
        46 => "; another process uses the device exclusively",
        802 => "; the system is not ready: check whether the fabric manager runs",
        803 => "; the driver's library and its kernel module are of different versions: restart the machine",
        804 => "; this device does not support running a newer CUDA on an older driver: update the driver",
        _ => "",
    }
}
