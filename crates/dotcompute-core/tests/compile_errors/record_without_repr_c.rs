use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
struct Order {
    id: u64,
}

fn main() {}
