//! Messages to MessagePack. The format is described in the [module's page](super#wire-format).

use rmp_serde::Serializer as Packer;
use rmp_serde::config::{BytesMode, DefaultConfig, StructMapConfig};
use rmp_serde::encode::Error as PackError;
use serde::de::DeserializeOwned;
use serde::ser::{Error as _, Serialize, SerializeStruct, Serializer};

use super::keys;
use super::{DecodeError, EncodeError, Message, MessageHeader, decode};

/// A message that can leave the process: every [`Message`] that serde can write and read.
///
/// `#[derive(Message)]` implements serde's traits too, unless told `#[message(no_serde)]`.
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
    /// The message as MessagePack, without a header.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] if a field has a reserved name, or if its `Serialize` impl fails.
    fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        self.encode_into(&mut out)?;
        Ok(out)
    }

    /// Appends the message as MessagePack, without a header. Reusing `out` saves an allocation per message.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode); `out` is then as it was.
    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        pack(self, None, out)
    }

    /// The message and its header as one MessagePack map.
    ///
    /// # Errors
    ///
    /// As [`encode`](Self::encode).
    fn encode_with_header(&self, header: &MessageHeader) -> Result<Vec<u8>, EncodeError> {
        let mut out = Vec::new();
        pack(self, Some(header), &mut out)?;
        Ok(out)
    }

    /// The message in `bytes`. A header there is ignored, and so are keys that the type does not know.
    ///
    /// Any bytes are safe to pass. Nothing is allocated on the word of a length in them.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] says what is wrong, in which field and where in `bytes`.
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode::message(bytes)
    }

    /// The header and the message in `bytes`. Without `priority` it is 128, without `correlation_id` there is none.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] as for [`decode`](Self::decode), and where `message_id` is missing or any of the three is not what
    /// it must be.
    fn decode_with_header(bytes: &[u8]) -> Result<(MessageHeader, Self), DecodeError> {
        decode::message_with_header(bytes)
    }
}

impl<T: Message + Serialize + DeserializeOwned> Encode for T {}

/// Structs become maps; `Vec<u8>` becomes bytes.
type Pack<'out> = Packer<&'out mut Vec<u8>, StructMapConfig<DefaultConfig>>;

/// Appends the map, or leaves `out` as it was.
fn pack<T: Message + Serialize>(
    message: &T,
    header: Option<&MessageHeader>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let before = out.len();
    let mut packer = Packer::new(&mut *out).with_struct_map().with_bytes(BytesMode::ForceIterables);
    let mut field = None;
    let top = Top { packer: &mut packer, type_name: T::TYPE_NAME, header, field: &mut field };
    message.serialize(top).map_err(|error| {
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

/// Serialises the outermost value: a struct's fields go into the message's map, anything else under the key `value`.
struct Top<'a, 'out> {
    packer: &'a mut Pack<'out>,
    type_name: &'static str,
    header: Option<&'a MessageHeader>,
    /// The field being written, for errors.
    field: &'a mut Option<&'static str>,
}

impl<'a, 'out> Top<'a, 'out> {
    /// Opens the map and writes the format's own keys; `len` pairs are to follow.
    fn open(&mut self, len: usize) -> Result<(), PackError> {
        let own = if self.header.is_some() { 4 } else { 1 };
        let pairs = u32::try_from(len + own)
            .map_err(|_| PackError::custom("it has more than 4,294,967,295 fields"))?;
        rmp::encode::write_map_len(self.packer.get_mut(), pairs)?;
        self.pair(keys::TYPE, self.type_name)?;
        if let Some(header) = self.header {
            self.pair(keys::MESSAGE_ID, &header.message_id)?;
            self.pair(keys::PRIORITY, &header.priority.get())?;
            self.pair(keys::CORRELATION_ID, &header.correlation_id)?;
        }
        Ok(())
    }

    fn pair(&mut self, key: &str, value: &(impl Serialize + ?Sized)) -> Result<(), PackError> {
        key.serialize(&mut *self.packer)?;
        value.serialize(&mut *self.packer)
    }

    /// Opens the map for a message without named fields. The caller writes the value.
    fn value(mut self) -> Result<&'a mut Pack<'out>, PackError> {
        self.open(1)?;
        keys::VALUE.serialize(&mut *self.packer)?;
        Ok(self.packer)
    }
}

macro_rules! under_value {
    ($($method:ident($($arg:ident: $ty:ty),*) -> $result:ty;)*) => {$(
        fn $method(self, $($arg: $ty),*) -> Result<$result, PackError> {
            self.value()?.$method($($arg),*)
        }
    )*};
}

impl<'a, 'out> Serializer for Top<'a, 'out> {
    type Ok = ();
    type Error = PackError;
    type SerializeStruct = Fields<'a, 'out>;
    type SerializeSeq = <&'a mut Pack<'out> as Serializer>::SerializeSeq;
    type SerializeTuple = <&'a mut Pack<'out> as Serializer>::SerializeTuple;
    type SerializeTupleStruct = <&'a mut Pack<'out> as Serializer>::SerializeTupleStruct;
    type SerializeTupleVariant = <&'a mut Pack<'out> as Serializer>::SerializeTupleVariant;
    type SerializeMap = <&'a mut Pack<'out> as Serializer>::SerializeMap;
    type SerializeStructVariant = <&'a mut Pack<'out> as Serializer>::SerializeStructVariant;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_struct(mut self, _name: &'static str, len: usize) -> Result<Fields<'a, 'out>, PackError> {
        self.open(len)?;
        Ok(Fields { packer: self.packer, to_come: len, field: self.field })
    }

    fn serialize_unit(mut self) -> Result<(), PackError> {
        self.open(0)
    }

    fn serialize_unit_struct(mut self, _name: &'static str) -> Result<(), PackError> {
        self.open(0)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), PackError> {
        self.value()?.serialize_some(value)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), PackError> {
        self.value()?.serialize_newtype_struct(name, value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), PackError> {
        self.value()?.serialize_newtype_variant(name, index, variant, value)
    }

    // Not the default method, which would write `Vec<u8>` as an array.
    fn collect_seq<I>(self, items: I) -> Result<(), PackError>
    where
        I: IntoIterator<Item: Serialize>,
    {
        self.value()?.collect_seq(items)
    }

    under_value! {
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

/// Writes a struct's fields into the message's map.
struct Fields<'a, 'out> {
    packer: &'a mut Pack<'out>,
    /// How many fields the map's length still promises.
    to_come: usize,
    field: &'a mut Option<&'static str>,
}

impl SerializeStruct for Fields<'_, '_> {
    type Ok = ();
    type Error = PackError;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), PackError> {
        *self.field = Some(name);
        if keys::is_reserved(name) {
            return Err(PackError::custom("reserved"));
        }
        let Some(to_come) = self.to_come.checked_sub(1) else {
            return Err(PackError::custom("its Serialize impl writes more fields than it announced"));
        };
        self.to_come = to_come;
        name.serialize(&mut *self.packer)?;
        value.serialize(&mut *self.packer)
    }

    fn end(self) -> Result<(), PackError> {
        if self.to_come > 0 {
            return Err(PackError::custom("its Serialize impl writes fewer fields than it announced"));
        }
        Ok(())
    }
}
