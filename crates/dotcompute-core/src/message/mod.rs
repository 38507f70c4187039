//! Messages: what a value must be to travel between ring kernels, and what travels with it.

mod builtin;
mod header;
mod id;
mod name;
mod priority;

pub use dotcompute_macros::Message;

pub use header::MessageHeader;
pub use id::{MessageId, NilMessageId};
pub use name::MessageTypeId;
pub use priority::Priority;

/// A value that ring kernels receive and send.
///
/// Derive it: [`#[derive(Message)]`](derive@Message). Numbers, `bool`, `char`, `String`, `()`, and `Option`, `Vec`,
/// arrays, tuples up to four, `Box` and `Arc` of messages are messages as they are.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "not a message",
    note = "put `#[derive(Message)]` on the type, or `#[derive(Message)] #[message(no_serde)]` if it never leaves the process"
)]
pub trait Message: Send + 'static {
    /// The type's name, the same in every build, process and language: what `#[message(name = "...")]` says, else the
    /// type's identifier.
    const TYPE_NAME: &'static str;

    /// The hash of [`TYPE_NAME`](Self::TYPE_NAME).
    const TYPE_ID: MessageTypeId = MessageTypeId::of(Self::TYPE_NAME);

    /// The hash of [`TYPE_NAME`](Self::TYPE_NAME), for telling types apart by one comparison.
    fn type_id() -> MessageTypeId {
        Self::TYPE_ID
    }
}

/// What the derive macro's output names. Not for people.
#[doc(hidden)]
pub mod __private {
    pub use serde;

    pub use super::name::TypeName;
}
