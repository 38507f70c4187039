//! Errors of encoding and decoding messages.

use std::fmt;

/// An error of encoding a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A field has the name of a key that the format reserves.
    #[error(
        "encoding message `{message_type}`: the name of the field `{field}` is a reserved key of the format; rename the field"
    )]
    ReservedField {
        /// The message's type name.
        message_type: &'static str,
        /// The field's name in the encoding.
        field: &'static str,
    },
    /// A value's `Serialize` impl failed, or the value does not fit MessagePack.
    #[error("encoding message `{message_type}`{}: {reason}", ErrorLocation(.field.as_deref(), None))]
    Value {
        /// The message's type name.
        message_type: &'static str,
        /// The field that failed, if known.
        field: Option<String>,
        /// The error of the field's type.
        reason: String,
    },
}

/// An error of decoding a message. It names the expected message type, the position of the error, and what to do.
///
/// ```
/// use dotcompute_core::message::{DecodeErrorKind, Encode, Message};
///
/// #[derive(Message, Debug)]
/// struct Tick {
///     price: f64,
/// }
///
/// let mut bytes = Tick { price: 101.5 }.encode()?;
/// bytes.truncate(bytes.len() - 1);
/// let error = Tick::decode(&bytes).unwrap_err();
///
/// assert_eq!(error.field.as_deref(), Some("price"));
/// assert_eq!(error.kind, DecodeErrorKind::Truncated { needed: 8, remaining: 7 });
/// assert_eq!(
///     error.to_string(),
///     "decoding message `Tick`, field `price`, at byte 21: expected at least 8 more bytes, got 7; \
///      check that the message is complete and its lengths are correct"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("decoding message `{message_type}`{}: {kind}", ErrorLocation(.field.as_deref(), *.offset))]
pub struct DecodeError {
    /// Type name of the expected message.
    pub message_type: &'static str,
    /// The invalid field or key, if known.
    pub field: Option<String>,
    /// Offset of the invalid value in bytes, if known.
    pub offset: Option<usize>,
    /// Kind of error.
    pub kind: DecodeErrorKind,
}

/// Kind of a [`DecodeError`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The bytes are a MessagePack value that is not a map.
    #[error(
        "expected a MessagePack map; encode the message as a map of field names to values with the key `__type__`"
    )]
    NotAMap,
    /// A length exceeds the remaining bytes.
    #[error(
        "expected at least {needed} more bytes, got {remaining}; check that the message is complete and its lengths are correct"
    )]
    Truncated {
        /// Minimum size of the value in bytes.
        needed: u64,
        /// Remaining bytes.
        remaining: usize,
    },
    /// The byte 0xc1, which starts no MessagePack value.
    #[error(
        "invalid byte 0xc1, which starts no MessagePack value; check that the bytes are MessagePack and undamaged"
    )]
    InvalidByte,
    /// Arrays and maps are nested too deeply.
    #[error("values are nested more than {limit} levels deep; flatten the message")]
    TooDeep {
        /// Maximum depth.
        limit: usize,
    },
    /// Bytes follow the message.
    #[error("{count} bytes follow the end of the message; pass the bytes of one message only")]
    TrailingBytes {
        /// Number of bytes after the message.
        count: usize,
    },
    /// The map has no key `__type__`.
    #[error("the key `__type__` is missing; set it to the message's type name")]
    MissingType,
    /// The message has another type.
    #[error("got a message of type `{found}`; decode it as that type, or check its sender")]
    WrongType {
        /// The type name in the bytes, truncated to 64 characters.
        found: String,
    },
    /// The map lacks a field of the type.
    #[error("the field is missing; write it in the sender, or make it optional in the type")]
    MissingField,
    /// A field occurs twice.
    #[error("the field occurs twice; write it once in the sender")]
    DuplicateField,
    /// A field's value does not have the declared type.
    #[error("{reason}; write the declared type in the sender")]
    InvalidValue {
        /// The error of the field's type.
        reason: String,
    },
}

/// Position in a message, displayed as `, field ..., at byte ...` as far as known.
struct ErrorLocation<'a>(Option<&'a str>, Option<usize>);

impl fmt::Display for ErrorLocation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(field) = self.0 {
            write!(f, ", field `{field}`")?;
        }
        if let Some(offset) = self.1 {
            write!(f, ", at byte {offset}")?;
        }
        Ok(())
    }
}
