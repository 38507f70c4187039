//! MessagePack to messages, from bytes that anyone may have sent. The format is described in the
//! [module's page](super#wire-format).
//!
//! Decoding goes over the bytes twice. The first walk builds nothing: it checks every length and depth and notes where each
//! field's value lies. The second makes the values, each out of its own slice, so that an error knows its field and its place.

use std::fmt;

use rmp::Marker;
use rmp_serde::Deserializer as Unpacker;
use rmp_serde::decode::{Error as UnpackError, ReadRefReader};
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{self, Deserialize, DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, Visitor};

use super::keys;
use super::scanner::{Fault, FaultKind, Head, Scanner};
use super::{DecodeError, DecodeErrorKind, Message, MessageHeader, Priority};

/// How deep arrays and maps may lie in each other, the message's own map included.
const MAX_DEPTH: usize = 128;

/// The message in `bytes`.
pub fn message<T: Message + DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let map = Map::read(bytes).map_err(named::<T>)?;
    map.check_type(T::TYPE_NAME).map_err(named::<T>)?;
    T::deserialize(Top(&map)).map_err(named::<T>)
}

/// The header and the message in `bytes`.
pub fn message_with_header<T: Message + DeserializeOwned>(
    bytes: &[u8],
) -> Result<(MessageHeader, T), DecodeError> {
    let map = Map::read(bytes).map_err(named::<T>)?;
    map.check_type(T::TYPE_NAME).map_err(named::<T>)?;
    let header = map.header().map_err(named::<T>)?;
    let message = T::deserialize(Top(&map)).map_err(named::<T>)?;
    Ok((header, message))
}

fn named<T: Message>(Error { field, offset, kind }: Error) -> DecodeError {
    DecodeError { message_type: T::TYPE_NAME, field, offset, kind }
}

/// A [`DecodeError`] that does not yet know its message type.
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

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        let kind = match fault.kind {
            FaultKind::Truncated { needed, left } => DecodeErrorKind::Truncated { needed, left },
            FaultKind::Reserved => DecodeErrorKind::InvalidByte,
            FaultKind::TooDeep => DecodeErrorKind::TooDeep { limit: MAX_DEPTH },
        };
        Self::at(fault.offset, kind)
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

/// One key of the message's map, and the bytes of its value.
#[derive(Clone, Copy)]
struct Entry<'de> {
    key: &'de str,
    value: &'de [u8],
    /// Where in the message the value starts.
    offset: usize,
}

impl<'de> Entry<'de> {
    /// Makes a value of the entry's bytes.
    fn make<V>(
        &self,
        make: impl FnOnce(&mut Unpacker<ReadRefReader<'de, [u8]>>) -> Result<V, UnpackError>,
    ) -> Result<V, Error> {
        make(&mut Unpacker::from_read_ref(self.value)).map_err(|error| Error {
            field: Some(self.key.to_owned()),
            offset: Some(self.offset),
            kind: DecodeErrorKind::InvalidValue { reason: reason(&error) },
        })
    }
}

/// What a value's type said against it, for people who do not know MessagePack's markers.
fn reason(error: &UnpackError) -> String {
    let UnpackError::TypeMismatch(marker) = error else { return error.to_string() };
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
    format!("{found} stands where the type declares something else")
}

/// The message's map, walked over once: well-formed, but nothing made of it yet.
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
        let Head::Map(pairs) = scanner.head()? else {
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
        if scanner.left() > 0 {
            return Err(Error::at(
                scanner.offset(),
                DecodeErrorKind::TrailingBytes { count: scanner.left() },
            ));
        }
        Ok(map)
    }

    fn add(&mut self, entry: Entry<'de>) -> Result<(), Error> {
        let place = match entry.key {
            keys::TYPE => &mut self.message_type,
            keys::MESSAGE_ID => &mut self.message_id,
            keys::PRIORITY => &mut self.priority,
            keys::CORRELATION_ID => &mut self.correlation_id,
            _ => {
                self.fields.push(entry);
                return Ok(());
            }
        };
        if place.replace(entry).is_some() {
            let Entry { key, offset, .. } = entry;
            return Err(Error {
                field: Some(key.to_owned()),
                offset: Some(offset),
                kind: DecodeErrorKind::DuplicateField,
            });
        }
        Ok(())
    }

    fn check_type(&self, wanted: &str) -> Result<(), Error> {
        let entry = self.message_type.ok_or(Error {
            field: None,
            offset: None,
            kind: DecodeErrorKind::MissingType,
        })?;
        let found: &str = entry.make(|value| Deserialize::deserialize(value))?;
        if found == wanted {
            return Ok(());
        }
        let found = found.chars().take(64).collect();
        Err(Error::at(entry.offset, DecodeErrorKind::WrongType { found }))
    }

    fn header(&self) -> Result<MessageHeader, Error> {
        let message_id =
            self.message_id.ok_or(Error::in_field(keys::MESSAGE_ID, DecodeErrorKind::MissingField))?;
        Ok(MessageHeader {
            message_id: message_id.make(|value| Deserialize::deserialize(value))?,
            correlation_id: match self.correlation_id {
                Some(entry) => entry.make(|value| Deserialize::deserialize(value))?,
                None => None,
            },
            priority: match self.priority {
                Some(entry) => Priority::new(entry.make(|value| Deserialize::deserialize(value))?),
                None => Priority::NORMAL,
            },
        })
    }
}

/// Reads one pair of the message's map; `None` if its key is not a string, which no field's name is.
fn read_pair<'de>(scanner: &mut Scanner<'de>) -> Result<Option<Entry<'de>>, Error> {
    let offset = scanner.offset();
    let key = scanner.skip(MAX_DEPTH - 1)?;
    let key = match Scanner::new(key).head()? {
        Head::Str(key) => Some(str::from_utf8(key).map_err(|error| {
            Error::at(
                offset,
                DecodeErrorKind::InvalidValue { reason: format!("a key is not UTF-8: {error}") },
            )
        })?),
        _ => None,
    };
    let offset = scanner.offset();
    let value = scanner
        .skip(MAX_DEPTH - 1)
        .map_err(|fault| Error { field: key.map(str::to_owned), ..fault.into() })?;
    Ok(key.map(|key| Entry { key, value, offset }))
}

/// Deserialises the outermost value: a struct out of the map's fields, anything else out of the key `value`.
struct Top<'a, 'de>(&'a Map<'de>);

impl<'de> Top<'_, 'de> {
    fn value(&self) -> Result<Entry<'de>, Error> {
        let mut values = self.0.fields.iter().filter(|entry| entry.key == keys::VALUE);
        match (values.next(), values.next()) {
            (Some(entry), None) => Ok(*entry),
            (None, _) => Err(de::Error::missing_field(keys::VALUE)),
            (Some(_), Some(_)) => Err(de::Error::duplicate_field(keys::VALUE)),
        }
    }

    fn fields<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(Fields { left: self.0.fields.iter(), current: None })
    }
}

macro_rules! out_of_value {
    ($($method:ident($($arg:ident: $ty:ty),*);)*) => {$(
        fn $method<V: Visitor<'de>>(self, $($arg: $ty,)* visitor: V) -> Result<V::Value, Error> {
            self.value()?.make(|value| value.$method($($arg,)* visitor))
        }
    )*};
}

impl<'de> Deserializer<'de> for Top<'_, 'de> {
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

    // What an enum with a tag of its own (`#[serde(tag = "...")]`) asks for: it was written as a struct.
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

    out_of_value! {
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

/// Hands the map's fields to a struct's visitor, one after another.
struct Fields<'a, 'de> {
    left: std::slice::Iter<'a, Entry<'de>>,
    /// The field whose key was handed out and whose value comes next.
    current: Option<Entry<'de>>,
}

impl<'de> MapAccess<'de> for Fields<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.current = self.left.next().copied();
        self.current.map(|entry| seed.deserialize(BorrowedStrDeserializer::new(entry.key))).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        match self.current.take() {
            Some(entry) => entry.make(|value| seed.deserialize(value)),
            None => Err(de::Error::custom("its Deserialize impl asks for a value before its key")),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left.len())
    }
}
