//! Messages: the trait, its derive, headers, ids, priorities, records and encoding.
//!
//! # Deriving
//!
//! `#[derive(Message)]` implements [`Message`] for a struct or an enum. With the feature `encode` it also implements serde's traits, and so
//! [`Encode`]; the user's crate needs no dependency on serde. `#[serde(...)]` on fields and variants works as in serde.
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
//! | `#[message(no_serde)]` | no serde impls, because the type has its own or never leaves the process |
//!
//! The name of a generic type contains the names of its arguments (`Pair<u8>`), so the arguments must be messages too.
//!
//! # Wire format
//!
//! An encoded message is one [MessagePack](https://github.com/msgpack/msgpack/blob/master/spec.md) map whose keys are strings:
//!
//! | key | value | when |
//! | --- | --- | --- |
//! | `__type__` | string: the type name | always |
//! | `message_id` | a UUID | with a header |
//! | `priority` | integer, 0 to 255 | with a header; may be missing (128) |
//! | `correlation_id` | a UUID or nil | with a header; may be missing (nil) |
//! | name of a field | value of the field | for each field of a struct |
//! | `value` | the value | if the type is not a struct with named fields |
//!
//! The encoder writes the keys in this order, and fields in order of declaration. The decoder accepts any order. It ignores unknown keys,
//! so a sender may have more fields than a receiver. Each key occurs at most once. Arrays and maps are nested at most 128 deep. No bytes
//! follow the map.
//!
//! | value | MessagePack |
//! | --- | --- |
//! | integer | the shortest integer that fits; `i128` and `u128` are bin of 16 bytes, most significant first |
//! | `f32`, `f64` | float 32, float 64; the decoder also accepts integers |
//! | `bool`, `String`, `char` | bool, string, string |
//! | `Option` | nil, or the value |
//! | `Vec<u8>` | bin, or an empty array if it is empty; the decoder accepts bin and array |
//! | other sequence, array, tuple | array |
//! | struct with named fields, inside a message | map of its fields |
//! | [`MessageId`] | a UUID: the map `{"__uuid_bin__": bin of 16 bytes}`, most significant byte first |
//! | enum | name of the variant, or the map `{name: data}` if the variant has data |
//! | `()`, unit struct | as a message: only the key `__type__` |
//!
//! The `Tick` above, with the symbol `ACME` and the price 101.5, has 49 bytes:
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

/// Implements [`trait@Message`] for a struct or an enum: see [Deriving](self#deriving).
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
/// Implement it with [`#[derive(Message)]`](derive@Message). It is implemented for numbers, `bool`, `char`, `String`, `()`, and for
/// `Option`, `Vec`, arrays, tuples of up to four elements, `Box` and `Arc` of messages.
///
/// A message is moved by value, and its sender and its handler have it on the stack several times: some twenty times with optimization, and
/// a hundred times without. Up to 16 KiB pass on the stack of a default thread (2 MiB) in every profile, and up to 64 KiB with optimization.
/// A call that could overflow the stack of its thread is refused ([`Refusal::StackTooSmall`](crate::error::Refusal::StackTooSmall)); a future
/// holds its message several times and can only be refused when it is polled. Put what is large in a `Box` or a `Vec`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a message",
    label = "not a message",
    note = "put `#[derive(Message)]` on the type, or `#[derive(Message)] #[message(no_serde)]` if it never leaves the process"
)]
pub trait Message: Send + 'static {
    /// The type name, the same in every build, process and language: the name in `#[message(name = "...")]`, or the type's identifier.
    const TYPE_NAME: &'static str;

    /// The hash of [`TYPE_NAME`](Self::TYPE_NAME).
    const TYPE_ID: MessageTypeId = MessageTypeId::of(Self::TYPE_NAME);

    /// Returns [`TYPE_ID`](Self::TYPE_ID), which distinguishes types with one comparison.
    fn type_id() -> MessageTypeId {
        Self::TYPE_ID
    }
}

/// Items that the derive macro's output uses. Not part of the public API.
#[doc(hidden)]
pub mod __private {
    /// The derive for users of the crate `dotcompute`.
    pub use dotcompute_macros::Message;
    #[cfg(feature = "encode")]
    pub use serde;

    #[cfg(feature = "encode")]
    pub use super::serde_array;
    pub use super::type_name::TypeName;

    /// Panics at the caller, which is a compile error, if a record's field has size 0.
    #[track_caller]
    pub const fn assert_not_empty(size: usize, text: &str) {
        if size == 0 {
            panic!("{}", text);
        }
    }

    /// Panics at the caller, which is a compile error, if a record has padding bytes.
    #[track_caller]
    pub const fn assert_no_padding(gap: usize, location: &str) {
        if gap > 0 {
            let text = TypeName::new(location)
                .append("; add a field such as `_pad: [u8; ")
                .append_number(gap as u128)
                .append("]` there");
            panic!("{}", text.as_str());
        }
    }
}
