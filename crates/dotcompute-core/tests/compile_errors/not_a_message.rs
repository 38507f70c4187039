use dotcompute_core::message::Message;

struct Order;

fn send<T: Message>(_: T) {}

fn main() {
    send(Order);
}
