use dotcompute_core::message::Message;

#[derive(Message)]
struct Borrowed<'a> {
    text: &'a str,
}

fn main() {}
