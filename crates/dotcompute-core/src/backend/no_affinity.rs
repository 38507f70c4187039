//! Stands in for the crate `core_affinity` where the feature `pinning` is off: no core can be chosen.

use super::{BackendError, BackendKind};

/// A core of this machine; there are no values of this type.
#[derive(Clone, Copy)]
pub(super) enum CoreId {}

pub(super) fn get_core_ids() -> Option<Vec<CoreId>> {
    None
}

pub(super) fn set_for_current(core: CoreId) -> bool {
    match core {}
}

/// The error of a launch with [`Placement::Pinned`](crate::options::Placement::Pinned).
pub(super) fn error() -> BackendError {
    let problem =
        "pinning needs the feature `pinning` of the crate `dotcompute`; turn it on, or do not pin it";
    BackendError::Unsupported { backend: BackendKind::Cpu, problem: problem.into() }
}
