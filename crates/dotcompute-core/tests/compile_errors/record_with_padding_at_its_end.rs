use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Order {
    id: u64,
    side: u8,
}

fn main() {}
