//! Messages as MessagePack, for other processes and languages, and as records, for devices.
//!
//! Run with `cargo run --example messages`.

use dotcompute::message::record::RecordMessage;
use dotcompute::message::{Encode, MessageHeader};
use dotcompute::prelude::*;

#[derive(Debug, PartialEq, Message)]
struct Order {
    symbol: String,
    price: f64,
    amount: u32,
}

/// A record: the layout is the same on the host and on devices.
#[derive(Debug, Clone, Copy, PartialEq, Message)]
#[message(record)]
#[repr(C)]
struct Particle {
    position: [f32; 3],
    mass: f32,
    id: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let order = Order { symbol: String::from("ACME"), price: 12.5, amount: 100 };
    let header = MessageHeader::new().with_priority(Priority::HIGH);
    let bytes = order.encode_with_header(&header)?;
    println!("{} bytes of MessagePack for {order:?}", bytes.len());
    let (decoded_header, decoded) = Order::decode_with_header(&bytes)?;
    assert_eq!((decoded_header, &decoded), (header, &order));

    let error = Order::decode(&bytes[..bytes.len() / 2]).expect_err("the message is truncated");
    println!("{error}");

    println!("{}", Particle::c_struct());
    assert_eq!(Particle::LAYOUT.size, 24);
    Ok(())
}
