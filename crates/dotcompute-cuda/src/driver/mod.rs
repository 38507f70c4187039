//! The CUDA driver and its devices.
//!
//! The driver's library is installed with the kernel module, not with a toolkit. [`Driver::open`] opens it and returns a [`DriverError`] if
//! that fails. Everything that needs no GPU works without it.
//!
//! ```no_run
//! use dotcompute_cuda::driver::Driver;
//!
//! let driver = Driver::open()?;
//! println!("driver for CUDA {}, modules are loaded {}", driver.version(), driver.module_loading()?);
//! for device in driver.devices()? {
//!     println!("{}: {}, {}, {} SMs", device.index, device.name, device.architecture, device.multiprocessors);
//! }
//! # Ok::<(), dotcompute_cuda::driver::DriverError>(())
//! ```

mod device;
mod error;
mod hardware_queues;
mod module;
mod module_loading;
mod settings;

use std::mem::MaybeUninit;

use cudarc::driver::{result, sys};

use crate::library::Version;

pub use device::Device;
pub use error::DriverError;
pub use hardware_queues::{HardwareQueues, QueuesReason};
pub use module::Module;
pub use module_loading::ModuleLoading;
pub use settings::request_resident_settings;

/// The oldest supported driver: that of CUDA 12.4, the first that can load single functions on demand (`cuFuncLoad`).
pub const MIN_DRIVER_VERSION: Version = Version { major: 12, minor: 4 };

/// The initialised driver. The value holds no resources; the driver stays initialised until the process ends.
#[derive(Clone, Debug)]
pub struct Driver {
    version: Version,
}

impl Driver {
    /// Opens the driver's library and initialises it if necessary. Requests the settings that resident kernels need
    /// first: [`request_resident_settings`].
    ///
    /// # Errors
    ///
    /// [`DriverError::Unavailable`] without a driver or a device, [`DriverError::TooOld`], or the error of the driver.
    pub fn open() -> Result<Self, DriverError> {
        // SAFETY: opens and closes libraries by the driver's names. Their initialisers have no requirements on the process. Without this
        // check, the first driver call would panic on a machine without a driver.
        if !unsafe { sys::is_culib_present() } {
            return Err(DriverError::unavailable(
                "its library, libcuda.so.1, is not on this machine",
                "install NVIDIA's driver; in a container, start it with the GPU passed through",
            ));
        }
        let version = version()?;
        if version < MIN_DRIVER_VERSION {
            return Err(DriverError::TooOld { version, minimum: MIN_DRIVER_VERSION });
        }
        let initialized_before = hardware_queues::is_initialized();
        if !initialized_before {
            request_resident_settings();
        }
        result::init().map_err(|error| DriverError::from_init(&error))?;
        HardwareQueues::record(initialized_before);
        Ok(Self { version })
    }

    /// Returns the CUDA version that the driver supports.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns when the driver loads the code of modules onto the device.
    ///
    /// # Errors
    ///
    /// [`DriverError::Call`] if the driver does not report it.
    pub fn module_loading(&self) -> Result<ModuleLoading, DriverError> {
        ModuleLoading::query()
    }

    /// Returns how many hardware queues each device has in this process.
    pub fn hardware_queues(&self) -> HardwareQueues {
        HardwareQueues::in_effect()
    }

    /// Returns the number of devices.
    ///
    /// # Errors
    ///
    /// [`DriverError::Call`] if the driver does not report it.
    pub fn device_count(&self) -> Result<u32, DriverError> {
        let count = result::device::get_count().map_err(DriverError::while_doing("counting the devices"))?;
        Ok(count.unsigned_abs())
    }

    /// Returns the device with this index.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoSuchDevice`], or the error of the driver.
    pub fn device(&self, index: u32) -> Result<Device, DriverError> {
        let count = self.device_count()?;
        if index >= count {
            return Err(DriverError::NoSuchDevice { index, count });
        }
        Device::read(index)
    }

    /// Returns all devices.
    ///
    /// # Errors
    ///
    /// [`DriverError::Call`] if an attribute cannot be read.
    pub fn devices(&self) -> Result<Vec<Device>, DriverError> {
        (0..self.device_count()?).map(Device::read).collect()
    }
}

/// Reads the driver's version, which is available before initialisation.
fn version() -> Result<Version, DriverError> {
    let mut number = MaybeUninit::uninit();
    // SAFETY: `open` has checked that the library is present; `number` is writable.
    let outcome = unsafe { sys::cuDriverGetVersion(number.as_mut_ptr()) }.result();
    outcome.map_err(DriverError::while_doing("reading its version"))?;
    // SAFETY: the call succeeded, so `number` is initialised.
    let number = unsafe { number.assume_init() }.unsigned_abs();
    Ok(Version { major: number / 1000, minor: number % 1000 / 10 })
}
