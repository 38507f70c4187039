//! Large messages by value pass in every way.
//!
//! Every function has one of them at most, because without optimisation each copy takes stack of its own.

use std::time::Duration;

use dotcompute_conformance::watchdog;
use dotcompute_core::error::{AskError, HandlerResult, LaunchError, ReceiveError, Refusal};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::loops::LoopContext;
use dotcompute_core::message::Message;
use dotcompute_core::options::{Backpressure, KernelOptions};
use dotcompute_core::runtime::Runtime;
use futures_lite::future::block_on;

const TIMEOUT: Duration = Duration::from_secs(30);

type Big<const BYTES: usize> = [u8; BYTES];

/// Replies to a request with its message, and sends what it is told.
struct Echo<const BYTES: usize>;

impl<const BYTES: usize> RingKernel for Echo<BYTES>
where
    Big<BYTES>: Message,
{
    type Input = Big<BYTES>;
    type Output = Big<BYTES>;

    fn handle(&mut self, message: Big<BYTES>, ctx: &mut Context<Big<BYTES>>) -> HandlerResult {
        if ctx.wants_reply() {
            ctx.reply(message);
        } else {
            ctx.send(message);
        }
        Ok(())
    }
}

async fn echo_loop<const BYTES: usize>(mut ctx: LoopContext<Big<BYTES>, Big<BYTES>>) -> HandlerResult
where
    Big<BYTES>: Message,
{
    while let Some(message) = ctx.receive_async().await {
        if ctx.wants_reply() {
            ctx.reply(message);
        } else {
            ctx.send(message);
        }
    }
    Ok(())
}

type Handle<const BYTES: usize> = KernelHandle<Big<BYTES>, Big<BYTES>>;

#[inline(never)]
fn tell_and_receive<const BYTES: usize>(kernel: &Handle<BYTES>)
where
    Big<BYTES>: Message,
{
    kernel.tell([1; BYTES]).unwrap();
    assert_eq!(kernel.receive_timeout(TIMEOUT).unwrap()[BYTES - 1], 1);
}

#[inline(never)]
fn ask<const BYTES: usize>(kernel: &Handle<BYTES>)
where
    Big<BYTES>: Message,
{
    assert_eq!(kernel.ask([2; BYTES]).unwrap()[BYTES - 1], 2);
}

#[inline(never)]
fn ask_with_timeout<const BYTES: usize>(kernel: &Handle<BYTES>)
where
    Big<BYTES>: Message,
{
    assert_eq!(kernel.ask_timeout([3; BYTES], TIMEOUT).unwrap()[BYTES - 1], 3);
}

#[inline(never)]
fn ask_async<const BYTES: usize>(kernel: &Handle<BYTES>)
where
    Big<BYTES>: Message,
{
    assert_eq!(block_on(kernel.ask_async([4; BYTES])).unwrap()[BYTES - 1], 4);
}

#[inline(never)]
fn ask_async_with_timeout<const BYTES: usize>(kernel: &Handle<BYTES>)
where
    Big<BYTES>: Message,
{
    assert_eq!(block_on(kernel.ask_timeout_async([5; BYTES], TIMEOUT)).unwrap()[BYTES - 1], 5);
}

/// Fills the mailbox of a ring kernel that is paused: messages return in errors, or drop others.
#[inline(never)]
fn overflow<const BYTES: usize>(backpressure: Backpressure)
where
    Big<BYTES>: Message,
{
    let runtime = Runtime::new().unwrap();
    let options = KernelOptions::new().capacity(1).backpressure(backpressure);
    let kernel = runtime.launch_with("kernel", options, || Echo::<BYTES>).unwrap();
    kernel.activate().unwrap();
    kernel.deactivate(TIMEOUT).unwrap();
    for _ in 0..2 {
        let _ = kernel.tell([6; BYTES]);
    }
    assert!(kernel.stats().is_conserved());
}

fn pass_in_every_way<const BYTES: usize>()
where
    Big<BYTES>: Message,
{
    for options in [KernelOptions::new(), KernelOptions::new().dedicated()] {
        let runtime = Runtime::new().unwrap();
        let handler = runtime.launch_with("handler", options.clone(), || Echo::<BYTES>).unwrap();
        let body = runtime.launch_loop("loop", options, echo_loop::<BYTES>).unwrap();
        for kernel in [handler.clone(), body, handler.with_inline_asks()] {
            if kernel.state() != State::Active {
                kernel.activate().unwrap();
            }
            tell_and_receive(&kernel);
            ask(&kernel);
            ask_with_timeout(&kernel);
            ask_async(&kernel);
            ask_async_with_timeout(&kernel);
        }
    }
    for backpressure in
        [Backpressure::Reject, Backpressure::BlockFor(Duration::ZERO), Backpressure::DropOldest]
    {
        overflow::<BYTES>(backpressure);
    }
}

/// As documented at `Message`.
#[test]
fn messages_of_16_kib_pass_in_every_way_on_default_stacks() {
    watchdog!();
    pass_in_every_way::<16_384>();
}

/// Runs `code` on a thread with this much stack, in bytes.
fn on_stack(bytes: usize, code: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        std::thread::Builder::new().stack_size(bytes).spawn_scoped(scope, code).unwrap().join().unwrap();
    });
}

const MIB: usize = 1 << 20;

#[inline(never)]
fn tell_is_refused(kernel: &Handle<MIB>) {
    let error = kernel.tell([7; MIB]).unwrap_err();
    assert!(matches!(error.reason, Refusal::StackTooSmall { message_bytes: MIB, .. }), "{error}");
    assert!(error.to_string().contains("`Box`"), "{error}");
    assert_eq!(error.into_message()[MIB - 1], 7, "the caller keeps its message");
}

#[inline(never)]
fn ask_is_refused(kernel: &Handle<MIB>) {
    let error = kernel.ask_timeout([7; MIB], TIMEOUT).map(|_| ()).unwrap_err();
    let AskError::NotSent(error) = error else { panic!("{error}") };
    assert!(matches!(error.reason, Refusal::StackTooSmall { .. }), "{error}");
}

#[inline(never)]
fn ask_async_is_refused(kernel: &Handle<MIB>) {
    let error = block_on(kernel.ask_async([7; MIB])).map(|_| ()).unwrap_err();
    let AskError::NotSent(error) = error else { panic!("{error}") };
    assert!(matches!(error.reason, Refusal::StackTooSmall { .. }), "{error}");
    assert_eq!(error.into_message()[MIB - 1], 7, "the caller keeps its message");
}

#[inline(never)]
fn receive_is_refused(kernel: &Handle<MIB>) {
    let error = kernel.receive_timeout(Duration::ZERO).map(|_| ()).unwrap_err();
    assert!(matches!(error, ReceiveError::StackTooSmall { output_bytes: MIB, .. }), "{error}");
}

#[test]
fn what_could_overflow_a_stack_is_refused() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let error = runtime.launch("pool", || Echo::<MIB>).map(|_| ()).unwrap_err();
    assert!(matches!(error, LaunchError::MessageTooLarge { message_bytes: MIB, .. }), "{error}");
    assert!(error.to_string().contains("`KernelOptions::dedicated`"), "{error}");

    let options = KernelOptions::new().capacity(2).output_capacity(2).dedicated();
    let kernel = runtime.launch_with("dedicated", options, || Echo::<MIB>).unwrap();
    kernel.activate().unwrap();
    // With optimization a blocking call may need 29 MiB, and a future 26. The C library may reuse the stack of an ended thread that is larger than requested, but not
    // as large as that.
    for call in [tell_is_refused, ask_is_refused, ask_async_is_refused, receive_is_refused] {
        on_stack(16 * MIB, || call(&kernel));
    }
    assert_eq!(kernel.stats().sent, 0);
    on_stack(512 * MIB, || {
        tell_and_receive(&kernel);
        ask(&kernel);
        ask_async(&kernel);
    });
}
