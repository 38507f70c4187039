//! Hardware queues: how many streams can work beside a resident kernel.
//!
//! The driver maps streams to hardware queues, of which a process has 8 by default and at most 32 (`CUDA_DEVICE_MAX_CONNECTIONS`; CUDA C++
//! Programming Guide, "CUDA Environment Variables"). Streams beyond that number share a queue, and work at its head delays what is behind
//! it, also in other streams. Behind a resident kernel that is forever.

use std::env;
use std::fmt;
use std::sync::OnceLock;

use cudarc::driver::sys;
use dotcompute_core::environment::CUDA_DEVICE_MAX_CONNECTIONS;

/// The number of queues without the variable.
const DEFAULT: u32 = 8;
/// The largest number that the driver accepts.
const MAX: u32 = 32;

/// The hardware queues of each device of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HardwareQueues {
    /// The number of queues: 1 to 32.
    pub count: u32,
    /// Why there are that many.
    pub reason: QueuesReason,
}

/// Why the driver has as many queues as it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueuesReason {
    /// The variable was set when the driver was initialised.
    Variable,
    /// The variable was not set. This process had several threads by then, so DotCompute did not set it.
    Threads,
    /// Other code of the process had initialised the driver before, without the variable.
    InitializedBefore,
}

static IN_EFFECT: OnceLock<HardwareQueues> = OnceLock::new();

impl HardwareQueues {
    /// Records what is in effect. The first call of the process decides: the driver reads the variable once.
    pub(super) fn record(initialized_before: bool) {
        let value = env::var(CUDA_DEVICE_MAX_CONNECTIONS).ok();
        IN_EFFECT.get_or_init(|| Self::from_value(value.as_deref(), initialized_before));
    }

    fn from_value(value: Option<&str>, initialized_before: bool) -> Self {
        match value.and_then(|value| value.trim().parse::<u32>().ok()) {
            Some(count) => Self { count: count.clamp(1, MAX), reason: QueuesReason::Variable },
            None if initialized_before => Self { count: DEFAULT, reason: QueuesReason::InitializedBefore },
            None => Self { count: DEFAULT, reason: QueuesReason::Threads },
        }
    }

    /// Returns as many queues as the variable would request.
    #[cfg(test)]
    pub(crate) fn of(count: u32) -> Self {
        Self { count, reason: QueuesReason::Variable }
    }

    /// Returns what is in effect. Before [`Driver::open`](super::Driver::open): the default.
    pub(crate) fn in_effect() -> Self {
        IN_EFFECT.get().copied().unwrap_or_else(|| Self::from_value(None, false))
    }

    /// Returns how to get more queues, or what to do where there are no more.
    pub fn advice(self) -> &'static str {
        match self.reason {
            QueuesReason::Variable if self.count == MAX => {
                "terminate a ring kernel, or let one ring kernel do the work of several"
            }
            QueuesReason::Variable => {
                "start the program with CUDA_DEVICE_MAX_CONNECTIONS=32, or terminate a ring kernel"
            }
            QueuesReason::Threads => {
                "call dotcompute_cuda::driver::request_resident_settings first in main, or start the program with \
                 CUDA_DEVICE_MAX_CONNECTIONS=32; or terminate a ring kernel"
            }
            QueuesReason::InitializedBefore => {
                "other code of this process initialised CUDA before DotCompute: import pydotcompute before it, or start the program with \
                 CUDA_DEVICE_MAX_CONNECTIONS=32; or terminate a ring kernel"
            }
        }
    }
}

impl fmt::Display for HardwareQueues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = match self.reason {
            QueuesReason::Variable => "CUDA_DEVICE_MAX_CONNECTIONS",
            QueuesReason::Threads => "the default: CUDA_DEVICE_MAX_CONNECTIONS is not set",
            QueuesReason::InitializedBefore => {
                "the default: other code initialised CUDA first, without CUDA_DEVICE_MAX_CONNECTIONS"
            }
        };
        write!(f, "{} hardware queues ({reason})", self.count)
    }
}

/// Returns whether code of this process has initialised the driver, whose library is present.
pub(super) fn is_initialized() -> bool {
    let mut count = 0;
    // SAFETY: the caller has checked that the library is present; `count` is writable. Before initialisation this is an error.
    let counted = unsafe { sys::cuDeviceGetCount(&raw mut count) };
    counted != sys::CUresult::CUDA_ERROR_NOT_INITIALIZED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_queues_follows_the_variable_within_the_limits_of_the_driver() {
        let of = |value, before| HardwareQueues::from_value(value, before);
        for (value, count) in [("1", 1), (" 12 ", 12), ("32", 32), ("0", 1), ("100", 32)] {
            assert_eq!(of(Some(value), true), HardwareQueues { count, reason: QueuesReason::Variable });
        }
        for value in [None, Some(""), Some("many")] {
            assert_eq!(of(value, false), HardwareQueues { count: 8, reason: QueuesReason::Threads });
            assert_eq!(of(value, true), HardwareQueues { count: 8, reason: QueuesReason::InitializedBefore });
        }
        assert!(of(None, true).advice().contains("import pydotcompute before it"));
        assert!(!of(Some("32"), false).advice().contains("CUDA_DEVICE_MAX_CONNECTIONS"), "there are no more");
    }
}
