//! Faults: which message was not handled, and why.

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

/// Why a message will never be handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The handler panicked.
    HandlerPanicked,
    /// The handler returned an error.
    HandlerErrored,
    /// It was queued when its ring kernel failed.
    KernelFailed,
    /// It was queued when its ring kernel was aborted.
    Aborted,
    /// It was queued when the loop of its ring kernel returned: without being told to, or before it had received all messages.
    LoopEnded,
    /// It was dropped as the oldest message of a full mailbox (`Backpressure::DropOldest`).
    Evicted,
    /// It was an output whose destination had ended or was full.
    Undelivered,
}

impl Reason {
    /// All reasons, in the order of their counters.
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
            Self::Evicted => "the mailbox was full and dropped its oldest message",
            Self::Undelivered => "the destination of this output had ended or was full",
        })
    }
}

/// A message that a ring kernel did not handle, and the reason. Completes the caller's request in place of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("ring kernel `{kernel}` did not handle a `{message_type}`: {reason}{}{cause}", if .cause.is_empty() { "" } else { ": " })]
pub struct Fault {
    /// The ring kernel's name.
    pub kernel: Arc<str>,
    /// The type name of the message.
    pub message_type: &'static str,
    /// The kind of cause.
    pub reason: Reason,
    /// The panic text, or the error text with its sources. Empty if the reason is sufficient.
    pub cause: String,
}
