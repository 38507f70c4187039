//! What can be wrong with a message's bytes.

use std::fmt;

/// A message could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A field is called like one of the keys that the format itself uses.
    #[error(
        "cannot encode message `{message_type}`: its field `{field}` has the name of a key that the format uses itself; \
         rename the field"
    )]
    ReservedField {
        /// The message's type name.
        message_type: &'static str,
        /// The field's name, as it would have been written.
        field: &'static str,
    },
    /// A value's `Serialize` impl failed, or the value does not fit MessagePack.
    #[error("cannot encode message `{message_type}`{}: {reason}", In(.field.as_deref(), None))]
    Value {
        /// The message's type name.
        message_type: &'static str,
        /// The field in which it happened, where known.
        field: Option<String>,
        /// What the field's type said.
        reason: String,
    },
}

/// Bytes could not be decoded as a message. Says which message type was wanted, where in the bytes it went wrong, and what
/// to do.
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
/// assert_eq!(error.kind, DecodeErrorKind::Truncated { needed: 8, left: 7 });
/// assert_eq!(
///     error.to_string(),
///     "cannot decode message `Tick`, field `price`, at byte 21: 8 more bytes are needed but 7 are left; \
///      the message was cut short, or the length in it is wrong"
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot decode message `{message_type}`{}: {kind}", In(.field.as_deref(), *.offset))]
pub struct DecodeError {
    /// The type name of the message that was wanted.
    pub message_type: &'static str,
    /// The field or key in which it went wrong, where known.
    pub field: Option<String>,
    /// The offset, in bytes, of the value at fault, where known.
    pub offset: Option<usize>,
    /// What went wrong.
    pub kind: DecodeErrorKind,
}

/// What was wrong with a message's bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeErrorKind {
    /// The bytes hold some other MessagePack value than a map.
    #[error(
        "this is not a MessagePack map; a message is a map of field names to values with the key `__type__`"
    )]
    NotAMap,
    /// A length announces more than there is.
    #[error(
        "{needed} more bytes are needed but {left} are left; the message was cut short, or the length in it is wrong"
    )]
    Truncated {
        /// How many bytes the value needs at least.
        needed: u64,
        /// How many there are.
        left: usize,
    },
    /// A byte that no MessagePack value starts with.
    #[error("no MessagePack value starts with the byte 0xc1; the bytes are damaged, or not MessagePack")]
    InvalidByte,
    /// Arrays and maps lie too deep in each other.
    #[error("values are nested deeper than {limit} levels; flatten the message")]
    TooDeep {
        /// The depth that is allowed.
        limit: usize,
    },
    /// Bytes follow the message.
    #[error("the message ends here but {count} more bytes follow; pass the bytes of one message only")]
    TrailingBytes {
        /// How many.
        count: usize,
    },
    /// The map does not say of which type the message is.
    #[error("the key `__type__` is missing; its value must be the message's type name")]
    MissingType,
    /// The message is of another type.
    #[error("this is a message of type `{found}`; decode it as that type, or check who sends it")]
    WrongType {
        /// The type name in the bytes (its beginning, if it is very long).
        found: String,
    },
    /// A field that the type needs is not in the map.
    #[error("the field is missing; the sender must write it, or the type must make it optional")]
    MissingField,
    /// A field is there twice.
    #[error("the field occurs twice; the sender must write it once")]
    DuplicateField,
    /// A field's value is not what the type declares.
    #[error("{reason}; the sender must write what the type declares")]
    InvalidValue {
        /// What the field's type said.
        reason: String,
    },
}

/// Where in a message: `, field ..., at byte ...`, as far as known.
struct In<'a>(Option<&'a str>, Option<usize>);

impl fmt::Display for In<'_> {
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
