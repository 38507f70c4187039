//! A ring kernel that ends or pauses itself, from inside its own handler or loop.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::error::{HandlerResult, LifecycleError, Refusal};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::loops::LoopContext;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::Runtime;
use futures_lite::future::block_on;

fn placements() -> [KernelOptions; 2] {
    [KernelOptions::new(), KernelOptions::new().dedicated()]
}

/// Sends each message on, and ends itself at message 3.
struct StopsAtThree;

impl RingKernel for StopsAtThree {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        if message == 3 {
            ctx.stop();
            assert!(ctx.should_terminate());
        }
        ctx.send(message);
        Ok(())
    }

    fn on_terminate(&mut self, ctx: &mut Context<u64>) -> HandlerResult {
        ctx.send(100);
        Ok(())
    }
}

#[test]
fn stop_ends_the_ring_kernel_after_the_messages_accepted_before() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let kernel = runtime.launch_with("k", options, || StopsAtThree).unwrap();
        kernel.activate().unwrap();
        kernel.deactivate(TIMEOUT).unwrap();
        for message in 1..=5 {
            kernel.tell(message).unwrap();
        }
        kernel.reactivate().unwrap();
        assert_eq!(kernel.wait_ended(TIMEOUT), State::Terminated);
        let received: Vec<u64> = std::iter::from_fn(|| kernel.try_receive().ok()).collect();
        assert_eq!(received, [1, 2, 3, 4, 5, 100]);
        assert!(matches!(kernel.tell(6).unwrap_err().reason, Refusal::Ended { state: State::Terminated }));
        while runtime.handle::<u64, u64>("k").is_ok() {
            std::thread::yield_now();
        }
    }
}

#[test]
fn stop_in_a_hook_and_in_loops() {
    watchdog!();
    struct StopsAtOnce;
    impl RingKernel for StopsAtOnce {
        type Input = u64;
        type Output = u64;
        fn handle(&mut self, _: u64, _: &mut Context<u64>) -> HandlerResult {
            Ok(())
        }
        fn on_activate(&mut self, ctx: &mut Context<u64>) -> HandlerResult {
            ctx.stop();
            Ok(())
        }
    }
    let runtime = Runtime::new().unwrap();
    let hook = runtime.launch("hook", || StopsAtOnce).unwrap();
    hook.activate().unwrap();
    assert_eq!(hook.wait_ended(TIMEOUT), State::Terminated);

    let body = |mut ctx: LoopContext<u64, u64>| async move {
        while let Some(message) = ctx.receive_async().await {
            ctx.stop();
            ctx.reply(message);
        }
        Ok(())
    };
    let asynchronous = runtime.launch_loop("async", KernelOptions::new(), body).unwrap();
    let body = |mut ctx: LoopContext<u64, u64>| {
        while let Some(message) = ctx.receive() {
            ctx.stop();
            ctx.reply(message);
        }
        Ok(())
    };
    let options = KernelOptions::new().dedicated();
    let blocking = runtime.launch_thread_loop("blocking", options, body).unwrap();
    for kernel in [asynchronous, blocking] {
        kernel.activate().unwrap();
        assert_eq!(kernel.ask(1).unwrap(), 1);
        assert_eq!(kernel.wait_ended(TIMEOUT), State::Terminated);
    }
}

/// A lifecycle call that waits.
type Call = fn(&KernelHandle<u64, u64>) -> Result<(), LifecycleError>;

/// Makes a call on its own handle, which would wait for a day, and replies if the call did not wait.
struct CallsItself {
    call: Call,
    own: Arc<OnceLock<KernelHandle<u64, u64>>>,
}

impl RingKernel for CallsItself {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        let own = self.own.get().unwrap();
        let error = (self.call)(own).unwrap_err();
        assert!(matches!(error, LifecycleError::OwnHandler { .. }), "{error}");
        assert!(!own.wait_ended(Duration::MAX).has_ended());
        ctx.reply(message);
        Ok(())
    }
}

fn calls_itself(options: KernelOptions, call: Call) -> (Runtime, KernelHandle<u64, u64>) {
    let runtime = Runtime::new().unwrap();
    let own = Arc::new(OnceLock::new());
    let factory_own = Arc::clone(&own);
    let factory = move || CallsItself { call, own: Arc::clone(&factory_own) };
    let kernel = runtime.launch_with("k", options, factory).unwrap();
    kernel.activate().unwrap();
    let _ = own.set(kernel.clone());
    (runtime, kernel)
}

#[test]
fn a_call_on_itself_is_a_request_that_does_not_wait() {
    watchdog!();
    let ending: [Call; 3] = [
        |own| own.terminate(Duration::MAX),
        |own| block_on(own.terminate_async(Duration::MAX)),
        |own| own.abort(),
    ];
    let pausing: [Call; 2] =
        [|own| own.deactivate(Duration::MAX), |own| block_on(own.deactivate_async(Duration::MAX))];
    for options in placements() {
        for call in ending {
            let (_runtime, kernel) = calls_itself(options.clone(), call);
            assert_eq!(kernel.ask(7).unwrap(), 7, "its handler continues");
            assert_eq!(kernel.wait_ended(TIMEOUT), State::Terminated);
        }
        for call in pausing {
            let (_runtime, kernel) = calls_itself(options.clone(), call);
            assert_eq!(kernel.ask(7).unwrap(), 7);
            while kernel.state() != State::Deactivated {
                std::thread::yield_now();
            }
        }
    }
}

/// Within an inline ask, the handler of another ring kernel runs on the thread of the outer handler.
#[test]
fn a_call_on_the_outer_ring_kernel_of_an_inline_ask_does_not_wait() {
    watchdog!();
    struct Outer(KernelHandle<u64, u64>);
    impl RingKernel for Outer {
        type Input = u64;
        type Output = u64;
        fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
            ctx.reply(self.0.ask(message)?);
            Ok(())
        }
    }
    struct Inner(Arc<OnceLock<KernelHandle<u64, u64>>>);
    impl RingKernel for Inner {
        type Input = u64;
        type Output = u64;
        fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
            // Waits if this ask is not inline, because a worker was just polling.
            let outcome = self.0.get().unwrap().terminate(Duration::from_millis(1));
            ctx.reply(u64::from(matches!(outcome, Err(LifecycleError::OwnHandler { .. }))) * message);
            Ok(())
        }
    }
    let is_seen = (0..100).any(|_| {
        let runtime = Runtime::new().unwrap();
        let outer = Arc::new(OnceLock::new());
        let factory_outer = Arc::clone(&outer);
        let inner = runtime.launch("inner", move || Inner(Arc::clone(&factory_outer))).unwrap();
        inner.activate().unwrap();
        let to_inner = inner.with_inline_asks();
        let kernel = runtime.launch("outer", move || Outer(to_inner.clone())).unwrap();
        let _ = outer.set(kernel.clone());
        kernel.activate().unwrap();
        kernel.ask(5).is_ok_and(|reply| reply == 5)
    });
    assert!(is_seen);
}
