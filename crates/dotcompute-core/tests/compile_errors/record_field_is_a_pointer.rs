use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record, no_serde)]
#[repr(C)]
struct Order {
    id: u64,
    symbol: &'static str,
}

fn main() {}
