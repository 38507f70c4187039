//! The CUDA driver and its devices.
//!
//! The driver's library comes with the kernel module, not with a toolkit: it is there or it is not. It is opened when [`Driver::open`]
//! is called, and what is wrong with it is a [`DriverError`]; a machine without it can do everything else.
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
mod loading;
mod module;

use std::mem::MaybeUninit;

use cudarc::driver::{result, sys};

use crate::library::Version;

pub use device::Device;
pub use error::DriverError;
pub use loading::{ModuleLoading, request_eager_loading};
pub use module::Module;

/// The oldest driver that is used: that of CUDA 12.4, the first that loads single functions on demand (`cuFuncLoad`).
pub const OLDEST: Version = Version { major: 12, minor: 4 };

/// The driver, initialised. Costs nothing to have; the driver stays initialised until the process ends.
#[derive(Clone, Debug)]
pub struct Driver {
    version: Version,
}

impl Driver {
    /// Opens the driver's library and initialises it, if nobody has. Asks for eager loading before: [`request_eager_loading`].
    ///
    /// # Errors
    ///
    /// [`DriverError::Unavailable`] where there is no driver or no device, [`DriverError::TooOld`], or the driver's own word.
    pub fn open() -> Result<Self, DriverError> {
        // SAFETY: libraries of the driver's names are opened and closed; their initialisers expect nothing of the process. Without
        // this, the first call to the driver would panic where there is none.
        if !unsafe { sys::is_culib_present() } {
            return Err(DriverError::unavailable(
                "its library, libcuda.so.1, is not on this machine",
                "install NVIDIA's driver; in a container, start it with the GPU passed through",
            ));
        }
        let version = version()?;
        if version < OLDEST {
            return Err(DriverError::TooOld { version, oldest: OLDEST });
        }
        request_eager_loading();
        result::init().map_err(|error| DriverError::from_init(&error))?;
        Ok(Self { version })
    }

    /// The version of CUDA that the driver is for.
    pub fn version(&self) -> Version {
        self.version
    }

    /// When the driver loads the code of modules onto the device.
    ///
    /// # Errors
    ///
    /// [`DriverError::Call`] when the driver does not tell.
    pub fn module_loading(&self) -> Result<ModuleLoading, DriverError> {
        ModuleLoading::ask()
    }

    /// How many devices there are.
    ///
    /// # Errors
    ///
    /// [`DriverError::Call`] when the driver does not tell.
    pub fn device_count(&self) -> Result<u32, DriverError> {
        let count = result::device::get_count().map_err(DriverError::while_doing("counting the devices"))?;
        Ok(count.unsigned_abs())
    }

    /// The device of this index.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoSuchDevice`], or the driver's own word.
    pub fn device(&self, index: u32) -> Result<Device, DriverError> {
        let count = self.device_count()?;
        if index >= count {
            return Err(DriverError::NoSuchDevice { index, count });
        }
        Device::read(index)
    }

    /// All devices.
    ///
    /// # Errors
    ///
    /// [`DriverError::Call`], the driver's own word.
    pub fn devices(&self) -> Result<Vec<Device>, DriverError> {
        (0..self.device_count()?).map(Device::read).collect()
    }
}

/// The version of the driver; it tells before it is initialised.
fn version() -> Result<Version, DriverError> {
    let mut number = MaybeUninit::uninit();
    // SAFETY: the library is there; `number` may be written to.
    let outcome = unsafe { sys::cuDriverGetVersion(number.as_mut_ptr()) }.result();
    outcome.map_err(DriverError::while_doing("asking for its version"))?;
    // SAFETY: after a success it has been written.
    let number = unsafe { number.assume_init() }.unsigned_abs();
    Ok(Version { major: number / 1000, minor: number % 1000 / 10 })
}
