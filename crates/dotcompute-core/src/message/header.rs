//! The header of a message.

use super::{MessageId, Priority};

/// The header of a message: its id, the id of the request that it replies to, and its priority.
///
/// It has 40 bytes and is `Copy`; a ring slot stores it beside the message.
///
/// ```
/// use dotcompute_core::message::{MessageHeader, Priority};
///
/// let request = MessageHeader::new().with_priority(Priority::HIGH);
/// let reply = MessageHeader::new().reply_to(&request);
///
/// assert_eq!(reply.correlation_id, Some(request.message_id));
/// assert_eq!(reply.priority, Priority::HIGH);
/// assert_ne!(reply.message_id, request.message_id);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageHeader {
    /// Id of this message, unique among all processes.
    pub message_id: MessageId,
    /// Id of the request that this message replies to, if it is a reply.
    pub correlation_id: Option<MessageId>,
    /// Priority of this message.
    pub priority: Priority,
}

// A ring slot of 64 bytes holds a header and 24 bytes of message.
const _: () = assert!(size_of::<MessageHeader>() <= 40);

impl MessageHeader {
    /// Creates a header with a new id, [`Priority::NORMAL`] and no correlation id.
    #[allow(
        clippy::new_without_default,
        reason = "each call returns another id, so there is no default value"
    )]
    pub fn new() -> Self {
        Self { message_id: MessageId::next(), correlation_id: None, priority: Priority::NORMAL }
    }

    /// Returns the header with this priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Returns the header as that of a reply to `request`: with the request's id as correlation id, and the request's priority.
    #[must_use]
    pub const fn reply_to(mut self, request: &Self) -> Self {
        self.correlation_id = Some(request.message_id);
        self.priority = request.priority;
        self
    }
}
