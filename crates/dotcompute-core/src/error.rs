//! The errors of the runtime. Each says what was being done, what went wrong and what to do next.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dotcompute_ring::CapacityError;
use thiserror::Error;

use crate::backend::error::BackendError;
pub use crate::fault::Fault;
use crate::lifecycle::State;
use crate::status::{Status, WaitCycle};

/// Any error of a handler; `?` converts to it.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// The result of a handler.
pub type HandlerResult = Result<(), HandlerError>;

/// Why a ring kernel was not launched. No resource is held.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The name is empty.
    #[error(
        "launching a ring kernel: its name is empty; give it a name that is not yet used in this runtime"
    )]
    EmptyName,
    /// The name is in use.
    #[error(
        "launching ring kernel `{kernel}`: the name is in use, by a ring kernel that is {state}; choose another name or terminate that one first"
    )]
    DuplicateName {
        /// The name.
        kernel: Arc<str>,
        /// The state of the ring kernel that uses the name.
        state: State,
    },
    /// The capacity of a ring is invalid.
    #[error("launching ring kernel `{kernel}`: its {ring} ring: {source}")]
    Capacity {
        /// The name.
        kernel: Arc<str>,
        /// `input` or `output`.
        ring: &'static str,
        /// Why the capacity is invalid.
        source: CapacityError,
    },
    /// Its messages are too large for the stack of a worker of the shared pool.
    #[error(
        "launching ring kernel `{kernel}`: messages of {message_bytes} bytes by value may take {needed} bytes of stack, and a worker of the \
         shared pool has {limit}; put what is large into a `Box` or a `Vec`, use `KernelOptions::dedicated`, or compile with optimization"
    )]
    MessageTooLarge {
        /// The name.
        kernel: Arc<str>,
        /// Size of the message or the output, whichever is larger.
        message_bytes: usize,
        /// Stack that handling may take, in bytes.
        needed: usize,
        /// Stack of a worker, in bytes.
        limit: usize,
    },
    /// The runtime has been shut down.
    #[error("launching ring kernel `{kernel}`: the runtime has been shut down; create a new one")]
    RuntimeClosed {
        /// The name.
        kernel: Arc<str>,
    },
    /// The options contradict each other.
    #[error("launching ring kernel `{kernel}`: {problem}; {advice}")]
    Options {
        /// The name.
        kernel: Arc<str>,
        /// The contradiction.
        problem: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// The factory panicked while it created the first state.
    #[error("launching ring kernel `{kernel}`: its factory panicked: {text}")]
    FactoryPanicked {
        /// The name.
        kernel: Arc<str>,
        /// The panic text.
        text: String,
    },
    /// The backend could not launch it.
    #[error("launching ring kernel `{kernel}`: {source}")]
    Backend {
        /// The name.
        kernel: Arc<str>,
        /// The error of the backend.
        source: BackendError,
    },
}

/// Why a lifecycle call was rejected or did not complete.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LifecycleError {
    /// The call is not allowed in the ring kernel's present state.
    #[error("calling `{call}` on ring kernel `{kernel}`: it is {state}; {advice}")]
    WrongState {
        /// The name.
        kernel: Arc<str>,
        /// Its state.
        state: State,
        /// The call.
        call: &'static str,
        /// What to do instead.
        advice: &'static str,
    },
    /// No ring kernel has this name.
    #[error("looking up ring kernel `{kernel}`: no such name{}; launch it first", known_names(.known))]
    UnknownKernel {
        /// The requested name.
        kernel: String,
        /// Some of the known names.
        known: Vec<Arc<str>>,
    },
    /// The message types differ from those of the ring kernel.
    #[error(
        "looking up ring kernel `{kernel}` with messages `{requested}`: its messages are `{actual}`; request a handle with those types"
    )]
    WrongType {
        /// The name.
        kernel: Arc<str>,
        /// The requested `input -> output`.
        requested: String,
        /// The actual `input -> output`.
        actual: String,
    },
    /// The ring kernel did not reach its next message boundary in time.
    #[error(
        "calling `{call}` on ring kernel `{kernel}`: it did not reach a message boundary within {waited:?}; {consequence}"
    )]
    Timeout {
        /// The name.
        kernel: Arc<str>,
        /// The call.
        call: &'static str,
        /// The time waited.
        waited: Duration,
        /// What is the case now.
        consequence: &'static str,
    },
    /// A call that waits for a ring kernel was made in a handler or loop of that ring kernel. It has taken effect as a request, without
    /// waiting.
    #[error(
        "calling `{call}` on ring kernel `{kernel}` inside its own handler: it was requested, and takes effect when the handler returns; the call did not wait for that. `stop` of the context ends a ring kernel from inside"
    )]
    OwnHandler {
        /// The name.
        kernel: Arc<str>,
        /// The call.
        call: &'static str,
    },
    /// The state of a ring kernel on a device could not be read or written.
    #[error("calling `{call}` on ring kernel `{kernel}`: {problem}")]
    DeviceState {
        /// The name.
        kernel: Arc<str>,
        /// The call.
        call: &'static str,
        /// What went wrong.
        problem: String,
    },
    /// Two ring kernels on one device could not be linked.
    #[error(
        "connecting ring kernel `{kernel}` to `{to}` on their device: {problem}; they are not connected, and the call can be repeated"
    )]
    Link {
        /// The name.
        kernel: Arc<str>,
        /// The name of the other one.
        to: Arc<str>,
        /// What went wrong.
        problem: String,
    },
    /// The ring kernels to be disconnected are not connected.
    #[error(
        "disconnecting ring kernel `{kernel}` from `{to}`: they are not connected; connect them first, or ignore this"
    )]
    NotConnected {
        /// The name.
        kernel: Arc<str>,
        /// The name of the other one.
        to: Arc<str>,
    },
    /// The ring kernels to be disconnected are joined by a link on their device.
    #[error(
        "disconnecting ring kernel `{kernel}` from `{to}`: a link on their device joins them, which stays until one of them ends; terminate one of them"
    )]
    Linked {
        /// The name.
        kernel: Arc<str>,
        /// The name of the other one.
        to: Arc<str>,
    },
    /// A connection from a ring kernel to itself.
    #[error(
        "connecting ring kernel `{kernel}` to itself: a full mailbox would deadlock; loop inside the handler instead"
    )]
    SelfConnection {
        /// The name.
        kernel: Arc<str>,
    },
}

fn known_names(known: &[Arc<str>]) -> String {
    if known.is_empty() {
        return String::from(" (none has been launched)");
    }
    let names: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    format!(" (known names: {})", names.join(", "))
}

/// Why a message was not accepted. The error returns the message.
#[derive(Error)]
#[error("sending a `{message_type}` to ring kernel `{kernel}`: {reason}")]
pub struct TellError<M> {
    /// The ring kernel's name.
    pub kernel: Arc<str>,
    /// The type name of the message.
    pub message_type: &'static str,
    /// The reason.
    pub reason: Refusal,
    /// The message, unchanged.
    pub message: M,
}

impl<M> TellError<M> {
    /// Returns the message that was not accepted.
    pub fn into_message(self) -> M {
        self.message
    }
}

// Not derived, so that messages need not implement `Debug`.
impl<M> fmt::Debug for TellError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TellError")
            .field("kernel", &self.kernel)
            .field("message_type", &self.message_type)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// Why a ring kernel did not accept a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The priority band is full, and the sender does not wait.
    #[error(
        "its mailbox is full ({capacity} messages in this priority band); slow down, raise its capacity, or choose another backpressure"
    )]
    Full {
        /// Capacity of the band, in messages.
        capacity: usize,
    },
    /// No slot became free in time.
    #[error(
        "its mailbox stayed full ({capacity} messages in this priority band) for {waited:?} (it is {status}); slow down or raise its capacity"
    )]
    TimedOut {
        /// Capacity of the band, in messages.
        capacity: usize,
        /// The time waited.
        waited: Duration,
        /// The ring kernel's state, and why it takes no message.
        status: Status,
    },
    /// The call would wait forever: the ring kernels on the way wait for each other.
    #[error(
        "it would wait forever in a cycle of ring kernels, {cycle}, of which each waits for the next; use `tell`, reply later with \
         `take_reply`, or ask from an async loop that receives at the same time"
    )]
    Cycle {
        /// The ring kernels.
        cycle: WaitCycle,
    },
    /// The stack of the calling thread may be too small for the copies of a large message that the call makes.
    #[error(
        "messages of {message_bytes} bytes by value may take {needed} bytes of stack, and its caller has {remaining} left; put what is \
         large into a `Box` or a `Vec`, call from a thread with a larger stack, or compile with optimization"
    )]
    StackTooSmall {
        /// Size of the message, or of the reply or output if that is larger.
        message_bytes: usize,
        /// Stack that the call may take, in bytes.
        needed: usize,
        /// Stack that the calling thread has left, in bytes.
        remaining: usize,
    },
    /// As many handlers on the shared pool block at present as its options allow.
    #[error(
        "its caller is a handler on the shared pool, where {limit} handlers block already; place ring kernels that ask others on \
         dedicated threads, or raise `RuntimeOptions::max_blocked_handlers`"
    )]
    PoolExhausted {
        /// The limit, in handlers.
        limit: usize,
    },
    /// It was never activated.
    #[error("it is {state} and was never activated; call `activate` first")]
    NotActivated {
        /// Its state.
        state: State,
    },
    /// It has ended or is ending.
    #[error("it is {state} and accepts no more messages; launch another")]
    Ended {
        /// Its state.
        state: State,
    },
}

/// Why an ask has no reply.
#[derive(Error)]
#[non_exhaustive]
pub enum AskError<M> {
    /// The message was not accepted. The error returns it.
    #[error(transparent)]
    NotSent(TellError<M>),
    /// The message was accepted, and handling it failed.
    #[error("asking: {0}")]
    Failed(Fault),
    /// The handler returned without a reply.
    #[error(
        "asking ring kernel `{kernel}`: its handler returned without a reply to a `{message_type}`; call `ctx.reply` in the handler, or use `tell`"
    )]
    NoReply {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The type name of the message.
        message_type: &'static str,
    },
    /// No reply arrived in time. The message may still be handled; a later reply is dropped.
    #[error(
        "asking ring kernel `{kernel}`: no reply to a `{message_type}` after {waited:?} (it is {status}; {queued} messages queued)"
    )]
    TimedOut {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The type name of the message.
        message_type: &'static str,
        /// The time waited.
        waited: Duration,
        /// The ring kernel's state, and why it takes no message.
        status: Status,
        /// Messages queued in its mailbox.
        queued: u64,
    },
    /// The message was accepted, and then the ring kernels came to wait for each other: no reply can arrive.
    #[error(
        "asking ring kernel `{kernel}`: no reply to a `{message_type}` can arrive, since ring kernels wait for each other in a cycle, \
         {cycle}; use `tell`, reply later with `take_reply`, or ask from an async loop that receives at the same time"
    )]
    Cycle {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The type name of the message.
        message_type: &'static str,
        /// The ring kernels.
        cycle: WaitCycle,
    },
    /// The ring kernel ended before it replied.
    #[error("asking ring kernel `{kernel}`: it is {state} and will not reply to a `{message_type}`")]
    Ended {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The type name of the message.
        message_type: &'static str,
        /// The ring kernel's state.
        state: State,
    },
}

impl<M> fmt::Debug for AskError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(error) => f.debug_tuple("NotSent").field(error).finish(),
            Self::Failed(fault) => f.debug_tuple("Failed").field(fault).finish(),
            // The text of the other variants contains all their fields.
            other => write!(f, "AskError({other})"),
        }
    }
}

/// Why no output was received.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The output ring is empty at present.
    #[error("receiving from ring kernel `{kernel}`: its output ring is empty")]
    Empty {
        /// The ring kernel's name.
        kernel: Arc<str>,
    },
    /// The output ring stayed empty.
    #[error(
        "receiving from ring kernel `{kernel}`: its output ring stayed empty for {waited:?} (it is {status})"
    )]
    TimedOut {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The time waited.
        waited: Duration,
        /// The ring kernel's state, and why it takes no message.
        status: Status,
    },
    /// The stack of the calling thread may be too small for the copies of a large output that the call makes.
    #[error(
        "receiving from ring kernel `{kernel}`: outputs of {output_bytes} bytes by value may take {needed} bytes of stack, and the caller \
         has {remaining} left; put what is large into a `Box` or a `Vec`, call from a thread with a larger stack, or compile with \
         optimization"
    )]
    StackTooSmall {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// Size of the output, or of the message if that is larger.
        output_bytes: usize,
        /// Stack that the call may take, in bytes.
        needed: usize,
        /// Stack that the calling thread has left, in bytes.
        remaining: usize,
    },
    /// The caller is a handler on the shared pool, where as many handlers block at present as its options allow.
    #[error(
        "receiving from ring kernel `{kernel}`: its output ring is empty, and the caller is a handler on the shared pool, where {limit} \
         handlers block already; connect the ring kernels, or raise `RuntimeOptions::max_blocked_handlers`"
    )]
    PoolExhausted {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The limit, in handlers.
        limit: usize,
    },
    /// The caller is a handler, and the ring kernels on the way wait for each other.
    #[error(
        "receiving from ring kernel `{kernel}`: no output can arrive, since ring kernels wait for each other in a cycle, {cycle}; connect \
         the ring kernels instead of receiving in a handler"
    )]
    Cycle {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The ring kernels.
        cycle: WaitCycle,
    },
    /// It has ended and its output ring is empty, so no output can arrive.
    #[error("receiving from ring kernel `{kernel}`: it is {state} and its output ring is empty")]
    Ended {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The ring kernel's state.
        state: State,
    },
    /// It was never activated, so no output can arrive.
    #[error(
        "receiving from ring kernel `{kernel}`: it is {state} and was never activated; call `activate` first"
    )]
    NotActivated {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The ring kernel's state.
        state: State,
    },
}

/// A handler sent more outputs than may wait for free slots.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "sending outputs: {dropped} more than the {limit} that may wait for free slots were dropped; send fewer per message, have them received \
     or connected, or raise `KernelOptions::queued_output_limit`"
)]
pub struct TooManyOutputs {
    /// Outputs dropped.
    pub dropped: u64,
    /// The limit, in outputs.
    pub limit: usize,
}

/// Some ring kernels did not end in time when the runtime was shut down.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("shutting down the runtime: {} of its ring kernels did not end within {waited:?}: {}; their handlers did not return, and their threads keep running", .stuck.len(), .stuck.join(", "))]
pub struct ShutdownError {
    /// The names of those ring kernels.
    pub stuck: Vec<String>,
    /// The time waited.
    pub waited: Duration,
}
