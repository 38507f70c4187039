use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Order {
    id: u64,
    none: [u8; 0],
}

fn main() {}
