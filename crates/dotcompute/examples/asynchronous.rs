//! Handles in async code, on whichever executor the program has.
//!
//! `cargo run --example asynchronous`

use std::time::Duration;

use dotcompute::prelude::*;

/// Keeps a balance; answers with it.
struct Account(i64);

impl RingKernel for Account {
    type Input = i64;
    type Output = i64;
    fn handle(&mut self, change: i64, ctx: &mut Context<i64>) -> HandlerResult {
        if self.0 + change < 0 {
            return Err(format!("{} cannot be taken from {}", -change, self.0).into());
        }
        self.0 += change;
        ctx.reply(self.0);
        Ok(())
    }
}

async fn trade(account: &KernelHandle<i64, i64>) -> Result<i64, Box<dyn std::error::Error>> {
    account.tell_async(100).await?;
    // An overdraft is refused, with the handler's own words, and changes nothing.
    let refused = account.ask_timeout_async(-500, Duration::from_secs(1)).await;
    println!("{}", refused.expect_err("there is not so much in it"));
    Ok(account.ask_async(-30).await?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::new()?;
    let options = KernelOptions::new().supervision(Supervision::Resume);
    let account = runtime.launch_with("account", options, || Account(0))?;
    account.activate()?;
    let balance = futures_lite::future::block_on(trade(&account))?;
    println!("balance: {balance}");
    assert_eq!(balance, 70);
    futures_lite::future::block_on(account.terminate_async(Duration::from_secs(5)))?;
    assert_eq!(account.state(), State::Terminated);
    Ok(())
}
