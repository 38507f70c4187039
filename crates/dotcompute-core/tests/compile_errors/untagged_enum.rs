use dotcompute_core::message::Message;

#[derive(Message)]
#[serde(untagged)]
enum Number {
    Int(u64),
    Float(f64),
}

fn main() {}
