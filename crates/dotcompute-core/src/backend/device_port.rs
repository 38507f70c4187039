//! What a ring kernel on a device is, and how the runtime talks to one.
//!
//! The runtime keeps everything that does not need the device on the host: the input ring with its bands and backpressure, the
//! way back to askers, connections, supervision, the books. Towards a device it acts through one task for each ring kernel, its
//! *attendant*, and that task acts through a [`DevicePort`]. So a port has one user, a device sees one producer and one consumer, and
//! a backend has nothing to do but to move records and obey four commands.

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use super::error::BackendError;
use crate::message::MessageHeader;
use crate::message::record::RecordLayout;

/// A ring kernel for a device, with all that a backend needs to make it resident.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DeviceProgram {
    /// The handler, before it is compiled.
    pub code: DeviceCode,
    /// The name of the handler in the code: `extern "C" __device__ int32_t entry(Ctx*, State*, const Input*, Output*)`.
    pub entry: Cow<'static, str>,
    /// What the state is made of at launch, and again after each restart.
    pub state: StateImage,
    /// The layout of its messages.
    pub input: RecordLayout,
    /// The layout of its outputs and answers.
    pub output: RecordLayout,
    /// How many threads work on a message.
    pub shape: Shape,
    /// Messages that the device's own input ring holds; those beyond wait in the host's, by priority.
    pub queue_capacity: usize,
    /// What the device does by itself after a message whose handler reported an error.
    pub after_fault: AfterFault,
}

/// A handler as text or as an intermediate of some compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceCode {
    /// CUDA C++ text. The C structs of the messages are put in front of it.
    CudaCpp {
        /// The file's name, for compile errors.
        file: Cow<'static, str>,
        /// The text.
        text: Cow<'static, str>,
    },
    /// CUDA C++ text as above, and what another front end has compiled, which the text calls. Takes a linker.
    Linked {
        /// The text's name, for compile errors.
        file: Cow<'static, str>,
        /// The text. It declares what it calls.
        text: Cow<'static, str>,
        /// The compiled part's name, for errors of the linker.
        part: Cow<'static, str>,
        /// The part, as NVIDIA's LTO-IR for the architecture of the device that it is launched on.
        lto_ir: Vec<u8>,
    },
}

/// What a state begins as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateImage {
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// How many bytes it has in all; those that are not in `bytes` begin as zeros. None for a handler without state.
    pub size: usize,
    /// The alignment that the device is to give them.
    pub align: usize,
    /// The struct in C, if it is a record.
    pub layout: Option<RecordLayout>,
}

/// How many threads work on a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Shape {
    /// One block whose threads each take a message of their own: for small messages whose order does not matter beyond a batch.
    Thread {
        /// Threads, 1 to 1024.
        threads: u32,
    },
    /// One block whose threads share each message: for micro-batches.
    Block {
        /// Threads, 1 to 1024.
        threads: u32,
    },
    /// Several blocks that all share each message, with a barrier across the grid: for algorithms that use the whole device.
    Grid {
        /// Blocks, all of which must be resident at once.
        blocks: u32,
        /// Threads of each, 1 to 1024.
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
    /// Blocks in the launch.
    #[must_use]
    pub const fn blocks(self) -> u32 {
        match self {
            Self::Thread { .. } | Self::Block { .. } => 1,
            Self::Grid { blocks, .. } => blocks,
        }
    }

    /// Threads in each block.
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
    /// It goes on with the next message: for ring kernels that are resumed in any case.
    Continue,
    /// It handles nothing until it is commanded to run: the host decides between a restart and an end.
    Hold,
}

/// What the runtime wants of a ring kernel on a device, obeyed at the next message boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceCommand {
    /// Handle messages.
    Run,
    /// Handle none, stay, and become [`Paused`](DeviceState::Paused), or remain [`Faulted`](DeviceState::Faulted).
    Pause,
    /// Leave the device and become [`Stopped`](DeviceState::Stopped). What is still in the device's ring is not handled.
    Stop,
}

/// What a ring kernel on a device is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceState {
    /// Waiting for its first command.
    Launched,
    /// Handling messages, or waiting for some, on the device or about to return there.
    Running,
    /// Commanded to pause, and no handler is running.
    Paused,
    /// Holding after a fault ([`AfterFault::Hold`]).
    Faulted,
    /// It has left the device, as commanded.
    Stopped,
    /// It is lost: the device, its context or its memory is gone, or it stopped beating its heart. The text says what happened.
    Lost(String),
}

/// A message on its way to a device.
#[derive(Debug, Clone, Copy)]
pub struct DeviceMessage<'a> {
    /// Its place in the order of posting, counted from 0.
    pub sequence: u64,
    /// Its header.
    pub header: MessageHeader,
    /// Whether somebody waits for an answer.
    pub wants_reply: bool,
    /// Its bytes, as many as the input's layout says.
    pub payload: &'a [u8],
}

/// Something that happened on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceEvent<'a> {
    /// The handler sent an output while it handled the message of this ticket.
    Sent {
        /// Of the message being handled.
        sequence: u64,
        /// The output's bytes.
        output: &'a [u8],
        /// The links that have taken it already, a bit each.
        linked: u8,
    },
    /// The handler answered the message of this ticket.
    Replied {
        /// Of the message being handled.
        sequence: u64,
        /// The answer's bytes.
        output: &'a [u8],
    },
    /// The handler reported an error for the message of this ticket.
    Failed {
        /// Of the message.
        sequence: u64,
        /// What the handler returned; not 0.
        code: i32,
    },
    /// As [`Sent`](Self::Sent), for a message that came over a link.
    LinkedSent {
        /// The message's priority.
        priority: u8,
        /// The output's bytes.
        output: &'a [u8],
        /// The links that have taken it already, a bit each.
        linked: u8,
    },
    /// As [`Failed`](Self::Failed), for a message that came over a link.
    LinkedFailed {
        /// The message's priority.
        priority: u8,
        /// What the handler returned; not 0.
        code: i32,
        /// The message's bytes.
        message: &'a [u8],
    },
    /// All messages with tickets below this one are done with, well unless they [`Failed`](Self::Failed).
    Done {
        /// The first ticket that is not.
        up_to: u64,
        /// What the device measured for these messages together, if it measures: the time in their handlers.
        handler_time: Option<Duration>,
    },
}

/// The attendant's end of a ring kernel on a device.
///
/// # Contract
///
/// - Nothing here waits, and nothing makes a call to the device's driver for each message.
/// - Messages are handled in the order they were posted ([`Shape::Thread`]: batches in order).
/// - The events of a message come before the [`Done`](DeviceEvent::Done) that covers it, in the order the handler caused them; a
///   message's `Done` comes before any state that followed it can be seen.
/// - When events are not taken the device holds messages back; it loses none.
/// - Dropping the port makes the ring kernel leave the device, at a message boundary if it still can.
pub trait DevicePort: Send {
    /// How many messages can be posted now.
    fn free_slots(&self) -> usize;

    /// Posts a message. The caller has seen that there is room.
    fn post(&mut self, message: DeviceMessage<'_>);

    /// Takes the next event.
    fn next_event(&mut self) -> Option<DeviceEvent<'_>>;

    /// Whether there is an event to take.
    fn has_event(&self) -> bool;

    /// What the ring kernel is doing.
    fn state(&self) -> DeviceState;

    /// Gives a command, in place of the one before.
    fn command(&mut self, command: DeviceCommand);

    /// Makes the state anew from its image. Called while it is [`Faulted`](DeviceState::Faulted).
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the device refuses: the ring kernel then fails.
    fn reset_state(&mut self) -> Result<(), BackendError>;

    /// The state's bytes. Called while it is [`Launched`](DeviceState::Launched), [`Paused`](DeviceState::Paused) or
    /// [`Faulted`](DeviceState::Faulted).
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the device refuses.
    fn read_state(&mut self) -> Result<Vec<u8>, BackendError>;

    /// Overwrites the state. Called as [`read_state`](Self::read_state) is, with as many bytes as that gives.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the device refuses.
    fn write_state(&mut self, bytes: &[u8]) -> Result<(), BackendError>;

    /// The ring kernel as others of its device see it. None where a device links no ring kernels.
    fn peer(&self) -> Option<Arc<dyn DevicePeer>> {
        None
    }

    /// Closes the links that lead here, without waiting. None while somebody may still send over one; then how many messages wait in them.
    fn close_links(&mut self) -> Option<u64> {
        Some(0)
    }

    /// Gives `each` the bytes of the messages that wait in links that are closed, oldest first. Called once it is stopped or lost.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if they cannot be read.
    fn drain_links(&mut self, _each: &mut dyn FnMut(&[u8])) -> Result<(), BackendError> {
        Ok(())
    }

    /// Whether it has been asked to leave the device for a moment. Its events are taken then, though its outputs be held up: a handler
    /// that waits for room would keep it from leaving.
    fn is_quiescing(&self) -> bool {
        false
    }

    /// Arranges that `waker` is called once there is another state, or is asked to make way, and, if it `takes_events`, once there is
    /// an event. The caller looks at these once more after this.
    fn register_waker(&mut self, waker: &Waker, takes_events: bool);
}

/// What a ring kernel has sent and taken over links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkCounts {
    /// Messages that others have sent to it.
    pub received: u64,
    /// Those whose handler returned well.
    pub handled: u64,
    /// Outputs that its links have taken; one that goes to two counts twice.
    pub sent: u64,
}

/// A ring kernel on a device, as others of that device see it.
///
/// A *link* leads from one ring kernel to another without the host: outputs become messages in memory of the device. The runtime makes
/// one for a connection where it can, and sees of its messages only counts. What a link does not take (it is closed, or full
/// while its sender has to leave) comes to the host as any output, which knows all connections.
pub trait DevicePeer: Any + Send + Sync {
    /// Makes a link to another ring kernel whose messages are this one's outputs. None if there can be none: it is on another device, it is
    /// about to end, or one of the two has as many as it can have.
    ///
    /// Waits until both are at a message boundary.
    ///
    /// # Errors
    ///
    /// [`BackendError`] if the device could not be had quiet, or has no memory.
    fn link(&self, to: &dyn DevicePeer) -> Result<Option<u8>, BackendError>;

    /// From its next message on, has outputs come to the host even if links take them: it is connected elsewhere too.
    fn copy_to_host(&self);

    /// What was counted until now.
    fn link_counts(&self) -> LinkCounts;
}
