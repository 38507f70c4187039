//! The id of a device.

use std::fmt;

use crate::backend::BackendKind;

/// Identifies a device of this machine.
///
/// ```
/// use dotcompute_core::backend::BackendKind;
/// use dotcompute_core::memory::DeviceId;
///
/// assert_eq!(DeviceId { backend: BackendKind::Cuda, index: 1 }.to_string(), "cuda 1");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// The kind of device.
    pub backend: BackendKind,
    /// Index among the devices of this kind, from 0.
    pub index: u32,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.backend, self.index)
    }
}
