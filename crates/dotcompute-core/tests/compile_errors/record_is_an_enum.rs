use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
#[message(record)]
#[repr(C)]
enum Side {
    Buy,
    Sell,
}

fn main() {}
