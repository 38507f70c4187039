use dotcompute_core::message::Message;

#[derive(Message)]
#[message(nmae = "order")]
struct Order {
    id: u64,
}

fn main() {}
