use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Order {
    id: u64,
    open: bool,
    _pad: [u8; 7],
}

fn main() {}
