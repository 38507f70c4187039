use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Order {
    side: u8,
    id: u64,
}

fn main() {}
