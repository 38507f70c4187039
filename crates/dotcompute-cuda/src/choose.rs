//! Choosing a device for a runtime: as the environment says, or as the machine allows.

use std::fmt;
use std::sync::Arc;

use dotcompute_core::backend::{Backend, BackendError, BackendKind};

use crate::cuda::CudaBackend;
use crate::emulated::EmulatedBackend;

/// The environment variable that chooses: `cuda`, `emulated` or `cpu`.
pub const VARIABLE: &str = "DOTCOMPUTE_DEVICE";

/// A choice, with its reason.
pub struct Chosen {
    /// Where ring kernels for a device run; [`BackendKind::Cpu`] where there is no device.
    pub kind: BackendKind,
    /// For [`RuntimeOptions::device`](dotcompute_core::runtime::RuntimeOptions::device); none where there is no device.
    pub device: Option<Arc<dyn Backend>>,
    /// Why it was chosen.
    pub why: String,
}

impl fmt::Debug for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chosen").field("kind", &self.kind).field("why", &self.why).finish_non_exhaustive()
    }
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChooseError {
    /// The variable says something else.
    #[error("{VARIABLE} is `{value}`; set it to `cuda`, `emulated` or `cpu`, or leave it away")]
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
/// let chosen = dotcompute_cuda::choose::from_environment()?;
/// println!("device: {} ({})", chosen.kind, chosen.why);
/// let options = chosen.device.into_iter().fold(RuntimeOptions::new(), RuntimeOptions::device);
/// let runtime = Runtime::with_options(options)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// [`ChooseError`]: the variable is none of its values, or names a device that cannot be opened.
pub fn from_environment() -> Result<Chosen, ChooseError> {
    let value = std::env::var_os(VARIABLE).unwrap_or_default();
    by_name(&value.to_string_lossy())
}

/// The device of this name: `cuda`, `emulated`, `cpu`; or, by an empty name, the best that there is.
///
/// # Errors
///
/// As for [`from_environment`].
pub fn by_name(name: &str) -> Result<Chosen, ChooseError> {
    let asked = || format!("`{name}` was asked for");
    Ok(match name {
        "cpu" => Chosen { kind: BackendKind::Cpu, device: None, why: asked() },
        "cuda" => cuda(CudaBackend::new()?, asked()),
        "emulated" => {
            Chosen { kind: BackendKind::Emulated, device: Some(EmulatedBackend::new()?), why: asked() }
        }
        "" => match CudaBackend::new() {
            Ok(backend) => cuda(backend, String::from("it is the first GPU of this machine")),
            Err(error) => {
                Chosen { kind: BackendKind::Cpu, device: None, why: format!("no GPU can be used: {error}") }
            }
        },
        other => return Err(ChooseError::Unknown { value: other.to_owned() }),
    })
}

fn cuda(backend: Arc<CudaBackend>, why: String) -> Chosen {
    let device = backend.device();
    let why = format!("{why}: {}, device {}", device.name, device.index);
    Chosen { kind: BackendKind::Cuda, device: Some(backend), why }
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
        assert!(!by_name("").unwrap().why.is_empty());
    }
}
