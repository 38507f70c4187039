//! Messages: what a value must be to travel between ring kernels, and what travels with it.
//!
//! # Deriving
//!
//! `#[derive(Message)]` makes a struct or an enum a message. It implements [`Message`], and serde's traits without a
//! dependency on serde, and with them [`Encode`]. `#[serde(...)]` on fields and variants works as in serde.
//!
//! ```
//! use dotcompute_core::message::{Encode, Message};
//!
//! #[derive(Message, Debug, PartialEq)]
//! struct Tick {
//!     symbol: String,
//!     price: f64,
//! }
//!
//! #[derive(Message, Debug, PartialEq)]
//! #[message(name = "exchange.Command")]
//! enum Command {
//!     Halt,
//!     SetLimit { symbol: String, limit: f64 },
//! }
//!
//! assert_eq!(Tick::TYPE_NAME, "Tick");
//! assert_eq!(Command::TYPE_NAME, "exchange.Command");
//! assert_eq!(Command::decode(&Command::Halt.encode()?)?, Command::Halt);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | attribute | meaning |
//! | --- | --- |
//! | `#[message(name = "...")]` | the type's name in every process and language; without it, the type's identifier |
//! | `#[message(record)]` | plain old data with one layout on every device; needs `#[repr(C)]` and `Copy`; see [`record`] |
//! | `#[message(no_serde)]` | no serde impls: the type has its own, or never leaves the process |
//!
//! The name of a generic type contains its arguments' names (`Pair<u8>`), so these must be messages too.
//!
//! # Wire format
//!
//! A message is one [MessagePack](https://github.com/msgpack/msgpack/blob/master/spec.md) map whose keys are strings:
//!
//! | key | value | when |
//! | --- | --- | --- |
//! | `__type__` | string: the type's name | always |
//! | `message_id` | a UUID | with a header |
//! | `priority` | integer, 0 to 255 | with a header; may be missing (128) |
//! | `correlation_id` | a UUID or nil | with a header; may be missing (nil) |
//! | a field's name | the field's value | for each field of a struct |
//! | `value` | the value | if the type is not a struct with named fields |
//!
//! We write the keys in this order and fields as declared; any order is read. Unknown keys are ignored, so that a sender may
//! know more fields than a receiver. Every key may occur once. At most 128 arrays and maps may lie in each other, and
//! nothing may follow the map.
//!
//! | value | MessagePack |
//! | --- | --- |
//! | integer | the shortest integer that holds it; `i128` and `u128` are 16 bytes (bin), most significant first |
//! | `f32`, `f64` | float 32, float 64; an integer is read too |
//! | `bool`, `String`, `char` | bool, string, string |
//! | `Option` | nil, or the value |
//! | `Vec<u8>` | bin (an empty one is an empty array); bin and array are read |
//! | other sequence, array, tuple | array |
//! | struct with named fields, inside a message | map of its fields |
//! | [`MessageId`] | a UUID: the map `{"__uuid_bin__": bin of 16 bytes}`, most significant byte first |
//! | enum | its variant's name, or the map `{name: data}` if the variant has data |
//! | `()`, unit struct | as a message: no key besides `__type__` |
//!
//! The `Tick` from above, with the symbol `ACME` and the price 101.5, is 49 bytes:
//!
//! ```
//! # use dotcompute_core::message::{Encode, Message};
//! # #[derive(Message)]
//! # struct Tick { symbol: String, price: f64 }
//! let bytes = b"\x83\xa8__type__\xa4Tick\xa6symbol\xa4ACME\xa5price\xcb\x40\x59\x60\x00\x00\x00\x00\x00";
//! assert_eq!(Tick { symbol: "ACME".into(), price: 101.5 }.encode()?, bytes);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builtin;
#[cfg(feature = "encode")]
mod decode;
#[cfg(feature = "encode")]
mod encode;
#[cfg(feature = "encode")]
mod error;
mod header;
mod id;
#[cfg(feature = "encode")]
mod id_serde;
#[cfg(feature = "encode")]
mod keys;
mod priority;
pub mod record;
mod record_bytes;
#[cfg(feature = "encode")]
mod scanner;
#[cfg(feature = "encode")]
#[doc(hidden)]
pub mod serde_array;
mod type_name;

/// Makes a struct or an enum a message: see [Deriving](self#deriving).
pub use dotcompute_macros::CoreMessage as Message;

#[cfg(feature = "encode")]
pub use encode::Encode;
#[cfg(feature = "encode")]
pub use error::{DecodeError, DecodeErrorKind, EncodeError};
pub use header::MessageHeader;
pub use id::{MessageId, NilMessageId};
pub use priority::Priority;
pub use type_name::MessageTypeId;

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
    /// The derive for users of the crate `dotcompute`.
    pub use dotcompute_macros::Message;
    #[cfg(feature = "encode")]
    pub use serde;

    #[cfg(feature = "encode")]
    pub use super::serde_array;
    pub use super::type_name::TypeName;

    /// Fails to compile, at the caller, where a record's field has no bytes.
    #[track_caller]
    pub const fn assert_not_empty(size: usize, text: &str) {
        if size == 0 {
            panic!("{}", text);
        }
    }

    /// Fails to compile, at the caller, where a record has bytes that belong to no field.
    #[track_caller]
    pub const fn assert_no_padding(gap: usize, place: &str) {
        if gap > 0 {
            let text = TypeName::new(place)
                .and(": add a field such as `_pad: [u8; ")
                .and_number(gap as u128)
                .and("]` there");
            panic!("{}", text.as_str());
        }
    }
}
