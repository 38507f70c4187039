//! Panics and errors: what callers get, and how the ring kernel continues.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::dead_letter::Reason;
use dotcompute_core::error::{AskError, HandlerResult};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::loops::{LoopContext, ReceiveTimeout};
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use dotcompute_ring::wait::WaitStrategy;

const PANIC: u64 = 1000;
const ERROR: u64 = 2000;
const SILENCE: u64 = 3000;

/// Adds up its messages, except for the constants above.
struct Sum(u64);

impl RingKernel for Sum {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        match message {
            PANIC => panic!("cannot take {message}"),
            ERROR => Err(std::io::Error::other("disk on fire").into()),
            SILENCE => Ok(()),
            _ => {
                self.0 += message;
                ctx.reply(self.0);
                Ok(())
            }
        }
    }
}

fn launched(runtime: &Runtime, options: KernelOptions) -> KernelHandle<u64, u64> {
    let kernel = runtime.launch_with("sum", options, || Sum(0)).unwrap();
    kernel.activate().unwrap();
    kernel
}

fn placements() -> [KernelOptions; 2] {
    [KernelOptions::new(), KernelOptions::new().dedicated()]
}

fn failed(error: AskError<u64>) -> dotcompute_core::error::Fault {
    match error {
        AskError::Failed(fault) => fault,
        other => panic!("expected a failure, got {other}"),
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_next_message_works_after_a_restart() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let sum = launched(&runtime, options.supervision(Supervision::restart(10, TIMEOUT)));
        assert_eq!(sum.ask(5).unwrap(), 5);
        let fault = failed(sum.ask(PANIC).unwrap_err());
        assert_eq!(
            (&*fault.kernel, fault.message_type, fault.reason),
            ("sum", "u64", Reason::HandlerPanicked)
        );
        assert_eq!(
            fault.to_string(),
            "ring kernel `sum` did not handle a `u64`: its handler panicked: cannot take 1000"
        );
        // The factory has rebuilt the state.
        assert_eq!(sum.ask(7).unwrap(), 7);
        let fault = failed(sum.ask(ERROR).unwrap_err());
        assert_eq!((fault.reason, fault.cause.as_str()), (Reason::HandlerErrored, "disk on fire"));
        assert_eq!(sum.ask(1).unwrap(), 1);
        sum.terminate(TIMEOUT).unwrap();
        let stats = sum.stats();
        assert_eq!((stats.restarts, stats.dead_letters, stats.handled), (2, 2, 3));
        assert!(stats.is_conserved());
        let letters = runtime.dead_letters();
        assert_eq!(letters.len(), 2);
        assert_eq!(letters[1].fault, fault);
    }
}

#[test]
fn resume_keeps_the_state() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let sum = launched(&runtime, options.supervision(Supervision::Resume));
        assert_eq!(sum.ask(5).unwrap(), 5);
        assert!(sum.ask(PANIC).is_err());
        assert_eq!(sum.ask(7).unwrap(), 12);
    }
}

#[test]
fn never_fails_the_kernel_and_ends_every_ask() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let sum = launched(&runtime, options);
        sum.deactivate(TIMEOUT).unwrap();
        sum.tell(PANIC).unwrap();
        let callers: Vec<_> = (0..3)
            .map(|message| {
                let sum = sum.clone();
                std::thread::spawn(move || failed(sum.ask(message).unwrap_err()))
            })
            .collect();
        while sum.stats().queued < 4 {
            std::thread::yield_now();
        }
        sum.reactivate().unwrap();
        for caller in callers {
            let fault = caller.join().unwrap();
            assert_eq!(fault.reason, Reason::KernelFailed);
            assert!(fault.cause.contains("cannot take 1000"), "{fault}");
        }
        assert_eq!(sum.wait_ended(TIMEOUT), State::Failed);
        let error = sum.ask(1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "sending a `u64` to ring kernel `sum`: it is Failed and accepts no more messages; launch another"
        );
        let stats = sum.stats();
        assert_eq!((stats.sent, stats.handled, stats.dead_letters), (4, 0, 4));
        // Its stats remain available, and its name can be reused.
        assert_eq!(runtime.stats("sum").unwrap().state, State::Failed);
        assert_eq!(launched(&runtime, KernelOptions::new()).ask(3).unwrap(), 3);
    }
}

#[test]
fn too_many_restarts_fail_the_kernel() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let sum = launched(&runtime, KernelOptions::new().supervision(Supervision::restart(2, TIMEOUT)));
    for _ in 0..3 {
        assert!(sum.ask(PANIC).is_err());
    }
    assert_eq!(sum.wait_ended(TIMEOUT), State::Failed);
    assert_eq!(sum.stats().restarts, 2);
}

#[test]
fn a_backoff_delays_the_restart_keeps_messages_and_ends_at_an_abort() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let backoff = Duration::from_millis(50);
        let policy = Supervision::Restart { max: 10, within: TIMEOUT, backoff };
        let sum = launched(&runtime, options.supervision(policy));
        let started = Instant::now();
        assert!(sum.ask(PANIC).is_err());
        assert_eq!(sum.ask(4).unwrap(), 4);
        assert!(started.elapsed() >= backoff);
        let long = Supervision::Restart { max: 10, within: TIMEOUT, backoff: Duration::from_secs(3600) };
        let other = runtime.launch_with("other", KernelOptions::new().supervision(long), || Sum(0)).unwrap();
        other.activate().unwrap();
        assert!(other.ask(PANIC).is_err());
        other.tell(1).unwrap();
        other.abort().unwrap();
        assert_eq!(other.state(), State::Terminated);
        assert!(other.stats().is_conserved());
    }
}

#[test]
fn a_handler_that_does_not_reply_is_an_error_of_its_own() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let sum = launched(&runtime, options);
        let error = sum.ask(SILENCE).unwrap_err();
        assert!(matches!(error, AskError::NoReply { .. }), "{error}");
        assert_eq!(sum.ask(1).unwrap(), 1, "it is not a fault");
    }
}

/// Its activation hook fails twice.
struct BadStart(Arc<AtomicU32>);

impl RingKernel for BadStart {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        ctx.reply(message);
        Ok(())
    }
    fn on_activate(&mut self, _: &mut Context<u64>) -> HandlerResult {
        if self.0.fetch_add(1, Ordering::Relaxed) < 2 { Err("not yet".into()) } else { Ok(()) }
    }
}

#[test]
fn a_failing_hook_is_restarted_and_no_message_is_lost() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let attempts = Arc::new(AtomicU32::new(0));
    let factory_attempts = Arc::clone(&attempts);
    let options = KernelOptions::new().supervision(Supervision::restart(5, TIMEOUT));
    let kernel =
        runtime.launch_with("bad start", options, move || BadStart(Arc::clone(&factory_attempts))).unwrap();
    kernel.activate().unwrap();
    assert_eq!(kernel.ask(9).unwrap(), 9);
    assert_eq!(attempts.load(Ordering::Relaxed), 3);
    assert_eq!(kernel.stats().dead_letters, 0);
}

async fn faulty_loop(mut ctx: LoopContext<u64, u64>) -> HandlerResult {
    let mut sum = 0;
    while let Some(message) = ctx.receive_async().await {
        match message {
            PANIC => panic!("cannot take {message}"),
            ERROR => return Err("cannot go on".into()),
            _ => {
                sum += message;
                ctx.reply(sum);
            }
        }
    }
    Ok(())
}

#[test]
fn loops_are_supervised_at_the_current_message() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let options = options.supervision(Supervision::restart(5, TIMEOUT));
        let kernel = runtime.launch_loop("loop", options, faulty_loop).unwrap();
        kernel.activate().unwrap();
        assert_eq!(kernel.ask(2).unwrap(), 2);
        assert_eq!(failed(kernel.ask(PANIC).unwrap_err()).reason, Reason::HandlerPanicked);
        assert_eq!(kernel.ask(3).unwrap(), 3);
        assert_eq!(failed(kernel.ask(ERROR).unwrap_err()).cause, "cannot go on");
        assert_eq!(kernel.ask(4).unwrap(), 4);
        kernel.terminate(TIMEOUT).unwrap();
        let stats = kernel.stats();
        assert_eq!((stats.handled, stats.dead_letters, stats.restarts), (3, 2, 2));
        assert!(stats.is_conserved());
    }
}

#[test]
fn a_loop_that_returns_early_leaves_dead_letters_not_hangs() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let kernel = runtime
        .launch_loop("once", KernelOptions::new(), |mut ctx: LoopContext<u64, u64>| async move {
            if let Some(message) = ctx.receive_async().await {
                ctx.send_async(message).await;
            }
            Ok(())
        })
        .unwrap();
    kernel.activate().unwrap();
    kernel.deactivate(TIMEOUT).unwrap();
    kernel.tell(1).unwrap();
    kernel.tell(2).unwrap();
    kernel.reactivate().unwrap();
    assert_eq!(kernel.wait_ended(TIMEOUT), State::Terminated);
    let stats = kernel.stats();
    assert_eq!(stats.dead_letters_by_reason, [(Reason::LoopEnded, 1)]);
    assert!(stats.is_conserved());
    assert_eq!(kernel.receive().unwrap(), 1);
}

#[test]
fn a_loop_that_awaits_another_future_can_be_aborted() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let kernel = runtime
        .launch_loop("elsewhere", KernelOptions::new(), |ctx: LoopContext<u64, u64>| async move {
            std::future::pending::<()>().await;
            drop(ctx);
            Ok(())
        })
        .unwrap();
    kernel.activate().unwrap();
    kernel.tell(1).unwrap();
    kernel.abort().unwrap();
    assert!(kernel.stats().is_conserved());
}

#[test]
fn a_thread_loop_runs_pauses_and_ends() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let error = runtime.launch_thread_loop("t", KernelOptions::new(), |_: LoopContext<u64, u64>| Ok(()));
    assert!(error.unwrap_err().to_string().contains("shared pool"));
    for wait in [WaitStrategy::Adaptive, WaitStrategy::Spin, WaitStrategy::Park] {
        let options = KernelOptions::new().dedicated().wait(wait);
        let kernel = runtime
            .launch_thread_loop("t", options, |mut ctx: LoopContext<u64, u64>| {
                while let Some(message) = ctx.receive() {
                    ctx.send(message + 1);
                }
                Ok(())
            })
            .unwrap();
        kernel.activate().unwrap();
        kernel.tell(1).unwrap();
        assert_eq!(kernel.receive_timeout(TIMEOUT).unwrap(), 2);
        kernel.deactivate(TIMEOUT).unwrap();
        kernel.tell(2).unwrap();
        assert!(kernel.receive_timeout(Duration::from_millis(20)).is_err());
        kernel.reactivate().unwrap();
        assert_eq!(kernel.receive_timeout(TIMEOUT).unwrap(), 3);
        kernel.terminate(TIMEOUT).unwrap();
        assert_eq!(kernel.stats().handled, 2);
    }
}

#[test]
fn receive_timeout_of_a_thread_loop_returns_after_its_timeout() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    for wait in [WaitStrategy::Adaptive, WaitStrategy::Spin, WaitStrategy::Park] {
        let options = KernelOptions::new().dedicated().wait(wait);
        let kernel = runtime
            .launch_thread_loop("t", options, |mut ctx: LoopContext<u64, u64>| {
                loop {
                    match ctx.receive_timeout(Duration::from_millis(1)) {
                        Ok(Some(message)) => ctx.reply(message),
                        Ok(None) => return Ok(()),
                        Err(ReceiveTimeout) => ctx.send(0),
                    }
                }
            })
            .unwrap();
        kernel.activate().unwrap();
        assert_eq!(
            kernel.receive_timeout(TIMEOUT).unwrap(),
            0,
            "{wait:?}: no message was sent, and the timeout elapsed"
        );
        assert_eq!(kernel.ask_timeout(7, TIMEOUT).unwrap(), 7);
        kernel.terminate(TIMEOUT).unwrap();
    }
}

/// Launches a ring kernel that fails at `PANIC` and `ERROR`; asks it so; it must be `Failed` when the error is there.
fn assert_failed_with_the_error(runtime: &Runtime, options: KernelOptions, message: u64, runs_inline: bool) {
    let kernel = launched(runtime, options);
    let error = if runs_inline { kernel.ask(message) } else { kernel.ask_timeout(message, TIMEOUT) };
    // No wait between the error and these checks.
    let state = kernel.state();
    let told = kernel.tell(1);
    failed(error.unwrap_err());
    assert_eq!(state, State::Failed);
    assert!(told.is_err(), "a tell after the error was accepted");
    let stats = kernel.stats();
    assert_eq!((stats.sent, stats.dead_letters, stats.queued), (1, 1, 0));
}

#[test]
fn a_caller_that_has_the_error_finds_the_ring_kernel_failed() {
    watchdog!();
    for options in placements() {
        for round in 0..1000 {
            // A failed ring kernel keeps its name, so each has a runtime of its own.
            let runtime = Runtime::with_options(RuntimeOptions::new().workers(1)).unwrap();
            let message = if round % 2 == 0 { PANIC } else { ERROR };
            assert_failed_with_the_error(&runtime, options.clone(), message, round % 4 < 2);
        }
    }
}

#[test]
fn callers_of_queued_requests_find_the_ring_kernel_failed_too() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let kernel = launched(&runtime, options);
        kernel.deactivate(TIMEOUT).unwrap();
        std::thread::scope(|scope| {
            for message in [PANIC, 1, 2, 3] {
                let kernel = &kernel;
                scope.spawn(move || {
                    let error = kernel.ask_timeout(message, TIMEOUT).unwrap_err();
                    assert_eq!(kernel.state(), State::Failed);
                    failed(error);
                });
                // The faulty request comes first.
                while kernel.stats().queued == 0 {
                    std::thread::yield_now();
                }
            }
            while kernel.stats().queued < 4 {
                std::thread::yield_now();
            }
            kernel.reactivate().unwrap();
        });
        assert!(kernel.stats().is_conserved());
    }
}

#[test]
fn a_loop_that_leaks_its_context_fails_and_releases_its_callers() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        // The first message is received and in flight, the others are queued.
        let body = |mut ctx: LoopContext<u64, u64>| async move {
            let received = ctx.receive_async().await;
            std::mem::forget(ctx);
            if received == Some(ERROR) { Err("leaked".into()) } else { Ok(()) }
        };
        for first in [1, ERROR] {
            let name = format!("leaks {first}");
            let options = options.clone().supervision(Supervision::Resume);
            let kernel = runtime.launch_loop(&name, options, body).unwrap();
            kernel.activate().unwrap();
            kernel.deactivate(TIMEOUT).unwrap();
            std::thread::scope(|scope| {
                for message in [first, 2, 3] {
                    let kernel = &kernel;
                    scope.spawn(move || {
                        let error = kernel.ask_timeout(message, TIMEOUT).unwrap_err();
                        assert!(matches!(error, AskError::Ended { state: State::Failed, .. }), "{error}");
                    });
                    while kernel.stats().queued == 0 {
                        std::thread::yield_now();
                    }
                }
                while kernel.stats().queued < 3 {
                    std::thread::yield_now();
                }
                kernel.reactivate().unwrap();
            });
            assert_eq!(kernel.state(), State::Failed);
            assert!(kernel.tell(1).is_err());
            // What the leaked context holds counts as queued: no consumer can take it any more.
            let stats = kernel.stats();
            assert_eq!((stats.sent, stats.queued), (3, 3));
            assert!(stats.is_conserved());
            kernel.terminate(TIMEOUT).unwrap();
        }
    }
}

#[test]
fn a_context_that_outlives_its_loop_receives_nothing_more() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let (sender, contexts) = std::sync::mpsc::channel();
    let body = move |ctx: LoopContext<u64, u64>| {
        let sender = sender.clone();
        async move { sender.send(ctx).map_err(|_| "the test has ended".into()) }
    };
    let kernel = runtime.launch_loop("moved", KernelOptions::new(), body).unwrap();
    kernel.activate().unwrap();
    let mut ctx = contexts.recv().unwrap();
    assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
    assert!(kernel.tell(1).is_err());
    assert_eq!(futures_lite::future::block_on(ctx.receive_async()), None);
    drop(ctx);
    assert!(kernel.stats().is_conserved());
}

#[test]
fn a_loop_that_ends_before_its_backlog_says_so() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        // Takes the first message only, although `terminate` hands over all.
        let body = |mut ctx: LoopContext<u64, u64>| async move {
            while !ctx.should_terminate() {
                if ctx.receive_async().await.is_none() {
                    break;
                }
            }
            Ok(())
        };
        let kernel = runtime.launch_loop("hasty", options, body).unwrap();
        kernel.activate().unwrap();
        kernel.deactivate(TIMEOUT).unwrap();
        for message in 0..5 {
            kernel.tell(message).unwrap();
        }
        kernel.terminate(TIMEOUT).unwrap();
        let stats = kernel.stats();
        assert_eq!((stats.handled, stats.dead_letters), (1, 4));
        assert_eq!(stats.dead_letters_by_reason, [(Reason::LoopEnded, 4)]);
        let letters = runtime.dead_letters();
        assert_eq!(letters.len(), 4);
        assert!(letters[0].holds_message);
        let text = letters[0].fault.to_string();
        assert!(text.ends_with("it returned before `receive` had returned `None`"), "{text}");
    }
}

/// Records for each message whether a reply was wanted; the first one waits.
struct Wanted(Arc<AtomicU32>, Arc<AtomicU32>);

impl RingKernel for Wanted {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        while message == 0 && self.0.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        if ctx.wants_reply() {
            self.1.fetch_add(1 << message, Ordering::Relaxed);
        }
        ctx.reply(message);
        Ok(())
    }
}

#[test]
fn no_reply_is_wanted_once_the_caller_has_given_up() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let (gate, wanted) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (its_gate, its_wanted) = (Arc::clone(&gate), Arc::clone(&wanted));
        let factory = move || Wanted(Arc::clone(&its_gate), Arc::clone(&its_wanted));
        let kernel = runtime.launch_with("wanted", options, factory).unwrap();
        kernel.activate().unwrap();
        kernel.tell(0).unwrap();
        let gave_up = kernel.ask_timeout(1, Duration::from_millis(5));
        assert!(matches!(gave_up, Err(AskError::TimedOut { .. })));
        gate.store(1, Ordering::Release);
        assert_eq!(kernel.ask_timeout(2, TIMEOUT).unwrap(), 2);
        // The told message, and the one whose caller gave up, want no reply.
        assert_eq!(wanted.load(Ordering::Relaxed), 1 << 2);
        // Neither the reply to the told message nor the late one is an output.
        assert!(kernel.try_receive().is_err());
        assert_eq!(kernel.stats().unasked_replies, 1, "the told message");
    }
}
