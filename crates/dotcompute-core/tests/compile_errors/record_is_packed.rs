use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C, packed)]
struct Order {
    id: u64,
}

fn main() {}
