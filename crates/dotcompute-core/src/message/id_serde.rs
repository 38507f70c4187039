//! Serialization of message ids: a string in human-readable formats, `{"__uuid_bin__": bytes}` in MessagePack.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::MessageId;

/// The only key of the map that encodes a UUID.
const UUID_KEY: &str = "__uuid_bin__";

/// Sixteen bytes, encoded as bytes and not as a sequence of numbers.
struct Bytes([u8; 16]);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(BytesVisitor)
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the 16 bytes of a UUID")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        bytes.try_into().map(Bytes).map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(UUID_KEY, &Bytes(self.to_bytes()))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for MessageId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(IdVisitor)
        } else {
            deserializer.deserialize_map(IdVisitor)
        }
    }
}

struct IdVisitor;

impl<'de> Visitor<'de> for IdVisitor {
    type Value = MessageId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a UUID, as {{\"{UUID_KEY}\": 16 bytes}} or as text")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MessageId, A::Error> {
        let mut id = None;
        while let Some(key) = map.next_key::<String>()? {
            if key != UUID_KEY {
                return Err(A::Error::custom(format_args!("unexpected key `{key}`, expected `{UUID_KEY}`")));
            }
            let Bytes(bytes) = map.next_value()?;
            id = Some(MessageId::from_bytes(bytes).map_err(A::Error::custom)?);
        }
        id.ok_or_else(|| A::Error::custom(format_args!("missing key `{UUID_KEY}`")))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<MessageId, E> {
        Uuid::parse_str(text).map_err(E::custom)?.try_into().map_err(E::custom)
    }
}
