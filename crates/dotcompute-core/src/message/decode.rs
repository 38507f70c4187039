//! Decoding of messages from untrusted MessagePack. The [module's page](super#wire-format) specifies the format.
//!
//! Decoding has two passes. The first builds no value: it checks each length and depth, and records the slice of each field's value.
//! The second deserializes each field from its own slice, so an error has the field's name and offset.

use std::fmt;

use rmp::Marker;
use rmp_serde::Deserializer as RmpDeserializer;
use rmp_serde::decode::{Error as RmpError, ReadRefReader};
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::keys;
use super::scanner::{ScanError, ScanErrorKind, Scanner, ValueHeader};
use super::{DecodeError, DecodeErrorKind, Message, MessageHeader, Priority};

/// Maximum nesting of arrays and maps, including the message's own map.
const MAX_DEPTH: usize = 128;

/// Decodes a message.
pub fn message<T: Message + DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let map = Map::read(bytes).map_err(named::<T>)?;
    map.check_type(T::TYPE_NAME).map_err(named::<T>)?;
    T::deserialize(RootDeserializer(&map)).map_err(named::<T>)
}

/// Decodes a header and a message.
pub fn message_with_header<T: Message + DeserializeOwned>(
    bytes: &[u8],
) -> Result<(MessageHeader, T), DecodeError> {
    let map = Map::read(bytes).map_err(named::<T>)?;
    map.check_type(T::TYPE_NAME).map_err(named::<T>)?;
    let header = map.header().map_err(named::<T>)?;
    let message = T::deserialize(RootDeserializer(&map)).map_err(named::<T>)?;
    Ok((header, message))
}

fn named<T: Message>(Error { field, offset, kind }: Error) -> DecodeError {
    DecodeError { message_type: T::TYPE_NAME, field, offset, kind }
}

/// A [`DecodeError`] without the message type.
#[derive(Debug)]
struct Error {
    field: Option<String>,
    offset: Option<usize>,
    kind: DecodeErrorKind,
}

impl Error {
    fn at(offset: usize, kind: DecodeErrorKind) -> Self {
        Self { field: None, offset: Some(offset), kind }
    }

    fn in_field(field: &str, kind: DecodeErrorKind) -> Self {
        Self { field: Some(field.to_owned()), offset: None, kind }
    }
}

impl From<ScanError> for Error {
    fn from(error: ScanError) -> Self {
        let kind = match error.kind {
            ScanErrorKind::Truncated { needed, remaining } => {
                DecodeErrorKind::Truncated { needed, remaining }
            }
            ScanErrorKind::Reserved => DecodeErrorKind::InvalidByte,
            ScanErrorKind::TooDeep => DecodeErrorKind::TooDeep { limit: MAX_DEPTH },
        };
        Self::at(error.offset, kind)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self { field: None, offset: None, kind: DecodeErrorKind::InvalidValue { reason: reason.to_string() } }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::in_field(field, DecodeErrorKind::MissingField)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::in_field(field, DecodeErrorKind::DuplicateField)
    }

    fn unknown_field(field: &str, _expected: &'static [&'static str]) -> Self {
        Self::in_field(
            field,
            DecodeErrorKind::InvalidValue { reason: "the type has no such field".to_owned() },
        )
    }
}

/// A key of the message's map and the bytes of its value.
#[derive(Clone, Copy)]
struct Entry<'de> {
    key: &'de str,
    value: &'de [u8],
    /// Offset of the value in the message.
    offset: usize,
}

impl<'de> Entry<'de> {
    /// Deserializes the entry's value with `read`.
    fn read<V>(
        &self,
        read: impl FnOnce(&mut RmpDeserializer<ReadRefReader<'de, [u8]>>) -> Result<V, RmpError>,
    ) -> Result<V, Error> {
        read(&mut RmpDeserializer::from_read_ref(self.value)).map_err(|error| Error {
            field: Some(self.key.to_owned()),
            offset: Some(self.offset),
            kind: DecodeErrorKind::InvalidValue { reason: reason(&error) },
        })
    }
}

/// Describes a deserialization error without MessagePack's marker names.
fn reason(error: &RmpError) -> String {
    let RmpError::TypeMismatch(marker) = error else { return error.to_string() };
    let found = match marker {
        Marker::Null => "nil",
        Marker::True | Marker::False => "a boolean",
        Marker::FixPos(_) | Marker::U8 | Marker::U16 | Marker::U32 | Marker::U64 => "an unsigned integer",
        Marker::FixNeg(_) | Marker::I8 | Marker::I16 | Marker::I32 | Marker::I64 => "a signed integer",
        Marker::F32 | Marker::F64 => "a float",
        Marker::FixStr(_) | Marker::Str8 | Marker::Str16 | Marker::Str32 => "a string",
        Marker::Bin8 | Marker::Bin16 | Marker::Bin32 => "bytes",
        Marker::FixArray(_) | Marker::Array16 | Marker::Array32 => "an array",
        Marker::FixMap(_) | Marker::Map16 | Marker::Map32 => "a map",
        _ => "an extension value",
    };
    format!("got {found}, which is not the declared type")
}

/// The message's map after the first pass: well-formed, with no value deserialized.
struct Map<'de> {
    message_type: Option<Entry<'de>>,
    message_id: Option<Entry<'de>>,
    priority: Option<Entry<'de>>,
    correlation_id: Option<Entry<'de>>,
    fields: Vec<Entry<'de>>,
}

impl<'de> Map<'de> {
    fn read(bytes: &'de [u8]) -> Result<Self, Error> {
        let mut scanner = Scanner::new(bytes);
        let ValueHeader::Map(pairs) = scanner.header()? else {
            return Err(Error::at(0, DecodeErrorKind::NotAMap));
        };
        let mut map = Self {
            message_type: None,
            message_id: None,
            priority: None,
            correlation_id: None,
            fields: Vec::new(),
        };
        for _ in 0..pairs {
            if let Some(entry) = read_pair(&mut scanner)? {
                map.add(entry)?;
            }
        }
        if scanner.remaining() > 0 {
            return Err(Error::at(
                scanner.offset(),
                DecodeErrorKind::TrailingBytes { count: scanner.remaining() },
            ));
        }
        Ok(map)
    }

    fn add(&mut self, entry: Entry<'de>) -> Result<(), Error> {
        let slot = match entry.key {
            keys::TYPE => &mut self.message_type,
            keys::MESSAGE_ID => &mut self.message_id,
            keys::PRIORITY => &mut self.priority,
            keys::CORRELATION_ID => &mut self.correlation_id,
            _ => {
                self.fields.push(entry);
                return Ok(());
            }
        };
        if slot.replace(entry).is_some() {
            let Entry { key, offset, .. } = entry;
            return Err(Error {
                field: Some(key.to_owned()),
                offset: Some(offset),
                kind: DecodeErrorKind::DuplicateField,
            });
        }
        Ok(())
    }

    fn check_type(&self, expected: &str) -> Result<(), Error> {
        let entry = self.message_type.ok_or(Error {
            field: None,
            offset: None,
            kind: DecodeErrorKind::MissingType,
        })?;
        let found: &str = entry.read(|value| Deserialize::deserialize(value))?;
        if found == expected {
            return Ok(());
        }
        let found = found.chars().take(64).collect();
        Err(Error::at(entry.offset, DecodeErrorKind::WrongType { found }))
    }

    fn header(&self) -> Result<MessageHeader, Error> {
        let message_id =
            self.message_id.ok_or(Error::in_field(keys::MESSAGE_ID, DecodeErrorKind::MissingField))?;
        Ok(MessageHeader {
            message_id: message_id.read(|value| Deserialize::deserialize(value))?,
            correlation_id: match self.correlation_id {
                Some(entry) => entry.read(|value| Deserialize::deserialize(value))?,
                None => None,
            },
            priority: match self.priority {
                Some(entry) => Priority::new(entry.read(|value| Deserialize::deserialize(value))?),
                None => Priority::NORMAL,
            },
        })
    }
}

/// Reads one pair of the message's map; `None` if its key is not a string and so cannot name a field.
fn read_pair<'de>(scanner: &mut Scanner<'de>) -> Result<Option<Entry<'de>>, Error> {
    let offset = scanner.offset();
    let key = scanner.skip(MAX_DEPTH - 1)?;
    let key = match Scanner::new(key).header()? {
        ValueHeader::Str(key) => Some(str::from_utf8(key).map_err(|error| {
            Error::at(
                offset,
                DecodeErrorKind::InvalidValue { reason: format!("got a key that is not UTF-8 ({error})") },
            )
        })?),
        _ => None,
    };
    let offset = scanner.offset();
    let value = scanner
        .skip(MAX_DEPTH - 1)
        .map_err(|error| Error { field: key.map(str::to_owned), ..error.into() })?;
    Ok(key.map(|key| Entry { key, value, offset }))
}

/// Deserializes the outermost value: a struct from the map's fields, any other value from the key `value`.
struct RootDeserializer<'a, 'de>(&'a Map<'de>);

impl<'de> RootDeserializer<'_, 'de> {
    fn value(&self) -> Result<Entry<'de>, Error> {
        let mut values = self.0.fields.iter().filter(|entry| entry.key == keys::VALUE);
        match (values.next(), values.next()) {
            (Some(entry), None) => Ok(*entry),
            (None, _) => Err(de::Error::missing_field(keys::VALUE)),
            (Some(_), Some(_)) => Err(de::Error::duplicate_field(keys::VALUE)),
        }
    }

    fn fields<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(FieldAccess { remaining: self.0.fields.iter(), current: None })
    }
}

macro_rules! forward_to_value {
    ($($method:ident($($arg:ident: $ty:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $ty,)* visitor: V) -> Result<V::Value, Error> {
            self.value()?.read(|value| value.$method($($arg,)* visitor))
        }
    )*};
}

impl<'de> Deserializer<'de> for RootDeserializer<'_, 'de> {
    type Error = Error;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.fields(visitor)
    }

    // Internally tagged enums (`#[serde(tag = "...")]`) call this; they are encoded as structs.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.fields(visitor)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_value! {
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_newtype_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
    }
}

/// Passes the map's fields to a struct's visitor.
struct FieldAccess<'a, 'de> {
    remaining: std::slice::Iter<'a, Entry<'de>>,
    /// The field whose key has been read and whose value is next.
    current: Option<Entry<'de>>,
}

impl<'de> MapAccess<'de> for FieldAccess<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.current = self.remaining.next().copied();
        self.current.map(|entry| seed.deserialize(BorrowedStrDeserializer::new(entry.key))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.current.take() {
            Some(entry) => entry.read(|value| seed.deserialize(value)),
            None => Err(de::Error::custom("its Deserialize impl reads a value before its key")),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.remaining.len())
    }
}
