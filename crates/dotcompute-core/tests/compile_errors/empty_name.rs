use dotcompute_core::message::Message;

#[derive(Message)]
#[message(name = "")]
struct Order {
    id: u64,
}

fn main() {}
