//! What rings carry: a message with its header and, for an ask, the reply sender.

use dotcompute_ring::reply::ReplySender;

use crate::fault::Fault;
use crate::message::MessageHeader;
use crate::telemetry::Stamp;

/// What a caller gets for a request. The fault is boxed because it is rare and should not enlarge every reply.
pub(crate) type ReplyResult<O> = Result<O, Box<Fault>>;

/// One mailbox slot: 56 bytes plus the message.
pub(crate) struct Envelope<I, O> {
    pub(crate) header: MessageHeader,
    pub(crate) stamp: Stamp,
    pub(crate) reply: Option<ReplySender<ReplyResult<O>>>,
    pub(crate) message: I,
}

/// An output of a ring kernel, with its header.
///
/// `header.correlation_id` is the id of the message that the ring kernel was handling when it sent the output.
#[derive(Debug, Clone, PartialEq)]
pub struct Received<O> {
    /// The header.
    pub header: MessageHeader,
    /// The message.
    pub message: O,
}
