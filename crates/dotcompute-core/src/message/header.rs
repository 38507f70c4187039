//! What travels with every message besides its value.

use super::{MessageId, Priority};

/// What travels with every message besides its value: who it is, what it answers, how urgent it is.
///
/// It is 40 bytes and `Copy`, so that it rides in a ring slot beside the message.
///
/// ```
/// use dotcompute_core::message::{MessageHeader, Priority};
///
/// let question = MessageHeader::new().with_priority(Priority::HIGH);
/// let answer = MessageHeader::new().reply_to(&question);
///
/// assert_eq!(answer.correlation_id, Some(question.message_id));
/// assert_eq!(answer.priority, Priority::HIGH);
/// assert_ne!(answer.message_id, question.message_id);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MessageHeader {
    /// Names this message among all messages of all processes.
    pub message_id: MessageId,
    /// The id of the message that this one answers, if it answers one.
    pub correlation_id: Option<MessageId>,
    /// How urgent it is.
    pub priority: Priority,
}

// A ring slot of 64 bytes holds a header and 24 bytes of message.
const _: () = assert!(size_of::<MessageHeader>() <= 40);

impl MessageHeader {
    /// A header with a fresh id, [`Priority::NORMAL`] and no correlation.
    #[allow(clippy::new_without_default, reason = "each call gives another id: no value is the default one")]
    pub fn new() -> Self {
        Self { message_id: MessageId::next(), correlation_id: None, priority: Priority::NORMAL }
    }

    /// The same header with this priority.
    #[must_use]
    pub const fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// The same header as the answer to `request`: its id becomes the correlation id, its priority becomes this one's,
    /// so that the answer to an urgent question is urgent too.
    #[must_use]
    pub const fn reply_to(mut self, request: &Self) -> Self {
        self.correlation_id = Some(request.message_id);
        self.priority = request.priority;
        self
    }
}
