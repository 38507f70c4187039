//! Fault.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Why a message will never be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The handler panicked on it.
    HandlerPanicked,
    /// The handler returned an error for it.
    HandlerErrored,
    /// It was queued when its ring kernel failed.
    KernelFailed,
    /// It was queued when its ring kernel was aborted.
    Aborted,
    /// It was queued when a loop returned of its own accord.
    LoopEnded,
    /// It made room for a newer message (`Backpressure::DropOldest`).
    Evicted,
    /// A ring kernel sent it on, and whoever should take it had ended or was full.
    Undelivered,
}

impl Reason {
    /// All reasons, in the order their counters are kept.
    pub const ALL: [Self; 7] = [
        Self::HandlerPanicked,
        Self::HandlerErrored,
        Self::KernelFailed,
        Self::Aborted,
        Self::LoopEnded,
        Self::Evicted,
        Self::Undelivered,
    ];
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HandlerPanicked => "its handler panicked",
            Self::HandlerErrored => "its handler returned an error",
            Self::KernelFailed => "the ring kernel failed while the message was queued",
            Self::Aborted => "the ring kernel was aborted while the message was queued",
            Self::LoopEnded => "the ring kernel's loop returned while the message was queued",
            Self::Evicted => "a newer message took its place in a full ring",
            Self::Undelivered => "the receiver of this output had ended or was full",
        })
    }
}

/// A message that a ring kernel did not handle, and why. This is what an asker gets instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("ring kernel `{kernel}` did not handle a `{message_type}`: {reason}{}{cause}", if .cause.is_empty() { "" } else { ": " })]
pub struct Fault {
    /// The ring kernel's name.
    pub kernel: Arc<str>,
    /// The type name of the message.
    pub message_type: &'static str,
    /// The kind of cause.
    pub reason: Reason,
    /// The panic text or the error's own text, with its sources; empty where the reason says it all.
    pub cause: String,
}
