//! A pipeline of two connected ring kernels: the first squares numbers, the second sums them in windows of ten.
//!
//! Run with `cargo run --example pipeline`.

use std::time::Duration;

use dotcompute::prelude::*;

struct Square;

impl RingKernel for Square {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, number: u64, ctx: &mut Context<u64>) -> HandlerResult {
        ctx.send(number * number);
        Ok(())
    }
}

/// Sums windows of ten numbers.
#[derive(Default)]
struct Window {
    sum: u64,
    count: u32,
}

impl RingKernel for Window {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, number: u64, ctx: &mut Context<u64>) -> HandlerResult {
        self.sum += number;
        self.count += 1;
        if self.count == 10 {
            ctx.send(self.sum);
            *self = Self::default();
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::new()?;
    // Small mailboxes, so that backpressure propagates: when the mailbox of `window` is full, `square` is blocked on output and its own
    // mailbox fills up, which blocks its senders.
    let options = KernelOptions::new().capacity(16).telemetry(Telemetry::EVERY);
    let square = runtime.launch_with("square", options.clone(), || Square)?;
    let window = runtime.launch_with("window", options, Window::default)?;
    square.connect(&window)?;
    square.activate()?;
    window.activate()?;

    for number in 0..100 {
        square.tell(number)?;
    }
    let sums =
        (0..10).map(|_| window.receive_timeout(Duration::from_secs(5))).collect::<Result<Vec<_>, _>>()?;
    println!("sums of ten squares: {sums:?}");
    assert_eq!(sums.iter().sum::<u64>(), (0..100).map(|number| number * number).sum());

    for stats in runtime.all_stats() {
        println!(
            "{}: {} handled, p99 in the mailbox {:?}, p50 in the handler {:?}",
            stats.kernel, stats.handled, stats.queue_time.p99, stats.handle_time.p50
        );
        assert!(stats.is_conserved());
    }
    runtime.shutdown(Duration::from_secs(5))?;
    Ok(())
}
