//! `Duration::MAX` as a timeout is without a limit, in every call that takes one.

use std::time::Duration;

use dotcompute_conformance::watchdog;
use dotcompute_core::error::{AskError, HandlerResult};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::loops::LoopContext;
use dotcompute_core::options::{Backpressure, KernelOptions};
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use futures_lite::future::block_on;

/// Timeouts that no clock can add to the present time, and one that is merely long.
const UNLIMITED: [Duration; 3] =
    [Duration::MAX, Duration::from_secs(i64::MAX as u64), Duration::from_secs(1 << 40)];

/// Replies to asks, and sends the messages of tells; fails for 0.
struct Echo;

impl RingKernel for Echo {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        if message == 0 {
            return Err("zero".into());
        }
        if ctx.wants_reply() {
            ctx.reply(message);
        } else {
            ctx.send(message);
        }
        Ok(())
    }
}

fn echo(runtime: &Runtime, options: KernelOptions) -> KernelHandle<u64, u64> {
    let kernel = runtime.launch_with("echo", options, || Echo).unwrap();
    kernel.activate().unwrap();
    kernel
}

#[test]
fn asks_and_receives_wait_without_a_limit() {
    watchdog!();
    for unlimited in UNLIMITED {
        let runtime = Runtime::new().unwrap();
        let kernel = echo(&runtime, KernelOptions::new());
        assert_eq!(kernel.ask_timeout(1, unlimited).unwrap(), 1);
        assert_eq!(block_on(kernel.ask_timeout_async(2, unlimited)).unwrap(), 2);
        let mut pending = block_on(KernelHandle::begin_ask(&kernel, 3)).unwrap();
        assert_eq!(pending.wait(unlimited).unwrap().unwrap(), 3);
        kernel.tell_timeout(4, unlimited).unwrap();
        assert_eq!(kernel.receive_timeout(unlimited).unwrap(), 4);
        kernel.tell(5).unwrap();
        assert_eq!(kernel.receive_envelope(Some(unlimited)).unwrap().message, 5);
    }
}

#[test]
fn senders_wait_without_a_limit_for_a_free_slot() {
    watchdog!();
    for unlimited in UNLIMITED {
        let runtime = Runtime::new().unwrap();
        let options = KernelOptions::new().capacity(2).backpressure(Backpressure::BlockFor(unlimited));
        let kernel = echo(&runtime, options);
        kernel.deactivate(unlimited).unwrap();
        while kernel.try_tell(1).is_ok() {}
        let queued = kernel.stats().queued;
        std::thread::scope(|scope| {
            let sends = [
                scope.spawn(|| kernel.tell_timeout(1, unlimited).map_err(|error| error.to_string())),
                scope.spawn(|| kernel.tell(1).map_err(|error| error.to_string())),
                scope.spawn(|| block_on(kernel.tell_async(1)).map_err(|error| error.to_string())),
            ];
            kernel.reactivate().unwrap();
            for send in sends {
                send.join().unwrap().unwrap();
            }
        });
        for _ in 0..queued + 3 {
            assert_eq!(kernel.receive().unwrap(), 1);
        }
    }
}

#[test]
fn lifecycle_calls_wait_without_a_limit() {
    watchdog!();
    for unlimited in UNLIMITED {
        let runtime = Runtime::new().unwrap();
        let kernel = echo(&runtime, KernelOptions::new());
        kernel.deactivate(unlimited).unwrap();
        kernel.reactivate().unwrap();
        block_on(kernel.deactivate_async(unlimited)).unwrap();
        kernel.terminate(unlimited).unwrap();
        assert_eq!(kernel.wait_ended(unlimited), State::Terminated);
        block_on(echo(&runtime, KernelOptions::new()).terminate_async(unlimited)).unwrap();
        let kernel = echo(&runtime, KernelOptions::new().dedicated());
        assert_eq!(runtime.quiesced(unlimited, || 1).unwrap(), 1);
        runtime.shutdown(unlimited).unwrap();
        assert_eq!(kernel.state(), State::Terminated);
    }
}

#[test]
fn a_loop_receives_without_a_limit() {
    watchdog!();
    for unlimited in UNLIMITED {
        let runtime = Runtime::new().unwrap();
        let options = KernelOptions::new().dedicated();
        let body = move |mut ctx: LoopContext<u64, u64>| {
            while let Some(message) = ctx.receive_timeout(unlimited)? {
                ctx.reply(message);
            }
            Ok(())
        };
        let kernel = runtime.launch_thread_loop("loop", options, body).unwrap();
        kernel.activate().unwrap();
        assert_eq!(kernel.ask(1).unwrap(), 1);
        kernel.terminate(unlimited).unwrap();
    }
}

/// The backoff of one ring kernel must neither overflow nor hurt another on the same worker.
#[test]
fn a_backoff_without_a_limit_leaves_the_worker_to_the_others() {
    watchdog!();
    for unlimited in UNLIMITED {
        let runtime = Runtime::with_options(RuntimeOptions::new().workers(1)).unwrap();
        let restart = Supervision::Restart { max: 9, within: unlimited, backoff: unlimited };
        let options = KernelOptions::new().supervision(restart);
        let faulty = runtime.launch_with("faulty", options, || Echo).unwrap();
        faulty.activate().unwrap();
        assert!(matches!(faulty.ask(0).unwrap_err(), AskError::Failed(_)));
        let other = echo(&runtime, KernelOptions::new());
        assert_eq!(other.ask_timeout(1, Duration::from_secs(60)).unwrap(), 1);
        assert_eq!(faulty.state(), State::Active, "in its backoff");
        faulty.abort().unwrap();
    }
}
