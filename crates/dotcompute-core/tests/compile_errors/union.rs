use dotcompute_core::message::Message;

#[derive(Message, Clone, Copy)]
union Number {
    int: u64,
    float: f64,
}

fn main() {}
