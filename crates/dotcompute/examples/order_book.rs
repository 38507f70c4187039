//! Limit order matching: one Rust function, run on the CPU and on a device, with the same results to the last bit.
//!
//! `DOTCOMPUTE_DEVICE` selects the device: `cuda`, or `emulated`. Without a GPU this example uses the emulated device.
//! Run with `cargo run --release --example order_book`.

use std::time::{Duration, Instant};

use dotcompute::cuda::device_selection;
use dotcompute::prelude::*;

const LEVELS: usize = 64;
const BUY: u32 = 0;

/// A limit order. Prices are ticks, so that they are exact.
#[derive(Message, Clone, Copy, Debug)]
#[message(record)]
#[repr(C)]
struct Order {
    id: u64,
    price: u32,
    quantity: u32,
    side: u32,
    _pad: u32,
}

/// What became of an order.
#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[message(record)]
#[repr(C)]
struct Fill {
    id: u64,
    /// Price times quantity of what was traded at once.
    value: u64,
    filled: u32,
    resting: u32,
}

/// Quantities that wait at each price.
#[derive(Message, Clone, Copy, Debug, PartialEq)]
#[message(record)]
#[repr(C)]
struct Book {
    bids: [u32; LEVELS],
    asks: [u32; LEVELS],
    traded: u64,
}

const EMPTY: Book = Book { bids: [0; LEVELS], asks: [0; LEVELS], traded: 0 };

/// Takes as much as it can from one level, and returns the quantity.
#[device_fn]
fn take(level: &mut u32, wanted: u32) -> u32 {
    let taken = wanted.min(*level);
    *level -= taken;
    taken
}

#[device_handler]
fn on_order(ctx: &mut DeviceContext<Fill>, book: &mut Book, order: &Order) -> DeviceResult {
    let limit = order.price as usize;
    if order.quantity == 0 {
        return Err(DeviceError::new(1));
    }
    let mut left = order.quantity;
    let mut value = 0;
    if order.side == BUY {
        // The cheapest offers first.
        for price in 0..=limit {
            let taken = take(&mut book.asks[price], left);
            left -= taken;
            value += price as u64 * taken as u64;
            if left == 0 {
                break;
            }
        }
        book.bids[limit] += left;
    } else {
        for price in (limit..LEVELS).rev() {
            let taken = take(&mut book.bids[price], left);
            left -= taken;
            value += price as u64 * taken as u64;
            if left == 0 {
                break;
            }
        }
        book.asks[limit] += left;
    }
    book.traded += value;
    ctx.reply(Fill { id: order.id, value, filled: order.quantity - left, resting: left });
    Ok(())
}

/// A stream of orders around the middle price. A few have a price beyond the book, which is an error.
fn order(id: u64) -> Order {
    let random = |salt: u64| ((id * 8 + salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as u32;
    let price = if random(0) % 500 == 0 { 99 } else { 24 + random(1) % 16 };
    Order { id, price, quantity: 1 + random(2) % 100, side: random(3) % 2, _pad: 0 }
}

/// Sends the orders to a ring kernel. Returns its answers and the median time of one.
fn run(book: &KernelHandle<Order, Fill>, orders: u64) -> (Vec<Result<Fill, String>>, Duration) {
    let mut times = Vec::new();
    let answers = (0..orders).map(|id| {
        let start = Instant::now();
        let answer = book.ask(order(id));
        times.push(start.elapsed());
        answer.map_err(|error| error.to_string())
    });
    let answers = answers.collect();
    times.sort_unstable();
    (answers, times[times.len() / 2])
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const ORDERS: u64 = 5000;
    let mut selected = device_selection::from_environment()?;
    if selected.device.is_none() {
        println!("{}: {}", selected.kind, selected.reason);
        selected = device_selection::by_name("emulated")?;
    }
    println!("device: {} ({})", selected.kind, selected.reason);
    let options = selected.device.into_iter().fold(RuntimeOptions::new(), RuntimeOptions::device);
    let runtime = Runtime::with_options(options)?;
    let resume = || KernelOptions::new().supervision(Supervision::Resume);

    // Dropped and launched again under the same name, so that even the texts of errors are the same.
    let cpu = runtime.launch_with("book", resume(), on_order::handler().state(EMPTY))?;
    cpu.activate()?;
    let (expected, median) = run(&cpu, ORDERS);
    println!("CPU: median {median:?} an order");
    cpu.terminate(Duration::from_secs(5))?;

    let device = runtime.launch_on_device("book", resume(), on_order::handler().state(EMPTY))?;
    device.activate()?;
    let (answers, median) = run(&device, ORDERS);
    println!("device: median {median:?} an order");

    assert_eq!(answers, expected);
    let refused = answers.iter().filter(|answer| answer.is_err()).count();
    let book: Book = device.checkpoint(Duration::from_secs(5))?;
    println!("{ORDERS} orders, {refused} refused, {} traded: the same on both", book.traded);
    if let Some(Err(error)) = answers.iter().find(|answer| answer.is_err()) {
        println!("a refused order: {error}");
    }
    runtime.shutdown(Duration::from_secs(5))?;
    Ok(())
}
