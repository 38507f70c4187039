//! What travels in the rings: a message with its header and, for an ask, the way back.

use std::any::Any;

use dotcompute_ring::reply::ReplySender;

use crate::dead_letter::Reason;
use crate::error::Fault;
use crate::message::{Message, MessageHeader};
use crate::shared::Core;
use crate::telemetry::Stamp;

/// What an asker gets. The fault is boxed: it is rare, and an answer should not be larger for it.
/// The way back to an asker.
pub(crate) type Asker<O> = ReplySender<Answer<O>>;

pub(crate) type Answer<O> = Result<O, Box<Fault>>;

/// One slot of an input ring: 56 bytes and the message.
pub(crate) struct Envelope<I, O> {
    pub(crate) header: MessageHeader,
    pub(crate) stamp: Stamp,
    pub(crate) reply: Option<ReplySender<Answer<O>>>,
    pub(crate) message: I,
}

impl<I: Message, O> Envelope<I, O> {
    /// Makes an accepted message a dead letter of `core`'s ring kernel and tells its asker, if it has one.
    pub(crate) fn bury(self, core: &Core, reason: Reason, cause: &str) {
        let message: Box<dyn Any + Send> = Box::new(self.message);
        core.bury(self.header, self.reply, Some(message), reason, cause.to_owned());
    }
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
