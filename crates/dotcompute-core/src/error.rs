//! Every error of the runtime: what was being done, to what, what went wrong, what to do next.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dotcompute_ring::CapacityError;
use thiserror::Error;

use crate::backend::error::BackendError;
pub use crate::fault::Fault;
use crate::lifecycle::State;

/// What a handler may fail with: any error, by `?`.
pub type HandlerError = Box<dyn std::error::Error + Send + Sync>;

/// What a handler returns.
pub type HandlerResult = Result<(), HandlerError>;

/// Why a ring kernel could not be launched. Nothing was launched and no resource is held.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// The name is empty.
    #[error(
        "launching a ring kernel: its name is empty; give it a name that is not yet used in this runtime"
    )]
    EmptyName,
    /// The name is taken.
    #[error(
        "launching ring kernel `{kernel}`: the name is taken by one that is {state}; choose another name or terminate that one first"
    )]
    DuplicateName {
        /// The name.
        kernel: Arc<str>,
        /// What the holder of the name is doing.
        state: State,
    },
    /// A ring of that capacity cannot be made.
    #[error("launching ring kernel `{kernel}`: its {ring} ring cannot be made: {source}")]
    Capacity {
        /// The name.
        kernel: Arc<str>,
        /// `input` or `output`.
        ring: &'static str,
        /// What is wrong with the capacity.
        source: CapacityError,
    },
    /// The runtime has been shut down.
    #[error("launching ring kernel `{kernel}`: the runtime has been shut down; make a new one")]
    RuntimeClosed {
        /// The name.
        kernel: Arc<str>,
    },
    /// The options do not fit together.
    #[error("launching ring kernel `{kernel}`: {problem}; {advice}")]
    Options {
        /// The name.
        kernel: Arc<str>,
        /// What does not fit.
        problem: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// The factory panicked while making the first state.
    #[error("launching ring kernel `{kernel}`: making its state panicked: {text}")]
    FactoryPanicked {
        /// The name.
        kernel: Arc<str>,
        /// The panic text.
        text: String,
    },
    /// The backend could not take it.
    #[error("launching ring kernel `{kernel}`: {source}")]
    Backend {
        /// The name.
        kernel: Arc<str>,
        /// What the backend says.
        source: BackendError,
    },
}

/// Why a call on a ring kernel's life was refused or did not finish.
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
        /// The name asked for.
        kernel: String,
        /// Some of the names there are.
        known: Vec<Arc<str>>,
    },
    /// The ring kernel exchanges messages of other types.
    #[error(
        "looking up ring kernel `{kernel}` with messages `{requested}`: it takes and gives `{actual}`; ask for those types"
    )]
    WrongType {
        /// The name.
        kernel: Arc<str>,
        /// `input -> output` as asked for.
        requested: String,
        /// `input -> output` as launched.
        actual: String,
    },
    /// The ring kernel did not reach its next message boundary in time.
    #[error(
        "calling `{call}` on ring kernel `{kernel}`: it had not come to a message boundary after {waited:?}; {consequence}"
    )]
    Timeout {
        /// The name.
        kernel: Arc<str>,
        /// The call.
        call: &'static str,
        /// How long was waited.
        waited: Duration,
        /// What holds now.
        consequence: &'static str,
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
    /// Two ring kernels of a device could not be connected there.
    #[error(
        "connecting ring kernel `{kernel}` to `{to}` on their device: {problem}; they are not connected, and it can be tried again"
    )]
    Link {
        /// The name.
        kernel: Arc<str>,
        /// The other's name.
        to: Arc<str>,
        /// What went wrong.
        problem: String,
    },
    /// A connection that would feed a ring kernel with its own output.
    #[error(
        "connecting ring kernel `{kernel}` to itself: a full ring would wait for itself for ever; let the handler loop instead"
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
    format!(" (there are: {})", names.join(", "))
}

/// Why a message was not accepted. It comes back in the error: nothing is lost.
#[derive(Error)]
#[error("sending a `{message_type}` to ring kernel `{kernel}`: {reason}")]
pub struct TellError<M> {
    /// The ring kernel's name.
    pub kernel: Arc<str>,
    /// The type name of the message.
    pub message_type: &'static str,
    /// Why.
    pub reason: Refusal,
    /// The message, unharmed.
    pub message: M,
}

impl<M> TellError<M> {
    /// The message that was not accepted.
    pub fn into_message(self) -> M {
        self.message
    }
}

// By hand, so that messages need not implement `Debug`.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The priority band is full, and the ring kernel rejects what does not fit.
    #[error(
        "its input ring is full ({capacity} messages in this priority band); slow down, raise its capacity, or choose another backpressure"
    )]
    Full {
        /// Messages the band holds.
        capacity: usize,
    },
    /// There was no room in time.
    #[error(
        "its input ring stayed full ({capacity} messages in this priority band) for {waited:?}; slow down or raise its capacity"
    )]
    TimedOut {
        /// Messages the band holds.
        capacity: usize,
        /// How long was waited.
        waited: Duration,
    },
    /// It was never activated.
    #[error("it is {state} and was never activated; call `activate` first")]
    NotActivated {
        /// Its state.
        state: State,
    },
    /// It has ended, or is about to.
    #[error("it is {state} and takes no more messages; launch another")]
    Ended {
        /// Its state.
        state: State,
    },
}

/// Why an ask has no answer.
#[derive(Error)]
#[non_exhaustive]
pub enum AskError<M> {
    /// The question was not accepted; the message comes back.
    #[error(transparent)]
    NotSent(TellError<M>),
    /// The question was accepted, and handling it failed.
    #[error("asking: {0}")]
    Failed(Fault),
    /// The handler ended without an answer.
    #[error(
        "asking ring kernel `{kernel}`: its handler returned without a reply to a `{message_type}`; call `ctx.reply` in the handler, or use `tell`"
    )]
    NoReply {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The type name of the message.
        message_type: &'static str,
    },
    /// There was no answer in time. The question may still be handled; its answer will be thrown away.
    #[error(
        "asking ring kernel `{kernel}`: no answer to a `{message_type}` after {waited:?} (it is {state}, {queued} messages queued)"
    )]
    TimedOut {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The type name of the message.
        message_type: &'static str,
        /// How long was waited.
        waited: Duration,
        /// The ring kernel's state.
        state: State,
        /// Messages waiting in its input.
        queued: u64,
    },
    /// The ring kernel ended while the question was in its hands.
    #[error("asking ring kernel `{kernel}`: it is {state} and will not answer a `{message_type}`")]
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
            // The others hold nothing that their text does not say.
            other => write!(f, "AskError({other})"),
        }
    }
}

/// Why nothing was received.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The output ring is empty just now.
    #[error("receiving from ring kernel `{kernel}`: its output ring is empty")]
    Empty {
        /// The ring kernel's name.
        kernel: Arc<str>,
    },
    /// The output ring stayed empty.
    #[error(
        "receiving from ring kernel `{kernel}`: its output ring stayed empty for {waited:?} (it is {state})"
    )]
    TimedOut {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// How long was waited.
        waited: Duration,
        /// The ring kernel's state.
        state: State,
    },
    /// It has ended and its output ring is empty: nothing will ever come.
    #[error("receiving from ring kernel `{kernel}`: it is {state} and its output ring is empty")]
    Ended {
        /// The ring kernel's name.
        kernel: Arc<str>,
        /// The ring kernel's state.
        state: State,
    },
    /// It was never activated, so nothing can come.
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

/// Some ring kernels did not end in time when the runtime was shut down.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("shutting down the runtime: {} of its ring kernels had not ended after {waited:?}: {}; their handlers do not return, and their threads are left behind", .stuck.len(), .stuck.join(", "))]
pub struct ShutdownError {
    /// The names of those that had not.
    pub stuck: Vec<String>,
    /// How long was waited.
    pub waited: Duration,
}

/// The text of a panic's payload.
pub(crate) fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        String::from("a panic whose payload is not text")
    }
}

/// An error's text followed by those of its sources.
pub(crate) fn error_text(error: &HandlerError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
