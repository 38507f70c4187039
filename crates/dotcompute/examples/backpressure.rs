//! Backpressure: a full mailbox rejects messages, drops the oldest one, or blocks the sender. Every message is accounted for.
//!
//! Run with `cargo run --example backpressure`.

use std::time::Duration;

use dotcompute::prelude::*;

struct Count(u64);

impl RingKernel for Count {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, _message: u64, _ctx: &mut Context<u64>) -> HandlerResult {
        self.0 += 1;
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let timeout = Duration::from_secs(5);
    for backpressure in
        [Backpressure::Reject, Backpressure::DropOldest, Backpressure::BlockFor(Duration::from_millis(1))]
    {
        let runtime = Runtime::new()?;
        let options = KernelOptions::new().capacity(4).backpressure(backpressure);
        let count = runtime.launch_with("count", options, || Count(0))?;
        count.activate()?;
        // A deactivated ring kernel takes no messages, so its mailbox fills up.
        count.deactivate(timeout)?;
        for message in 0..6 {
            match count.tell(message) {
                Ok(()) => {}
                Err(error) => println!("message {message}: {error}"),
            }
        }
        count.reactivate()?;
        count.terminate(timeout)?;
        let stats = count.stats();
        println!(
            "{backpressure:?}: {} sent, {} handled, {} dead letters, {} rejected",
            stats.sent, stats.handled, stats.dead_letters, stats.rejected
        );
        assert_eq!(stats.handled, 4);
        assert_eq!(stats.sent + stats.rejected, 6);
        assert!(stats.is_conserved());
    }
    Ok(())
}
