//! What travels in the rings: a message with its header and, for an ask, the way back.

use dotcompute_ring::reply::ReplySender;

use crate::fault::Fault;
use crate::message::MessageHeader;
use crate::telemetry::Stamp;

/// What an asker gets. The fault is boxed: it is rare, and an answer should not be larger for it.
pub(crate) type Answer<O> = Result<O, Box<Fault>>;

/// One slot of an input ring: 56 bytes and the message.
pub(crate) struct Envelope<I, O> {
    pub(crate) header: MessageHeader,
    pub(crate) stamp: Stamp,
    pub(crate) reply: Option<ReplySender<Answer<O>>>,
    pub(crate) message: I,
}

/// A message that came out of a ring kernel, with its header.
///
/// `header.correlation_id` is the id of the message that was being handled when this one was sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Received<O> {
    /// The header.
    pub header: MessageHeader,
    /// The message.
    pub message: O,
}
