//! Choosing a device for a runtime: as the environment says, or as the machine allows.

use std::fmt;
use std::sync::Arc;

use dotcompute_core::backend::{Backend, BackendError, BackendKind};

use crate::cuda::CudaBackend;
use crate::emulated::EmulatedBackend;

/// The environment variable that chooses: `cuda`, `emulated` or `cpu`.
pub const DEVICE_ENV_VAR: &str = "DOTCOMPUTE_DEVICE";

/// A choice, with its reason.
pub struct SelectedDevice {
    /// Where ring kernels for a device run; [`BackendKind::Cpu`] where there is no device.
    pub kind: BackendKind,
    /// For [`RuntimeOptions::device`](dotcompute_core::runtime::RuntimeOptions::device); none where there is no device.
    pub device: Option<Arc<dyn Backend>>,
    /// Why it was chosen.
    pub reason: String,
}

impl fmt::Debug for SelectedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen").field("kind", &self.kind).field("why", &self.reason).finish_non_exhaustive()
    }
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceSelectionError {
    /// The variable says something else.
    #[error("{DEVICE_ENV_VAR} is `{value}`; set it to `cuda`, `emulated` or `cpu`, or leave it away")]
    Unknown {
        /// What it says.
        value: String,
    },
    /// What was asked for cannot be had.
    #[error("opening the device that was asked for: {0}")]
    Backend(#[from] BackendError),
}

/// The device that the environment asks for; where it asks for none, the first GPU if there is one that can be used, and otherwise
/// none: ring kernels on threads need no device.
///
/// ```
/// use dotcompute_core::runtime::{Runtime, RuntimeOptions};
///
/// let chosen = dotcompute_cuda::device_selection::from_environment()?;
/// println!("device: {} ({})", chosen.kind, chosen.reason);
/// let options = chosen.device.into_iter().fold(RuntimeOptions::new(), RuntimeOptions::device);
/// let runtime = Runtime::with_options(options)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`DeviceSelectionError`]: the variable is none of its values, or names a device that cannot be opened.
pub fn from_environment() -> Result<SelectedDevice, DeviceSelectionError> {
    let value = std::env::var_os(DEVICE_ENV_VAR).unwrap_or_default();
    by_name(&value.to_string_lossy())
}

/// The device of this name: `cuda`, `emulated`, `cpu`; or, by an empty name, the best that there is.
///
/// # Errors
///
/// As for [`from_environment`].
pub fn by_name(name: &str) -> Result<SelectedDevice, DeviceSelectionError> {
    let asked = || format!("`{name}` was asked for");
    Ok(match name {
        "cpu" => SelectedDevice { kind: BackendKind::Cpu, device: None, reason: asked() },
        "cuda" => cuda(CudaBackend::new()?, asked()),
        "emulated" => SelectedDevice {
            kind: BackendKind::Emulated,
            device: Some(EmulatedBackend::new()?),
            reason: asked(),
        },
        "" => match CudaBackend::new() {
            Ok(backend) => cuda(backend, String::from("it is the first GPU of this machine")),
            Err(error) => SelectedDevice {
                kind: BackendKind::Cpu,
                device: None,
                reason: format!("no GPU can be used: {error}"),
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
    fn names_choose_and_others_are_told() {
        let chosen = by_name("cpu").unwrap();
        assert!(chosen.kind == BackendKind::Cpu && chosen.device.is_none());
        let chosen = by_name("emulated").unwrap();
        assert_eq!(chosen.device.unwrap().kind(), BackendKind::Emulated);
        let error = by_name("gpu").unwrap_err().to_string();
        assert!(error.contains("`gpu`") && error.contains("emulated"), "{error}");
        // With a GPU or without one, there is a choice and a reason.
        assert!(!by_name("").unwrap().reason.is_empty());
    }
}
