//! Panics of user code in unusual places: while an error is formatted, while a value is dropped or cloned, in hooks and factories.
//!
//! After each of them the only worker of the runtime still runs another ring kernel, and the accounting is exact.

use std::fmt;
use std::panic::panic_any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::Message;
use dotcompute_core::dead_letter::Reason;
use dotcompute_core::error::{AskError, Fault, HandlerResult};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::loops::LoopContext;
use dotcompute_core::options::{Backpressure, KernelOptions};
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;

/// Panics when it is dropped, unless another panic unwinds. As a payload too: a caught panic's payload is dropped.
#[derive(Debug, Message)]
#[message(no_serde)]
struct Bomb(u32);

impl Drop for Bomb {
    fn drop(&mut self) {
        if self.0 > 0 && !std::thread::panicking() {
            panic_any(Self(self.0 - 1));
        }
    }
}

/// Panics when it is cloned and not zero.
#[derive(Debug, Message)]
#[message(no_serde)]
struct Unclonable(u64);

impl Clone for Unclonable {
    fn clone(&self) -> Self {
        assert_eq!(self.0, 0, "cannot clone");
        Self(self.0)
    }
}

struct Echo;

impl RingKernel for Echo {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        ctx.reply(message);
        Ok(())
    }
}

/// A runtime with one worker, and a ring kernel on it that has nothing to do with the faults.
struct Bench {
    runtime: Runtime,
    bystander: KernelHandle<u64, u64>,
}

impl Bench {
    fn new(dead_letters: usize) -> Self {
        let options = RuntimeOptions::new().workers(1).dead_letter_capacity(dead_letters);
        let runtime = Runtime::with_options(options).unwrap();
        let bystander = runtime.launch("bystander", || Echo).unwrap();
        bystander.activate().unwrap();
        Self { runtime, bystander }
    }

    /// Fails if the worker is gone. An async ask with a timeout is never handled on this thread.
    fn assert_worker_lives(&self) {
        assert_eq!(self.bystander.ask_timeout(1, TIMEOUT).unwrap(), 1);
    }
}

fn failed<M>(result: Result<u64, AskError<M>>) -> Fault {
    match result {
        Err(AskError::Failed(fault)) => fault,
        Err(other) => panic!("expected a failure, got {other}"),
        Ok(reply) => panic!("expected a failure, got {reply}"),
    }
}

/// A way to ask.
type Ask = fn(&KernelHandle<u64, u64>, u64) -> Result<u64, AskError<u64>>;

/// Whether asks are handled by the worker or, where possible, on the caller's thread.
fn asks() -> [Ask; 2] {
    [|kernel, message| kernel.ask(message), |kernel, message| kernel.ask_timeout(message, TIMEOUT)]
}

/// An error whose parts panic as its number says.
#[derive(Debug)]
struct Faulty(u64);

const NO_TEXT: u64 = 1;
const TEXT_PANICS: u64 = 2;
const SOURCE_PANICS: u64 = 3;
const DROP_PANICS: u64 = 4;
const PAYLOAD_PANICS: u64 = 5;
const FAULTS: u64 = 5;

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NO_TEXT => Err(fmt::Error),
            TEXT_PANICS => panic!("no text"),
            PAYLOAD_PANICS => panic_any(Bomb(3)),
            _ => f.write_str("a text"),
        }
    }
}

impl std::error::Error for Faulty {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        assert_ne!(self.0, SOURCE_PANICS, "no source");
        None
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        assert_ne!(self.0, DROP_PANICS, "no drop");
    }
}

/// Returns the error with the number of the message. Panics with a payload that panics from 100 on.
struct Returns;

impl RingKernel for Returns {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        match message {
            0 => ctx.reply(0),
            100.. => panic_any(Bomb(3)),
            _ => return Err(Box::new(Faulty(message))),
        }
        Ok(())
    }
}

#[test]
fn an_error_that_cannot_be_formatted_is_a_fault_like_any_other() {
    watchdog!();
    for ask in asks() {
        for supervision in [Supervision::Resume, Supervision::restart(u32::MAX, TIMEOUT)] {
            let bench = Bench::new(100);
            let options = KernelOptions::new().supervision(supervision);
            let kernel = bench.runtime.launch_with("returns", options, || Returns).unwrap();
            kernel.activate().unwrap();
            for message in 1..=FAULTS {
                let fault = failed(ask(&kernel, message));
                assert_eq!(fault.reason, Reason::HandlerErrored);
                assert!(!fault.cause.is_empty(), "{message}");
                assert_eq!(kernel.state(), State::Active);
                assert_eq!(ask(&kernel, 0).unwrap(), 0);
            }
            assert_eq!(failed(ask(&kernel, 100)).reason, Reason::HandlerPanicked);
            assert_eq!(ask(&kernel, 0).unwrap(), 0);
            // The reply is sent before the handler ends.
            kernel.terminate(TIMEOUT).unwrap();
            let stats = kernel.stats();
            assert_eq!((stats.handled, stats.dead_letters), (FAULTS + 1, FAULTS + 1));
            assert!(stats.is_conserved());
            bench.assert_worker_lives();
        }
    }
}

#[test]
fn an_error_that_cannot_be_formatted_fails_an_unsupervised_ring_kernel() {
    watchdog!();
    for message in (1..=FAULTS).chain([100]) {
        let bench = Bench::new(100);
        let kernel = bench.runtime.launch("returns", || Returns).unwrap();
        kernel.activate().unwrap();
        failed(kernel.ask_timeout(message, TIMEOUT));
        assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
        assert!(kernel.stats().is_conserved());
        bench.assert_worker_lives();
    }
}

#[test]
fn a_loop_that_returns_such_an_error_is_restarted() {
    watchdog!();
    let bench = Bench::new(100);
    let options = KernelOptions::new().supervision(Supervision::Resume);
    let body = |mut ctx: LoopContext<u64, u64>| async move {
        while let Some(message) = ctx.receive_async().await {
            match message {
                0 => ctx.reply(0),
                100.. => panic_any(Bomb(3)),
                _ => return Err(Faulty(message).into()),
            }
        }
        Ok(())
    };
    let kernel = bench.runtime.launch_loop("loop", options, body).unwrap();
    kernel.activate().unwrap();
    for message in (1..=FAULTS).chain([100]) {
        failed(kernel.ask_timeout(message, TIMEOUT));
        assert_eq!(kernel.ask_timeout(0, TIMEOUT).unwrap(), 0);
    }
    bench.assert_worker_lives();
    kernel.terminate(TIMEOUT).unwrap();
    assert!(kernel.stats().is_conserved());
    bench.assert_worker_lives();
}

#[test]
fn an_aborted_loop_may_panic_when_its_future_is_dropped() {
    watchdog!();
    let bench = Bench::new(100);
    let body = |mut ctx: LoopContext<u64, u64>| async move {
        let _bomb = Bomb(3);
        while ctx.receive_async().await.is_some() {
            std::future::pending::<()>().await;
        }
        Ok(())
    };
    let kernel = bench.runtime.launch_loop("loop", KernelOptions::new(), body).unwrap();
    kernel.activate().unwrap();
    kernel.tell(1).unwrap();
    kernel.tell(2).unwrap();
    kernel.abort().unwrap();
    assert_eq!(kernel.state(), State::Terminated);
    assert!(kernel.stats().is_conserved());
    bench.assert_worker_lives();
}

/// Takes bombs and disarms all but one.
struct Takes;

impl RingKernel for Takes {
    type Input = Bomb;
    type Output = u64;
    fn handle(&mut self, mut message: Bomb, ctx: &mut Context<u64>) -> HandlerResult {
        // A bomb with this number goes off here, in the handler.
        if message.0 != 7 {
            message.0 = 0;
        }
        ctx.reply(1);
        Ok(())
    }
}

#[test]
fn a_message_that_panics_when_dropped_by_its_handler_fails_that_message() {
    watchdog!();
    let bench = Bench::new(100);
    let options = KernelOptions::new().supervision(Supervision::Resume);
    let kernel = bench.runtime.launch_with("takes", options, || Takes).unwrap();
    kernel.activate().unwrap();
    kernel.tell(Bomb(7)).unwrap();
    assert_eq!(kernel.ask_timeout(Bomb(1), TIMEOUT).unwrap(), 1);
    kernel.terminate(TIMEOUT).unwrap();
    let stats = kernel.stats();
    assert_eq!(stats.dead_letters_by_reason, [(Reason::HandlerPanicked, 1)]);
    assert!(stats.is_conserved());
}

#[test]
fn dead_letters_may_panic_when_dropped() {
    watchdog!();
    // None, some and all of the dead letters fit.
    for capacity in [0, 2, 100] {
        let bench = Bench::new(capacity);
        let kernel = bench.runtime.launch("takes", || Takes).unwrap();
        kernel.activate().unwrap();
        kernel.deactivate(TIMEOUT).unwrap();
        for _ in 0..10 {
            kernel.tell(Bomb(3)).unwrap();
        }
        kernel.abort().unwrap();
        let stats = kernel.stats();
        assert_eq!(stats.dead_letters_by_reason, [(Reason::Aborted, 10)]);
        assert!(stats.is_conserved());
        bench.assert_worker_lives();
        drop(kernel);
        // Drops what is stored.
        bench.runtime.shutdown(TIMEOUT).unwrap();
    }
}

#[test]
fn evicted_messages_that_panic_when_dropped_do_not_reach_the_sender() {
    watchdog!();
    let bench = Bench::new(0);
    let options = KernelOptions::new().capacity(2).backpressure(Backpressure::DropOldest);
    let kernel = bench.runtime.launch_with("takes", options, || Takes).unwrap();
    kernel.activate().unwrap();
    kernel.deactivate(TIMEOUT).unwrap();
    for _ in 0..10 {
        kernel.tell(Bomb(3)).unwrap();
    }
    kernel.reactivate().unwrap();
    kernel.terminate(TIMEOUT).unwrap();
    let stats = kernel.stats();
    assert_eq!((stats.sent, stats.handled, stats.dead_letters), (10, 2, 8));
}

/// Replies with a bomb after its caller has given up.
struct RepliesLate(Arc<AtomicU32>);

impl RingKernel for RepliesLate {
    type Input = u64;
    type Output = Bomb;
    fn handle(&mut self, message: u64, ctx: &mut Context<Bomb>) -> HandlerResult {
        if message == 0 {
            ctx.reply(Bomb(0));
            return Ok(());
        }
        // Until the caller has given up.
        while self.0.load(Ordering::Acquire) == 0 {
            std::thread::yield_now();
        }
        ctx.reply(Bomb(3));
        Ok(())
    }
}

#[test]
fn a_reply_after_the_caller_gave_up_may_panic_when_dropped() {
    watchdog!();
    let bench = Bench::new(100);
    let gave_up = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&gave_up);
    let options = KernelOptions::new().supervision(Supervision::Resume);
    let kernel = bench.runtime.launch_with("late", options, move || RepliesLate(Arc::clone(&seen))).unwrap();
    kernel.activate().unwrap();
    assert!(matches!(kernel.ask_timeout(1, Duration::from_millis(10)), Err(AskError::TimedOut { .. })));
    gave_up.store(1, Ordering::Release);
    assert_eq!(kernel.ask_timeout(0, TIMEOUT).unwrap().0, 0);
    kernel.terminate(TIMEOUT).unwrap();
    let stats = kernel.stats();
    assert_eq!(stats.dead_letters_by_reason, [(Reason::HandlerPanicked, 1)]);
    assert!(stats.is_conserved());
    bench.assert_worker_lives();
}

struct Sends;

impl RingKernel for Sends {
    type Input = u64;
    type Output = Unclonable;
    fn handle(&mut self, message: u64, ctx: &mut Context<Unclonable>) -> HandlerResult {
        ctx.send(Unclonable(message));
        Ok(())
    }
}

struct Counts(Arc<AtomicU32>);

impl RingKernel for Counts {
    type Input = Unclonable;
    type Output = u64;
    fn handle(&mut self, _: Unclonable, _: &mut Context<u64>) -> HandlerResult {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[test]
fn an_output_whose_clone_panics_fails_the_message_that_caused_it() {
    watchdog!();
    let bench = Bench::new(100);
    let options = KernelOptions::new().supervision(Supervision::Resume);
    let sends = bench.runtime.launch_with("sends", options, || Sends).unwrap();
    let counted = Arc::new(AtomicU32::new(0));
    let downstream: Vec<_> = ["left", "right"]
        .into_iter()
        .map(|name| {
            let counted = Arc::clone(&counted);
            let kernel = bench.runtime.launch(name, move || Counts(Arc::clone(&counted))).unwrap();
            sends.connect(&kernel).unwrap();
            kernel.activate().unwrap();
            kernel
        })
        .collect();
    sends.activate().unwrap();
    for message in [1, 0, 1] {
        sends.tell(message).unwrap();
    }
    sends.terminate(TIMEOUT).unwrap();
    for kernel in downstream {
        kernel.terminate(TIMEOUT).unwrap();
    }
    let stats = sends.stats();
    assert_eq!(stats.dead_letters_by_reason, [(Reason::HandlerPanicked, 2)]);
    assert!(stats.is_conserved());
    assert_eq!(counted.load(Ordering::Relaxed), 2, "the output that can be cloned reached both");
    bench.assert_worker_lives();
}

/// Panics with a bomb where its message says, and when it is dropped.
struct Hooks {
    bomb: Bomb,
    fails_at: &'static str,
    attempts: Arc<AtomicU32>,
}

impl Hooks {
    fn at(&self, place: &str) -> HandlerResult {
        // The first attempt fails.
        if place == self.fails_at && self.attempts.fetch_add(1, Ordering::Relaxed) == 0 {
            panic_any(Bomb(3));
        }
        Ok(())
    }
}

impl RingKernel for Hooks {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        self.at("handle")?;
        ctx.reply(message + u64::from(self.bomb.0));
        Ok(())
    }
    fn on_activate(&mut self, _: &mut Context<u64>) -> HandlerResult {
        self.at("on_activate")
    }
    fn on_deactivate(&mut self, _: &mut Context<u64>) -> HandlerResult {
        self.at("on_deactivate")
    }
    fn on_terminate(&mut self, _: &mut Context<u64>) -> HandlerResult {
        self.at("on_terminate")
    }
}

#[test]
fn hooks_and_states_may_panic_with_payloads_that_panic() {
    watchdog!();
    for fails_at in ["handle", "on_activate", "on_deactivate", "on_terminate", "nowhere"] {
        let bench = Bench::new(100);
        let attempts = Arc::new(AtomicU32::new(0));
        let options = KernelOptions::new().supervision(Supervision::restart(9, TIMEOUT));
        let factory = move || Hooks { bomb: Bomb(3), fails_at, attempts: Arc::clone(&attempts) };
        let kernel = bench.runtime.launch_with("hooks", options, factory).unwrap();
        kernel.activate().unwrap();
        if fails_at == "handle" {
            failed(kernel.ask_timeout(1, TIMEOUT));
        }
        kernel.deactivate(TIMEOUT).unwrap();
        kernel.reactivate().unwrap();
        assert_eq!(kernel.ask_timeout(1, TIMEOUT).unwrap(), 4, "{fails_at}");
        kernel.terminate(TIMEOUT).unwrap();
        let expected = if fails_at == "on_terminate" { State::Failed } else { State::Terminated };
        assert_eq!(kernel.state(), expected, "{fails_at}");
        assert!(kernel.stats().is_conserved());
        bench.assert_worker_lives();
    }
}

#[test]
fn a_factory_may_panic_with_a_payload_that_panics() {
    watchdog!();
    let bench = Bench::new(100);
    let refused = bench.runtime.launch("never", || -> Echo { panic_any(Bomb(3)) });
    assert!(refused.unwrap_err().to_string().contains("its factory panicked"));

    // The first state is created, the next two are not.
    let calls = Arc::new(AtomicU32::new(0));
    let options = KernelOptions::new().supervision(Supervision::restart(9, TIMEOUT));
    let factory = move || match calls.fetch_add(1, Ordering::Relaxed) {
        1 | 2 => panic_any(Bomb(3)),
        _ => Returns,
    };
    let kernel = bench.runtime.launch_with("returns", options, factory).unwrap();
    kernel.activate().unwrap();
    failed(kernel.ask_timeout(100, TIMEOUT));
    assert_eq!(kernel.ask_timeout(0, TIMEOUT).unwrap(), 0);
    assert_eq!(kernel.stats().restarts, 3);
    bench.assert_worker_lives();
}

#[test]
fn a_runtime_may_be_dropped_while_states_and_loops_panic_when_dropped() {
    watchdog!();
    let bench = Bench::new(2);
    let hooks = || Hooks { bomb: Bomb(3), fails_at: "nowhere", attempts: Arc::default() };
    let kernel = bench.runtime.launch("hooks", hooks).unwrap();
    kernel.activate().unwrap();
    let body = |mut ctx: LoopContext<u64, u64>| async move {
        let _bomb = Bomb(3);
        while ctx.receive_async().await.is_some() {}
        Ok(())
    };
    let looping = bench.runtime.launch_loop("loop", KernelOptions::new(), body).unwrap();
    looping.activate().unwrap();
    drop(bench);
    assert!(kernel.wait_ended(TIMEOUT).has_ended());
    assert!(looping.wait_ended(TIMEOUT).has_ended());
}
