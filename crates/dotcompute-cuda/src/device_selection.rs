//! Selects a device for a runtime, by environment variable or by availability.

use std::fmt;
use std::sync::Arc;

use dotcompute_core::backend::{Backend, BackendError, BackendKind};
use dotcompute_core::environment;

use crate::cuda::CudaBackend;
use crate::emulated::EmulatedBackend;

/// The environment variable that selects the device: `cuda`, `emulated` or `cpu`.
pub const DEVICE_ENV_VAR: &str = environment::DEVICE;

/// A selected device, with the reason for the selection.
pub struct SelectedDevice {
    /// The kind of the device; [`BackendKind::Cpu`] if there is none.
    pub kind: BackendKind,
    /// The device, for [`RuntimeOptions::device`](dotcompute_core::runtime::RuntimeOptions::device); `None` if there is none.
    pub device: Option<Arc<dyn Backend>>,
    /// Why this device was selected.
    pub reason: String,
}

impl fmt::Debug for SelectedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelectedDevice")
            .field("kind", &self.kind)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// The error of a device selection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceSelectionError {
    /// The name is not the name of a device.
    #[error(
        "{DEVICE_ENV_VAR} is `{value}`, which is not a device; set it to `cuda`, `emulated` or `cpu`, or unset it"
    )]
    Unknown {
        /// The name.
        value: String,
    },
    /// The requested device cannot be opened.
    #[error("opening the requested device: {0}")]
    Backend(#[from] BackendError),
}

/// Selects the device that the environment names. Without the variable, selects the first usable GPU, or no device if there is none: ring
/// kernels on threads need no device.
///
/// ```
/// use dotcompute_core::runtime::{Runtime, RuntimeOptions};
///
/// let selected = dotcompute_cuda::device_selection::from_environment()?;
/// println!("device: {} ({})", selected.kind, selected.reason);
/// let options = selected.device.into_iter().fold(RuntimeOptions::new(), RuntimeOptions::device);
/// let runtime = Runtime::with_options(options)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`DeviceSelectionError`]: the value of the variable is invalid, or names a device that cannot be opened.
pub fn from_environment() -> Result<SelectedDevice, DeviceSelectionError> {
    let value = std::env::var_os(DEVICE_ENV_VAR).unwrap_or_default();
    by_name(&value.to_string_lossy())
}

/// Selects the device with this name: `cuda`, `emulated` or `cpu`. An empty name selects the best available device.
///
/// # Errors
///
/// As for [`from_environment`].
pub fn by_name(name: &str) -> Result<SelectedDevice, DeviceSelectionError> {
    let requested = || format!("`{name}` was requested");
    Ok(match name {
        "cpu" => SelectedDevice { kind: BackendKind::Cpu, device: None, reason: requested() },
        "cuda" => cuda(CudaBackend::new()?, requested()),
        "emulated" => SelectedDevice {
            kind: BackendKind::Emulated,
            device: Some(EmulatedBackend::new()?),
            reason: requested(),
        },
        "" => match CudaBackend::new() {
            Ok(backend) => cuda(backend, String::from("it is the first GPU of this machine")),
            Err(error) => SelectedDevice {
                kind: BackendKind::Cpu,
                device: None,
                reason: format!("no GPU is usable: {error}"),
            },
        },
        other => return Err(DeviceSelectionError::Unknown { value: other.to_owned() }),
    })
}

fn cuda(backend: Arc<CudaBackend>, reason: String) -> SelectedDevice {
    let device = backend.device();
    let reason = format!("{reason}: {}, device {}", device.name, device.index);
    SelectedDevice { kind: BackendKind::Cuda, device: Some(backend), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_select_a_device_and_others_are_errors() {
        let selected = by_name("cpu").unwrap();
        assert!(selected.kind == BackendKind::Cpu && selected.device.is_none());
        let selected = by_name("emulated").unwrap();
        assert_eq!(selected.device.unwrap().kind(), BackendKind::Emulated);
        let error = by_name("gpu").unwrap_err().to_string();
        assert!(error.contains("`gpu`") && error.contains("emulated"), "{error}");
    }

    /// Without a name: the GPU that can be opened, else no device and why.
    #[test]
    fn without_a_name_a_usable_gpu_is_selected() {
        let selected = by_name("").unwrap();
        match CudaBackend::new() {
            Ok(backend) => {
                assert!(selected.kind == BackendKind::Cuda && selected.device.is_some(), "{selected:?}");
                assert!(selected.reason.contains(&backend.device().name), "{selected:?}");
            }
            Err(error) => {
                assert!(selected.kind == BackendKind::Cpu && selected.device.is_none(), "{selected:?}");
                assert_eq!(selected.reason, format!("no GPU is usable: {error}"));
            }
        }
    }
}
