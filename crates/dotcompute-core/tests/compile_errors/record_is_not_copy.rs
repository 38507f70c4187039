use dotcompute_core::message::Message;

#[derive(Message)]
#[message(record)]
#[repr(C)]
struct Order {
    id: u64,
}

fn main() {}
