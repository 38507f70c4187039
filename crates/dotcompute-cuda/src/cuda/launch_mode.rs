//! Whether a launch returns before its kernel ends.
//!
//! Normally it does. With `CUDA_LAUNCH_BLOCKING=1`, and under compute-sanitizer, Nsight Compute and debuggers, it returns only after the kernel
//! has ended, which a resident kernel does not do by itself. Ring kernels are then resident only while they have messages
//! ([`LaunchMode::WhileBusy`]): each launch has a thread of its own, and ends when the input ring is empty or after a short time. Ring kernels
//! are slower then, but complete, and they take turns where the tool runs one kernel at a time.
//!
//! The mode is known from the environment, or from the first launch of the process: its kernel leaves the device after [`PROBE_STAY`], so a
//! launch that returns later than that was blocked.

use std::env;
use std::ffi::OsString;
use std::sync::OnceLock;
use std::time::Duration;

use dotcompute_core::environment::{CUDA_INJECTION64_PATH, CUDA_LAUNCH_BLOCKING};

use crate::resident_grid::ResidencyLimits;

/// How long a ring kernel stays without a message in a launch that finds out whether launches block.
pub(super) const PROBE_STAY: Duration = Duration::from_millis(200);

/// The limits while launches block: a ring kernel leaves soon after its last message, and lets others have their turn.
pub(super) const WHILE_BUSY: ResidencyLimits =
    ResidencyLimits { idle: Duration::from_micros(100), max_stay: Duration::from_millis(20) };

/// How long ring kernels stay on the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LaunchMode {
    /// Launches return at once. Ring kernels stay within the limits of the options.
    Resident,
    /// Launches block, for this reason. Ring kernels stay while they have messages.
    WhileBusy(String),
}

static MODE: OnceLock<LaunchMode> = OnceLock::new();

/// Returns the mode of this process, if it is known already.
pub(super) fn known() -> Option<&'static LaunchMode> {
    if MODE.get().is_none()
        && let Some(reason) = reason_in(env::vars_os())
    {
        record(LaunchMode::WhileBusy(reason));
    }
    MODE.get()
}

/// Whether ring kernels stay only while they have messages.
pub(super) fn is_while_busy() -> bool {
    matches!(known(), Some(LaunchMode::WhileBusy(_)))
}

/// Records what the first launch has shown.
pub(super) fn record(mode: LaunchMode) {
    let _ = MODE.set(mode);
}

/// Returns why launches block, if these environment variables say so.
pub(super) fn reason_in(variables: impl Iterator<Item = (OsString, OsString)>) -> Option<String> {
    // Set for their targets by Nsight Compute and by compute-sanitizer.
    const TOOLS: [(&str, &str); 2] =
        [("NV_COMPUTE_PROFILER_", "Nsight Compute"), ("NV_SANITIZER_", "compute-sanitizer")];
    variables.into_iter().find_map(|(name, value)| {
        let (name, value) = (name.to_string_lossy(), value.to_string_lossy());
        if name == CUDA_LAUNCH_BLOCKING && !matches!(&*value, "" | "0") {
            return Some(format!("{name}={value}"));
        }
        if name == CUDA_INJECTION64_PATH && value.to_lowercase().contains("sanitizer") {
            return Some(format!("compute-sanitizer is attached ({name}={value})"));
        }
        let tool = TOOLS.iter().find(|(prefix, _)| name.starts_with(prefix));
        tool.map(|(_, tool)| format!("{tool} is attached ({name} is set)"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_that_block_launches_are_noticed() {
        let reason = |name: &str, value: &str| {
            reason_in([("HOME".into(), "/".into()), (name.into(), value.into())].into_iter())
        };
        assert_eq!(reason("CUDA_LAUNCH_BLOCKING", "1").unwrap(), "CUDA_LAUNCH_BLOCKING=1");
        let sanitizer = "/opt/compute-sanitizer/libsanitizer-collection.so";
        assert!(
            reason("CUDA_INJECTION64_PATH", sanitizer).unwrap().contains("compute-sanitizer is attached")
        );
        assert!(reason("NV_COMPUTE_PROFILER_PERFWORKS_DIR", "").unwrap().contains("Nsight Compute"));
        for (name, value) in [
            ("CUDA_LAUNCH_BLOCKING", "0"),
            ("CUDA_LAUNCH_BLOCKING", ""),
            // Nsight Systems traces without blocking.
            ("CUDA_INJECTION64_PATH", "/opt/nsys/libToolsInjection64.so"),
        ] {
            assert_eq!(reason(name, value), None, "{name}={value}");
        }
    }
}
