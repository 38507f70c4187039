//! A ring kernel for a device, and the interface through which the runtime drives it.
//!
//! Everything that does not need the device stays on the host: mailbox, backpressure, reply slots, connections, supervision and
//! accounting. One host task per ring kernel, its *device proxy*, uses a [`DevicePort`]. A port therefore has a single user, a device sees
//! one producer and one consumer, and a backend only moves records and obeys commands.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::error::BackendError;
use crate::message::MessageHeader;
use crate::message::record::RecordLayout;

/// A ring kernel for a device, with everything that a backend needs to make it resident.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeviceProgram {
    /// The handler, before compilation.
    pub code: DeviceCode,
    /// Name of the handler in the code: `extern "C" __device__ int32_t entry(Ctx*, State*, const Input*, Output*)`.
    pub entry: Cow<'static, str>,
    /// Initial value of the state, at launch and after each restart.
    pub state: StateImage,
    /// Layout of its messages.
    pub input: RecordLayout,
    /// Layout of its replies and outputs.
    pub output: RecordLayout,
    /// How many threads handle a message.
    pub shape: Shape,
    /// Capacity of the device's input ring, in messages. Further messages wait in the mailbox on the host, by priority.
    pub queue_capacity: usize,
    /// What the device does by itself after a handler has reported an error.
    pub after_fault: AfterFault,
    /// Whether floating-point arithmetic may be faster than the source text says, and differ from it in the last bits.
    pub fast_math: bool,
    /// Records of the handler's text that its messages and state do not name, if the text was made from Rust.
    pub records: Arc<[RecordLayout]>,
    /// Texts of the faults of a Rust handler: its code `i32::MIN + n` has text `n`.
    pub faults: Arc<[String]>,
}

/// A handler as text, or as a compiler's intermediate code.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceCode {
    /// CUDA C++ text. The C structs of the messages are prepended to it.
    CudaCpp {
        /// Name of the file, for compile errors.
        file: Cow<'static, str>,
        /// The text.
        text: Cow<'static, str>,
    },
    /// CUDA C++ text that calls code compiled by another front end. Requires a linker.
    Linked {
        /// Name of the text, for compile errors.
        file: Cow<'static, str>,
        /// The text. It declares the functions that it calls.
        text: Cow<'static, str>,
        /// Name of the compiled part, for link errors.
        part: Cow<'static, str>,
        /// The compiled part, as NVIDIA LTO-IR for the architecture of the device it is launched on.
        lto_ir: Vec<u8>,
    },
}

/// Initial value of a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateImage {
    /// The first bytes.
    pub bytes: Vec<u8>,
    /// Total size in bytes. Bytes beyond `bytes` start as zeros. 0 for a handler without state.
    pub size: usize,
    /// Required alignment on the device.
    pub align: usize,
    /// The C struct, if the state is a record.
    pub layout: Option<RecordLayout>,
}

/// How many threads handle a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// One block, each of whose threads handles its own message: for small messages whose order matters only between batches.
    Thread {
        /// Threads, 1 to 1024.
        threads: u32,
    },
    /// One block, all of whose threads share each message: for micro-batches.
    Block {
        /// Threads, 1 to 1024.
        threads: u32,
    },
    /// Several blocks that share each message, with a barrier across the grid: for algorithms that use the whole device.
    Grid {
        /// Blocks. All of them must be resident at once.
        blocks: u32,
        /// Threads per block, 1 to 1024.
        threads: u32,
    },
}

impl Default for Shape {
    /// One block of 32 threads that share each message.
    fn default() -> Self {
        Self::Block { threads: 32 }
    }
}

impl Shape {
    /// Number of blocks in the launch.
    #[must_use]
    pub const fn blocks(self) -> u32 {
        match self {
            Self::Thread { .. } | Self::Block { .. } => 1,
            Self::Grid { blocks, .. } => blocks,
        }
    }

    /// Number of threads per block.
    #[must_use]
    pub const fn threads(self) -> u32 {
        match self {
            Self::Thread { threads } | Self::Block { threads } | Self::Grid { threads, .. } => threads,
        }
    }
}

/// What a device does by itself after a handler has reported an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AfterFault {
    /// Handle the next message: for ring kernels that are resumed in any case.
    Continue,
    /// Handle no message until the next command: the host decides between a restart and an end.
    Hold,
}

/// A command to a ring kernel on a device, obeyed at the next message boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceCommand {
    /// Handle messages.
    Run,
    /// Handle no messages, stay on the device, and become [`Paused`](DeviceState::Paused), or remain [`Faulted`](DeviceState::Faulted).
    Pause,
    /// Leave the device and become [`Stopped`](DeviceState::Stopped). Messages in the device's ring are not handled.
    Stop,
}

/// State of a ring kernel on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceState {
    /// Waiting for its first command.
    Launched,
    /// Handling messages or waiting for them, resident or about to be relaunched.
    Running,
    /// Paused by command: no handler is running.
    Paused,
    /// Holding after a fault ([`AfterFault::Hold`]).
    Faulted,
    /// It has left the device by command.
    Stopped,
    /// It is lost: the device, its context or its memory failed, or its heartbeat stopped. The text gives the cause.
    Lost(String),
}

/// A message to be posted to a device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceMessage<'a> {
    /// Sequence number: its position in the order of posting, from 0.
    pub sequence: u64,
    /// Its header.
    pub header: MessageHeader,
    /// Whether a caller waits for a reply.
    pub wants_reply: bool,
    /// Its bytes. Their number is the size of the input layout.
    pub payload: &'a [u8],
}

/// An event on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceEvent<'a> {
    /// The handler sent an output while it handled the message with this sequence number.
    Sent {
        /// Sequence number of the current message.
        sequence: u64,
        /// The output's bytes.
        output: &'a [u8],
        /// Links that have delivered it already, one bit each.
        linked: u8,
    },
    /// The handler replied to the message with this sequence number.
    Replied {
        /// Sequence number of the current message.
        sequence: u64,
        /// The reply's bytes.
        output: &'a [u8],
    },
    /// The handler replied to a message without a caller that waits, or over a link. The reply was dropped.
    UnaskedReply,
    /// The handler reported an error for the message with this sequence number.
    Failed {
        /// Sequence number of the message.
        sequence: u64,
        /// Return value of the handler; not 0.
        code: i32,
    },
    /// Like [`Sent`](Self::Sent), for a message that arrived over a link.
    LinkedSent {
        /// The message's priority.
        priority: u8,
        /// The output's bytes.
        output: &'a [u8],
        /// Links that have delivered it already, one bit each.
        linked: u8,
    },
    /// Like [`Failed`](Self::Failed), for a message that arrived over a link.
    LinkedFailed {
        /// The message's priority.
        priority: u8,
        /// Return value of the handler; not 0.
        code: i32,
        /// The message's bytes.
        message: &'a [u8],
    },
    /// All messages with lower sequence numbers are completed, successfully unless they [`Failed`](Self::Failed).
    Done {
        /// The first sequence number that is not completed.
        up_to: u64,
        /// Total time in the handlers of these messages, if the device measures it.
        handler_time: Option<Duration>,
    },
}

/// The device proxy's access to a ring kernel on a device.
///
/// # Contract
///
/// - No method waits, and none makes a driver call per message.
/// - Messages are handled in the order of posting ([`Shape::Thread`]: batches in order).
/// - The events of a message come before the [`Done`](DeviceEvent::Done) that covers it, in the order in which the handler caused them. The
///   `Done` of a message is visible before any later state.
/// - While events are not polled, the device delays further messages. It drops none.
/// - Dropping the port makes the ring kernel leave the device, at a message boundary if it can still reach one.
pub trait DevicePort: Send {
    /// Returns how many messages can be posted now.
    fn free_slots(&self) -> usize;

    /// Posts a message. The caller must have checked that a slot is free.
    fn post(&mut self, message: DeviceMessage<'_>);

    /// Takes the next event.
    fn next_event(&mut self) -> Option<DeviceEvent<'_>>;

    /// Whether an event is available.
    fn has_event(&self) -> bool;

    /// Returns the state of the ring kernel.
    fn state(&self) -> DeviceState;

    /// Issues a command, which replaces the previous one.
    fn command(&mut self, command: DeviceCommand);

    /// Rebuilds the state from its image. Called while it is [`Faulted`](DeviceState::Faulted).
    ///
    /// # Errors
    ///
    /// [`BackendError`] of the device. The ring kernel then fails.
    fn reset_state(&mut self) -> Result<(), BackendError>;

    /// Reads the bytes of the state. Called while it is [`Launched`](DeviceState::Launched), [`Paused`](DeviceState::Paused) or
    /// [`Faulted`](DeviceState::Faulted).
    ///
    /// # Errors
    ///
    /// [`BackendError`] of the device.
    fn read_state(&mut self) -> Result<Vec<u8>, BackendError>;

    /// Overwrites the state. Called in the same states as [`read_state`](Self::read_state).
    ///
    /// # Errors
    ///
    /// [`BackendError`] of the device, which checks the size.
    fn write_state(&mut self, bytes: &[u8]) -> Result<(), BackendError>;

    /// Returns the ring kernel as its peers on the device see it. `None` if the device has no links.
    fn peer(&self) -> Option<Arc<dyn DevicePeer>> {
        None
    }

    /// Closes the links to this ring kernel without waiting. `None` while a peer may still send; then the number of messages in them.
    fn close_links(&mut self) -> Option<u64> {
        Some(0)
    }

    /// Passes the bytes of the messages in closed links to `each`, oldest first. Called once it is stopped or lost.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if they cannot be read.
    fn drain_links(&mut self, _each: &mut dyn FnMut(&[u8])) -> Result<(), BackendError> {
        Ok(())
    }

    /// Whether it must leave the device because of a quiesce. Events are then polled even while the proxy is blocked on output: a handler
    /// that waits for event slots could not leave.
    fn is_quiescing(&self) -> bool {
        false
    }

    /// Registers `waker`, which is woken on a change of state, on a quiesce and, if `polls_events`, on an event.
    ///
    /// SYNC POINT: device-event (port). The caller rechecks these three conditions after this returns; see
    /// `DeviceProxy::register_and_recheck`.
    fn register_waker(&mut self, waker: &Waker, polls_events: bool);
}

/// Counts of messages that a ring kernel sent and received over links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounts {
    /// Messages that peers have sent to it.
    pub received: u64,
    /// Received messages whose handler succeeded.
    pub handled: u64,
    /// Outputs that its links have delivered. An output over two links counts twice.
    pub sent: u64,
}

/// A ring kernel on a device, as its peers on the same device see it.
///
/// A *link* is a ring in device memory from one ring kernel to another: outputs become messages without the host. The runtime creates a
/// link for a connection where it can, and sees only counts of its messages. An output that a link does not accept (the link is closed,
/// or full while its sender must leave the device) goes to the host, which forwards it.
pub trait DevicePeer: Any + Send + Sync {
    /// Creates a link to a ring kernel whose messages are the outputs of this one. Returns the number of the link, or `None` if no link is
    /// possible: the peer is on another device or about to end, or either has its maximum number of links.
    ///
    /// Waits until both are at a message boundary.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the device could not be quiesced, or is out of memory.
    fn link(&self, to: &dyn DevicePeer) -> Result<Option<u8>, BackendError>;

    /// From the next message on, copies outputs to the host even if links deliver them: the ring kernel is also connected elsewhere.
    fn copy_to_host(&self);

    /// Returns the present counts.
    fn link_counts(&self) -> LinkCounts;
}
