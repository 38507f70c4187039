//! The attributes of a ring kernel's launches.

use cudarc::driver::sys;
use dotcompute_core::backend::device_port::Shape;

use crate::Architecture;

/// The first architecture with memory synchronization domains.
const FIRST_WITH_DOMAINS: Architecture = Architecture { major: 9, minor: 0 };

/// Returns the attributes of a ring kernel's launches.
pub(super) fn launch_attributes(shape: Shape, architecture: Architecture) -> Vec<sys::CUlaunchAttribute> {
    let attribute = |id, value| sys::CUlaunchAttribute { id, pad: [0; 4], value };
    let mut attributes = Vec::new();
    if matches!(shape, Shape::Grid { .. }) {
        let value = sys::CUlaunchAttributeValue { cooperative: 1 };
        attributes.push(attribute(sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, value));
    }
    // Without a domain of its own, a system-scope release of the ring kernel waits for the writes in flight of every other kernel, such as
    // those of a matrix product (CUDA C++ Programming Guide, "Memory Synchronization Domains").
    if architecture >= FIRST_WITH_DOMAINS {
        let remote = sys::CUlaunchMemSyncDomain::CU_LAUNCH_MEM_SYNC_DOMAIN_REMOTE;
        let value = sys::CUlaunchAttributeValue { memSyncDomain: remote };
        attributes.push(attribute(sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_MEM_SYNC_DOMAIN, value));
    }
    attributes
}
