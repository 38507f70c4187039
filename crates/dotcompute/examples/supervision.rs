//! Supervision: a handler panics. The caller gets an error with the cause, the state is rebuilt, and the message becomes a dead letter.
//!
//! Run with `cargo run --example supervision`.

use std::time::Duration;

use dotcompute::prelude::*;

/// Divides 1000 by each message, and counts them since the last restart.
struct Divider {
    messages: u32,
}

impl RingKernel for Divider {
    type Input = u32;
    type Output = u32;
    fn handle(&mut self, by: u32, ctx: &mut Context<u32>) -> HandlerResult {
        self.messages += 1;
        // Panics when `by` is 0.
        ctx.reply(1000 / by);
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::new()?;
    let policy = Supervision::restart(3, Duration::from_secs(10));
    let divider = runtime
        .launch_with("divider", KernelOptions::new().supervision(policy), || Divider { messages: 0 })?;
    divider.activate()?;

    println!("1000 / 8 = {}", divider.ask(8)?);
    let error = divider.ask(0).expect_err("division by zero panics");
    println!("{error}");
    assert!(error.to_string().contains("divide by zero"));
    println!("1000 / 5 = {}, after a restart", divider.ask(5)?);

    let stats = divider.stats();
    println!(
        "{} sent, {} handled, {} dead letters, {} restarts",
        stats.sent, stats.handled, stats.dead_letters, stats.restarts
    );
    assert_eq!((stats.handled, stats.dead_letters, stats.restarts), (2, 1, 1));
    for letter in runtime.dead_letters() {
        println!("dead letter {}: {}", letter.header.message_id, letter.fault);
    }
    runtime.shutdown(Duration::from_secs(5))?;
    Ok(())
}
