use dotcompute_core::message::Message;

#[derive(Message)]
struct Order {
    id: u64,
    priority: u8,
}

fn main() {}
