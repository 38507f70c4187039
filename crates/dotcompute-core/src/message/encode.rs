//! Encoding of messages as MessagePack. The [module's page](super#wire-format) specifies the format.

use rmp_serde::Serializer as RmpSerializer;
use rmp_serde::config::{BytesMode, DefaultConfig, StructMapConfig};
use rmp_serde::encode::Error as RmpError;
use serde::de::DeserializeOwned;
use serde::ser::{Error as _, Serialize, SerializeStruct, Serializer};

use super::keys;
use super::{DecodeError, EncodeError, Message, MessageHeader, decode};

/// A message that can leave the process: every [`Message`] that implements serde's traits.
///
/// `#[derive(Message)]` implements serde's traits too, except with `#[message(no_serde)]`.
///
/// ```
/// use dotcompute_core::message::{Encode, Message, MessageHeader, Priority};
///
/// #[derive(Message, Debug, PartialEq)]
/// struct Tick {
///     symbol: String,
///     price: f64,
/// }
///
/// let tick = Tick { symbol: "ACME".into(), price: 101.5 };
/// assert_eq!(Tick::decode(&tick.encode()?)?, tick);
///
/// let header = MessageHeader::new().with_priority(Priority::HIGH);
/// let bytes = tick.encode_with_header(&header)?;
/// assert_eq!(Tick::decode_with_header(&bytes)?, (header, tick));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Encode: Message + Serialize + DeserializeOwned {
    /// Encodes the message as MessagePack, without a header.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if a field has a reserved name, or if its `Serialize` impl fails.
    fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        self.encode_into(&mut out)?;
        Ok(out)
    }

    /// Appends the encoding without a header to `out`. Reusing `out` saves an allocation per message.
    ///
    /// # Errors
    ///
    /// As for [`encode`](Self::encode); `out` is unchanged then.
    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        pack(self, None, out)
    }

    /// Encodes the message and its header as one MessagePack map.
    ///
    /// # Errors
    ///
    /// As for [`encode`](Self::encode).
    fn encode_with_header(&self, header: &MessageHeader) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        pack(self, Some(header), &mut out)?;
        Ok(out)
    }

    /// Decodes a message. A header is ignored, and so are keys that are not fields of the type.
    ///
    /// Untrusted bytes are safe to pass: each length is checked against the remaining bytes before anything is allocated.
    ///
    /// # Errors
    ///
    /// [`DecodeError`], with the field and the offset in `bytes`.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode::message(bytes)
    }

    /// Decodes a header and a message. A missing `priority` is 128; a missing `correlation_id` is `None`.
    ///
    /// # Errors
    ///
    /// As for [`decode`](Self::decode), and if `message_id` is missing or a value of the header is invalid.
    fn decode_with_header(bytes: &[u8]) -> Result<(MessageHeader, Self), DecodeError> {
        decode::message_with_header(bytes)
    }
}

impl<T: Message + Serialize + DeserializeOwned> Encode for T {}

/// Encodes structs as maps, and `Vec<u8>` as bytes.
type MsgpackSerializer<'out> = RmpSerializer<&'out mut Vec<u8>, StructMapConfig<DefaultConfig>>;

/// Appends the message's map to `out`; on an error `out` is unchanged.
fn pack<T: Message + Serialize>(
    message: &T,
    header: Option<&MessageHeader>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let before = out.len();
    let mut packer = RmpSerializer::new(&mut *out).with_struct_map().with_bytes(BytesMode::ForceIterables);
    let mut field = None;
    let root = RootSerializer { packer: &mut packer, type_name: T::TYPE_NAME, header, field: &mut field };
    message.serialize(root).map_err(|error| {
        out.truncate(before);
        match field {
            Some(field) if keys::is_reserved(field) => {
                EncodeError::ReservedField { message_type: T::TYPE_NAME, field }
            }
            field => EncodeError::Value {
                message_type: T::TYPE_NAME,
                field: field.map(str::to_owned),
                reason: error.to_string(),
            },
        }
    })
}

/// Serializes the outermost value: a struct's fields as keys of the message's map, any other value under the key `value`.
struct RootSerializer<'a, 'out> {
    packer: &'a mut MsgpackSerializer<'out>,
    type_name: &'static str,
    header: Option<&'a MessageHeader>,
    /// The current field, for errors.
    field: &'a mut Option<&'static str>,
}

impl<'a, 'out> RootSerializer<'a, 'out> {
    /// Writes the map's length and the reserved keys. The caller writes `len` further pairs.
    fn open(&mut self, len: usize) -> Result<(), RmpError> {
        let reserved = if self.header.is_some() { 4 } else { 1 };
        let pairs = u32::try_from(len + reserved).map_err(|_| {
            RmpError::custom("it has more than 4,294,967,295 fields, the maximum of MessagePack")
        })?;
        rmp::encode::write_map_len(self.packer.get_mut(), pairs)?;
        self.pair(keys::TYPE, self.type_name)?;
        if let Some(header) = self.header {
            self.pair(keys::MESSAGE_ID, &header.message_id)?;
            self.pair(keys::PRIORITY, &header.priority.get())?;
            self.pair(keys::CORRELATION_ID, &header.correlation_id)?;
        }
        Ok(())
    }

    fn pair(&mut self, key: &str, value: &(impl Serialize + ?Sized)) -> Result<(), RmpError> {
        key.serialize(&mut *self.packer)?;
        value.serialize(&mut *self.packer)
    }

    /// Writes the map up to the key `value`. The caller writes the value.
    fn value(mut self) -> Result<&'a mut MsgpackSerializer<'out>, RmpError> {
        self.open(1)?;
        keys::VALUE.serialize(&mut *self.packer)?;
        Ok(self.packer)
    }
}

macro_rules! forward_to_value {
    ($($method:ident($($arg:ident: $ty:ty),*) -> $result:ty;)*) => {$(
        fn $method(self, $($arg: $ty),*) -> Result<$result, RmpError> {
            self.value()?.$method($($arg),*)
        }
    )*};
}

impl<'a, 'out> Serializer for RootSerializer<'a, 'out> {
    type Ok = ();
    type Error = RmpError;
    type SerializeStruct = FieldSerializer<'a, 'out>;
    type SerializeSeq = <&'a mut MsgpackSerializer<'out> as Serializer>::SerializeSeq;
    type SerializeTuple = <&'a mut MsgpackSerializer<'out> as Serializer>::SerializeTuple;
    type SerializeTupleStruct = <&'a mut MsgpackSerializer<'out> as Serializer>::SerializeTupleStruct;
    type SerializeTupleVariant = <&'a mut MsgpackSerializer<'out> as Serializer>::SerializeTupleVariant;
    type SerializeMap = <&'a mut MsgpackSerializer<'out> as Serializer>::SerializeMap;
    type SerializeStructVariant = <&'a mut MsgpackSerializer<'out> as Serializer>::SerializeStructVariant;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_struct(
        mut self,
        _name: &'static str,
        len: usize,
    ) -> Result<FieldSerializer<'a, 'out>, RmpError> {
        self.open(len)?;
        Ok(FieldSerializer { packer: self.packer, remaining: len, field: self.field })
    }

    fn serialize_unit(mut self) -> Result<(), RmpError> {
        self.open(0)
    }

    fn serialize_unit_struct(mut self, _name: &'static str) -> Result<(), RmpError> {
        self.open(0)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), RmpError> {
        self.value()?.serialize_some(value)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), RmpError> {
        self.value()?.serialize_newtype_struct(name, value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), RmpError> {
        self.value()?.serialize_newtype_variant(name, index, variant, value)
    }

    // The default method would encode `Vec<u8>` as an array.
    fn collect_seq<I>(self, items: I) -> Result<(), RmpError>
    where
        I: IntoIterator<Item: Serialize>,
    {
        self.value()?.collect_seq(items)
    }

    forward_to_value! {
        serialize_bool(v: bool) -> ();
        serialize_i8(v: i8) -> ();
        serialize_i16(v: i16) -> ();
        serialize_i32(v: i32) -> ();
        serialize_i64(v: i64) -> ();
        serialize_i128(v: i128) -> ();
        serialize_u8(v: u8) -> ();
        serialize_u16(v: u16) -> ();
        serialize_u32(v: u32) -> ();
        serialize_u64(v: u64) -> ();
        serialize_u128(v: u128) -> ();
        serialize_f32(v: f32) -> ();
        serialize_f64(v: f64) -> ();
        serialize_char(v: char) -> ();
        serialize_str(v: &str) -> ();
        serialize_bytes(v: &[u8]) -> ();
        serialize_none() -> ();
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str) -> ();
        serialize_seq(len: Option<usize>) -> Self::SerializeSeq;
        serialize_tuple(len: usize) -> Self::SerializeTuple;
        serialize_tuple_struct(name: &'static str, len: usize) -> Self::SerializeTupleStruct;
        serialize_tuple_variant(name: &'static str, index: u32, variant: &'static str, len: usize)
            -> Self::SerializeTupleVariant;
        serialize_map(len: Option<usize>) -> Self::SerializeMap;
        serialize_struct_variant(name: &'static str, index: u32, variant: &'static str, len: usize)
            -> Self::SerializeStructVariant;
    }
}

/// Serializes a struct's fields as keys of the message's map.
struct FieldSerializer<'a, 'out> {
    packer: &'a mut MsgpackSerializer<'out>,
    /// Number of announced fields that are not written yet.
    remaining: usize,
    field: &'a mut Option<&'static str>,
}

impl SerializeStruct for FieldSerializer<'_, '_> {
    type Ok = ();
    type Error = RmpError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), RmpError> {
        *self.field = Some(name);
        if keys::is_reserved(name) {
            return Err(RmpError::custom("reserved"));
        }
        let Some(remaining) = self.remaining.checked_sub(1) else {
            return Err(RmpError::custom("its Serialize impl writes more fields than it announced"));
        };
        self.remaining = remaining;
        name.serialize(&mut *self.packer)?;
        value.serialize(&mut *self.packer)
    }

    fn end(self) -> Result<(), RmpError> {
        if self.remaining > 0 {
            return Err(RmpError::custom("its Serialize impl writes fewer fields than it announced"));
        }
        Ok(())
    }
}
