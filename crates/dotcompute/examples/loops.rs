//! Loop form: a ring kernel as an async function on the shared pool, or as a blocking function on a dedicated thread.
//!
//! Run with `cargo run --example loops`.

use std::time::Duration;

use dotcompute::prelude::*;

/// Joins words up to a full stop. Local variables hold the state between two messages.
async fn sentences(mut ctx: LoopContext<String, String>) -> HandlerResult {
    let mut sentence = String::new();
    while let Some(word) = ctx.receive_async().await {
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        sentence.push_str(&word);
        if word.ends_with('.') {
            ctx.send_async(std::mem::take(&mut sentence)).await;
        }
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::new()?;
    let sentences = runtime.launch_loop("sentences", KernelOptions::new(), sentences)?;
    let shout = runtime.launch_thread_loop(
        "shout",
        KernelOptions::new().dedicated(),
        |mut ctx: LoopContext<String, String>| {
            while let Some(sentence) = ctx.receive() {
                ctx.send(sentence.to_uppercase());
            }
            Ok(())
        },
    )?;
    sentences.connect(&shout)?;
    sentences.activate()?;
    shout.activate()?;
    for word in ["rings", "carry", "messages.", "kernels", "stay."] {
        sentences.tell(word.to_owned())?;
    }
    for expected in ["RINGS CARRY MESSAGES.", "KERNELS STAY."] {
        let sentence = shout.receive_timeout(Duration::from_secs(5))?;
        println!("{sentence}");
        assert_eq!(sentence, expected);
    }
    runtime.shutdown(Duration::from_secs(5))?;
    Ok(())
}
