use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
struct Order {
    id: u64,
    template: u64,
}

fn main() {}
