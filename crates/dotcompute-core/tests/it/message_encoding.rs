//! Encoding and decoding of messages: the bytes written, the bytes accepted, and the errors.

use std::collections::BTreeMap;
use std::fmt::Debug;

use dotcompute_core::message::{
    DecodeError, DecodeErrorKind as Kind, Encode, EncodeError, Message, MessageHeader, MessageId, Priority,
};
use proptest::prelude::*;
use uuid::Uuid;

#[derive(Message, Clone, Debug, PartialEq)]
struct Tick {
    symbol: String,
    price: f64,
    size: Option<u32>,
}

#[derive(Message, Clone, Debug, PartialEq)]
struct Everything {
    small: i8,
    large: u64,
    largest: i128,
    ratio: f32,
    letter: char,
    blob: Vec<u8>,
    key: [u8; 4],
    nested: Option<Box<Everything>>,
    ticks: Vec<Tick>,
    table: BTreeMap<String, (i32, bool)>,
    command: Command,
    answers: Option<MessageId>,
}

#[derive(Message, Clone, Debug, PartialEq)]
#[message(name = "exchange.Command")]
enum Command {
    Halt,
    Rename(String),
    Move(i32, i32),
    SetLimit { symbol: String, limit: f64 },
}

#[derive(Message, Clone, Debug, PartialEq)]
#[serde(tag = "kind")]
enum Tagged {
    Start { at: u64 },
    Stop,
}

#[derive(Message, Clone, Debug, PartialEq)]
struct Stop;

#[derive(Message, Clone, Debug, PartialEq)]
struct Celsius(f64);

#[derive(Message, Clone, Debug, PartialEq)]
struct Point(i32, i32);

#[derive(Message, Clone, Debug, PartialEq)]
struct Pair<T, const N: usize> {
    left: T,
    right: T,
}

#[derive(Message, Clone, Debug, PartialEq)]
struct Renamed {
    #[serde(rename = "prio")]
    priority: u8,
    #[serde(default)]
    note: String,
    #[serde(skip)]
    message_id: u8,
    r#type: u8,
}

/// Arrays longer than serde supports.
#[derive(Message, Clone, Debug, PartialEq)]
struct Arrays<T, const N: usize> {
    items: [T; N],
    table: [[Option<T>; N]; 2],
}

/// A node of a tree, for arbitrary nesting.
#[derive(Message, Clone, Debug, PartialEq)]
struct Node {
    children: Vec<Node>,
}

fn tick() -> Tick {
    Tick { symbol: "ACME".into(), price: 101.5, size: Some(300) }
}

#[track_caller]
fn round_trips<T: Encode + Debug + PartialEq>(message: T) {
    let bytes = message.encode().expect("encodes");
    assert_eq!(T::decode(&bytes).expect("decodes"), message);

    let header = MessageHeader::new().with_priority(Priority::from(7)).reply_to(&MessageHeader::new());
    let bytes = message.encode_with_header(&header).expect("encodes");
    assert_eq!(T::decode_with_header(&bytes).expect("decodes"), (header, message));
}

#[track_caller]
fn decode_error<T: Encode + Debug>(bytes: &[u8]) -> DecodeError {
    T::decode(bytes).expect_err("these bytes are invalid")
}

/// A short MessagePack string.
fn text(text: &str) -> Vec<u8> {
    let mut bytes = vec![0xa0 | u8::try_from(text.len()).expect("short")];
    bytes.extend(text.as_bytes());
    bytes
}

/// A short MessagePack map.
fn map(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0x80 | u8::try_from(pairs.len()).expect("short")];
    for (key, value) in pairs {
        bytes.extend(text(key));
        bytes.extend(*value);
    }
    bytes
}

#[test]
fn every_shape_round_trips() {
    round_trips(tick());
    round_trips(Tick { symbol: String::new(), price: -0.0, size: None });
    round_trips(Command::Halt);
    round_trips(Command::Rename("x".repeat(70_000)));
    round_trips(Command::Move(-1, i32::MAX));
    round_trips(Command::SetLimit { symbol: "ACME".into(), limit: 1e300 });
    round_trips(Tagged::Start { at: 5 });
    round_trips(Tagged::Stop);
    round_trips(Stop);
    round_trips(Celsius(21.5));
    round_trips(Point(1, -1));
    round_trips(Pair::<_, 3> { left: Some(1_u8), right: None });
    round_trips(Renamed { priority: 9, note: "n".into(), message_id: 0, r#type: 1 });
    round_trips(Arrays {
        items: std::array::from_fn::<_, 40, _>(|i| i as u64),
        table: [[Some(1), None].repeat(20).try_into().expect("40"), [None; 40]],
    });
    round_trips(());
    round_trips(42_u64);
    round_trips(i128::MIN);
    round_trips(String::from("text"));
    round_trips(vec![0_u8, 255]);
    round_trips(Vec::<u8>::new());
    round_trips([1.5_f32; 3]);
    round_trips((1_u8, String::from("two"), Some(3.0_f64), 'x'));
    round_trips(Option::<u64>::None);
    round_trips(Some(Box::new(tick())));
}

#[test]
fn generic_names_contain_their_arguments() {
    assert_eq!(Pair::<Vec<u8>, 3>::TYPE_NAME, "Pair<Vec<u8>, 3>");
    assert_ne!(Pair::<u8, 3>::type_id(), Pair::<u8, 4>::type_id());
}

#[test]
fn the_bytes_are_the_documented_ones() {
    let id = MessageId::from_bytes(*b"0123456789abcdef").expect("not nil");
    let header = MessageHeader { message_id: id, correlation_id: None, priority: Priority::HIGH };
    let mut uuid = vec![0x81];
    uuid.extend(text("__uuid_bin__"));
    uuid.extend([0xc4, 16]);
    uuid.extend(b"0123456789abcdef");
    let expected = map(&[
        ("__type__", &text("Tick")),
        ("message_id", &uuid),
        ("priority", &[0xcc, 192]),
        ("correlation_id", &[0xc0]),
        ("symbol", &text("ACME")),
        ("price", &[0xcb, 0x40, 0x59, 0x60, 0, 0, 0, 0, 0]),
        ("size", &[0xcd, 0x01, 0x2c]),
    ]);
    assert_eq!(tick().encode_with_header(&header), Ok(expected));

    assert_eq!(Stop.encode(), Ok(map(&[("__type__", &text("Stop"))])));
    assert_eq!(().encode(), Ok(map(&[("__type__", &text("()"))])));
    assert_eq!(7_u8.encode(), Ok(map(&[("__type__", &text("u8")), ("value", &[7])])));
    assert_eq!(
        vec![1_u8, 2].encode(),
        Ok(map(&[("__type__", &text("Vec<u8>")), ("value", &[0xc4, 2, 1, 2])]))
    );
    assert_eq!(
        Command::Move(1, 2).encode(),
        Ok(map(&[("__type__", &text("exchange.Command")), ("value", &map(&[("Move", &[0x92, 1, 2])]))]))
    );
    assert_eq!(
        Tagged::Start { at: 5 }.encode(),
        Ok(map(&[("__type__", &text("Tagged")), ("kind", &text("Start")), ("at", &[5])]))
    );
}

#[test]
fn any_order_and_unknown_keys_are_accepted() {
    let bytes = map(&[
        ("size", &[0xc0]),
        ("colour", &[0x93, 1, 0x81, 2, 3, 0xc0]),
        ("price", &[3]),
        ("__type__", &text("Tick")),
        ("symbol", &text("ACME")),
    ]);
    let expected = Tick { symbol: "ACME".into(), price: 3.0, size: None };
    assert_eq!(Tick::decode(&bytes), Ok(expected));

    // Keys that are not strings: a number and a map.
    let bytes =
        [&[0x84, 5, 6, 0x81, 1, 2, 3][..], &map(&[("__type__", &text("u8")), ("value", &[9])])[1..]].concat();
    assert_eq!(u8::decode(&bytes), Ok(9));
}

#[test]
fn bytes_are_decoded_from_bin_and_from_array() {
    for value in [&[0xc4, 2, 1, 2][..], &[0x92, 1, 2]] {
        assert_eq!(
            Vec::<u8>::decode(&map(&[("__type__", &text("Vec<u8>")), ("value", value)])),
            Ok(vec![1, 2])
        );
    }
}

#[test]
fn a_header_may_lack_everything_except_its_id() {
    let id = MessageId::next();
    let uuid = map(&[("__uuid_bin__", &[&[0xc4, 16][..], &id.to_bytes()].concat())]);
    let bytes = map(&[("__type__", &text("Stop")), ("message_id", &uuid)]);
    let header = MessageHeader { message_id: id, correlation_id: None, priority: Priority::NORMAL };
    assert_eq!(Stop::decode_with_header(&bytes), Ok((header, Stop)));

    let error = Stop::decode_with_header(&Stop.encode().expect("encodes")).expect_err("no header");
    assert_eq!((error.field.as_deref(), error.kind), (Some("message_id"), Kind::MissingField));
}

#[test]
fn a_header_with_an_invalid_value_is_rejected() {
    let nil = map(&[("__uuid_bin__", &[&[0xc4, 16][..], &[0; 16]].concat())]);
    let short = map(&[("__uuid_bin__", &[0xc4, 1, 1])]);
    for (key, value) in [
        ("message_id", &nil[..]),
        ("message_id", &short),
        ("message_id", &[0x80]),
        ("message_id", &map(&[("uuid", &[1])])),
        ("message_id", &[0xc0]),
        ("correlation_id", &nil),
        ("priority", &[0xcd, 1, 0]),
        ("priority", &[0xff]),
        ("priority", &text("high")),
    ] {
        let good = MessageId::next().to_bytes();
        let good = map(&[("__uuid_bin__", &[&[0xc4, 16][..], &good].concat())]);
        let mut pairs = vec![("__type__", text("Stop")), (key, value.to_vec())];
        if key != "message_id" {
            pairs.push(("message_id", good));
        }
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (*key, &value[..])).collect();
        let error = Stop::decode_with_header(&map(&pairs)).expect_err("the header is invalid");
        assert_eq!(error.field.as_deref(), Some(key), "{error}");
        assert!(matches!(error.kind, Kind::InvalidValue { .. }), "{error}");
    }
}

#[test]
fn errors_name_the_field_and_the_offset() {
    let typed = |pairs: &[(&str, &[u8])]| map(&[&[("__type__", &text("Tick")[..])], pairs].concat());

    assert_eq!(decode_error::<Tick>(&[]).kind, Kind::Truncated { needed: 1, remaining: 0 });
    assert_eq!(decode_error::<Tick>(&[0x93, 1, 2, 3]).kind, Kind::NotAMap);
    assert_eq!(decode_error::<Tick>(&map(&[])).kind, Kind::MissingType);
    assert_eq!(
        decode_error::<Tick>(&Stop.encode().expect("encodes")),
        DecodeError {
            message_type: "Tick",
            field: None,
            offset: Some(10),
            kind: Kind::WrongType { found: "Stop".into() }
        }
    );
    let error = decode_error::<Tick>(&map(&[("__type__", &[7])]));
    assert_eq!((error.field.as_deref(), error.offset), (Some("__type__"), Some(10)));

    let error = decode_error::<Tick>(&typed(&[("symbol", &text("A"))]));
    assert_eq!((error.field.as_deref(), error.kind), (Some("price"), Kind::MissingField));

    let error = decode_error::<Tick>(&typed(&[("symbol", &text("A")), ("price", &text("cheap"))]));
    assert_eq!((error.field.as_deref(), error.offset), (Some("price"), Some(30)));
    assert_eq!(
        error.to_string(),
        "decoding message `Tick`, field `price`, at byte 30: got a string, which is not the declared type; \
         write the declared type in the sender"
    );

    let error = decode_error::<Tick>(&typed(&[("price", &[1]), ("price", &[1])]));
    assert_eq!((error.field.as_deref(), error.kind), (Some("price"), Kind::DuplicateField));
    let error = decode_error::<Tick>(&typed(&[("__type__", &text("Tick"))]));
    assert_eq!((error.field.as_deref(), error.kind), (Some("__type__"), Kind::DuplicateField));
    let error = decode_error::<u8>(&map(&[("__type__", &text("u8")), ("value", &[1]), ("value", &[1])]));
    assert_eq!((error.field.as_deref(), error.kind), (Some("value"), Kind::DuplicateField));

    let mut bytes = tick().encode().expect("encodes");
    let end = bytes.len();
    bytes.extend([0, 0]);
    let error = decode_error::<Tick>(&bytes);
    assert_eq!((error.offset, error.kind), (Some(end), Kind::TrailingBytes { count: 2 }));

    let error = decode_error::<Tick>(&typed(&[("price", &[0xc1])]));
    assert_eq!(
        (error.field.as_deref(), error.offset, error.kind),
        (Some("price"), Some(21), Kind::InvalidByte)
    );
}

#[test]
fn an_array_must_have_exactly_its_elements() {
    let arrays = |items: &[u8], table: &[u8]| {
        Arrays::<u8, 2>::decode(&map(&[
            ("__type__", &text("Arrays<u8, 2>")),
            ("items", items),
            ("table", table),
        ]))
    };
    let table: &[u8] = &[0x92, 0x92, 0xc0, 1, 0x92, 2, 0xc0];
    let expected = Arrays { items: [1, 2], table: [[None, Some(1)], [Some(2), None]] };
    assert_eq!(arrays(&[0x92, 1, 2], table), Ok(expected.clone()));
    assert_eq!(arrays(&[0xc4, 2, 1, 2], table), Ok(expected));
    for invalid in [&[0x91, 1][..], &[0x93, 1, 2, 3], &[0xc4, 1, 1], &[0xc4, 3, 1, 2, 3], &[0x80], &[0xc0]] {
        let error = arrays(invalid, table).expect_err("the array is too short, too long or not an array");
        assert_eq!(error.field.as_deref(), Some("items"), "{error}");
    }
    let error =
        arrays(&[0x92, 1, 2], &[0x92, 0x92, 1, 1, 0x93, 1, 1, 1]).expect_err("an inner array is too long");
    assert_eq!(error.field.as_deref(), Some("table"), "{error}");
}

#[test]
fn a_length_is_checked_before_allocation() {
    // An array of 4,294,967,295 ticks, announced in five bytes.
    let bytes = map(&[("__type__", &text("Vec<Tick>")), ("value", &[0xdd, 0xff, 0xff, 0xff, 0xff])]);
    let error = decode_error::<Vec<Tick>>(&bytes);
    assert_eq!(error.field.as_deref(), Some("value"));
    assert_eq!(error.kind, Kind::Truncated { needed: 0xffff_ffff, remaining: 0 });
}

#[test]
fn nesting_is_bounded() {
    let nest =
        |depth: usize| (1..depth).fold(Node { children: vec![] }, |node, _| Node { children: vec![node] });
    // Each node is a map and an array; the outermost map is that of the message.
    round_trips(nest(64));
    let bytes = nest(65).encode().expect("encodes");
    assert_eq!(decode_error::<Node>(&bytes).kind, Kind::TooDeep { limit: 128 });

    let mut bytes = map(&[("__type__", &text("Node")), ("children", &[])]);
    bytes.extend([0x91; 1_000_000]);
    assert_eq!(decode_error::<Node>(&bytes).kind, Kind::TooDeep { limit: 128 });
}

#[test]
fn a_reserved_name_that_the_derive_cannot_check_is_an_error() {
    #[derive(Message, Debug)]
    struct Sneaky {
        #[serde(rename = "priority")]
        _urgency: u8,
    }
    let mut out = b"before".to_vec();
    let error = Sneaky { _urgency: 1 }.encode_into(&mut out).expect_err("the name is reserved");
    assert_eq!(error, EncodeError::ReservedField { message_type: "Sneaky", field: "priority" });
    assert_eq!(out, b"before", "partial output is removed");
}

#[test]
fn ids_are_strings_in_human_readable_formats() {
    let id = MessageId::next();
    let json = serde_json::to_string(&id).expect("encodes");
    assert_eq!(json, format!("\"{id}\""));
    assert_eq!(serde_json::from_str::<MessageId>(&json).expect("decodes"), id);
    assert!(serde_json::from_str::<MessageId>(&format!("\"{}\"", Uuid::nil())).is_err());
}

fn any_tick() -> impl Strategy<Value = Tick> {
    (".*", prop::num::f64::NORMAL, any::<Option<u32>>()).prop_map(|(symbol, price, size)| Tick {
        symbol,
        price,
        size,
    })
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        Just(Command::Halt),
        ".*".prop_map(Command::Rename),
        any::<(i32, i32)>().prop_map(|(x, y)| Command::Move(x, y)),
        (".*", prop::num::f64::NORMAL).prop_map(|(symbol, limit)| Command::SetLimit { symbol, limit }),
    ]
}

fn any_id() -> impl Strategy<Value = MessageId> {
    (1_u128..).prop_map(|bits| Uuid::from_u128(bits).try_into().expect("not nil"))
}

prop_compose! {
    fn any_leaf()(
        small: i8, large: u64, largest: i128, ratio in prop::num::f32::NORMAL, letter: char, blob: Vec<u8>, key: [u8; 4],
        ticks in prop::collection::vec(any_tick(), 0..3),
        table in prop::collection::btree_map(".*", any::<(i32, bool)>(), 0..3),
        command in any_command(),
        answers in prop::option::of(any_id()),
    ) -> Everything {
        Everything { small, large, largest, ratio, letter, blob, key, nested: None, ticks, table, command, answers }
    }
}

fn any_everything() -> impl Strategy<Value = Everything> {
    any_leaf().prop_recursive(3, 8, 1, |inner| {
        (any_leaf(), inner).prop_map(|(leaf, inner)| Everything { nested: Some(Box::new(inner)), ..leaf })
    })
}

proptest! {
    #[test]
    fn encoded_messages_decode_to_themselves(
        message in any_everything(), message_id in any_id(), correlation_id in prop::option::of(any_id()), priority: u8,
    ) {
        prop_assert_eq!(&Everything::decode(&message.encode()?)?, &message);
        let header = MessageHeader { message_id, correlation_id, priority: priority.into() };
        prop_assert_eq!(Everything::decode_with_header(&message.encode_with_header(&header)?)?, (header, message));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Everything::decode_with_header(&bytes);
        let _ = Command::decode(&bytes);
    }

    /// Starts with a valid type, so that arbitrary bytes reach the fields.
    #[test]
    fn arbitrary_fields_never_panic(pairs: u8, bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for name in ["exchange.Command", "Vec<u8>", "Tick", "Everything", "Tagged"] {
            for key in ["value", "nested", "kind", "command"] {
                let mut message = map(&[("__type__", &text(name)), (key, &bytes)]);
                message[0] = message[0].wrapping_add(pairs % 4);
                let _ = Command::decode(&message);
                let _ = Vec::<u8>::decode(&message);
                let _ = Tick::decode(&message);
                let _ = Everything::decode(&message);
                let _ = Tagged::decode(&message);
            }
        }
    }

    #[test]
    fn a_truncated_message_is_rejected(message in any_everything(), at: prop::sample::Index) {
        let bytes = message.encode()?;
        let cut = at.index(bytes.len());
        let error = Everything::decode(&bytes[..cut]).expect_err("the end is missing");
        prop_assert!(matches!(error.kind, Kind::Truncated { .. }), "{error}");
        prop_assert!(error.offset.is_some_and(|offset| offset <= cut));
    }

    #[test]
    fn damage_never_panics(
        message in any_everything(), damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = message.encode_with_header(&MessageHeader::new())?;
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        match Everything::decode_with_header(&bytes) {
            Ok((header, message)) => {
                // A decoded message can be encoded again.
                let again = message.encode_with_header(&header)?;
                prop_assert_eq!(Everything::decode_with_header(&again)?.0, header);
            }
            Err(error) => prop_assert_eq!(error.message_type, "Everything"),
        }
    }
}
