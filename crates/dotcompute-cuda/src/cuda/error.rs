//! Conversion of driver errors to [`BackendError`].

use dotcompute_core::backend::{BackendError, BackendKind};

/// Returns a [`BackendError::Device`] of the CUDA backend: `doing` names the operation, `problem` what went wrong.
pub(super) fn device_error(doing: &str, problem: &dyn std::fmt::Display) -> BackendError {
    BackendError::Device { backend: BackendKind::Cuda, doing: doing.to_owned(), problem: problem.to_string() }
}
