//! Messages as bytes that other languages can read, and as records that devices can read.
//!
//! `cargo run --example messages`

use dotcompute::message::record::RecordMessage;
use dotcompute::message::{Encode, MessageHeader};
use dotcompute::prelude::*;

#[derive(Debug, PartialEq, Message)]
struct Order {
    symbol: String,
    price: f64,
    amount: u32,
}

/// The same layout here and on a device.
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
    let (same_header, same) = Order::decode_with_header(&bytes)?;
    assert_eq!((same_header, &same), (header, &order));

    let error = Order::decode(&bytes[..bytes.len() / 2]).expect_err("half a message is no message");
    println!("{error}");

    println!("{}", Particle::c_struct());
    assert_eq!(Particle::LAYOUT.size, 24);
    Ok(())
}
