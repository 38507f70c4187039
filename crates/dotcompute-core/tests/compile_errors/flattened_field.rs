use dotcompute_core::message::Message;

#[derive(Message)]
struct Inner {
    id: u64,
}

#[derive(Message)]
struct Order {
    #[serde(flatten)]
    inner: Inner,
}

fn main() {}
