//! Async callers: `tell` and `ask` as futures, on any executor.
//!
//! Run with `cargo run --example asynchronous`.

use std::time::Duration;

use dotcompute::prelude::*;

/// Holds a balance, and replies with it.
struct Account(i64);

impl RingKernel for Account {
    type Input = i64;
    type Output = i64;
    fn handle(&mut self, change: i64, ctx: &mut Context<i64>) -> HandlerResult {
        if self.0 + change < 0 {
            return Err(format!("withdrawing {} from a balance of {}", -change, self.0).into());
        }
        self.0 += change;
        ctx.reply(self.0);
        Ok(())
    }
}

async fn trade(account: &KernelHandle<i64, i64>) -> Result<i64, Box<dyn std::error::Error>> {
    account.tell_async(100).await?;
    // The handler's error becomes the caller's error. `Supervision::Resume` keeps the state.
    let overdraft = account.ask_timeout_async(-500, Duration::from_secs(1)).await;
    println!("{}", overdraft.expect_err("the balance is lower"));
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
