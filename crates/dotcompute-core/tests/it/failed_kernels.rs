//! What a runtime keeps of ring kernels that have failed.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::error::{HandlerResult, LifecycleError};
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};

/// Fails for 0 and replies otherwise.
struct Picky;

impl RingKernel for Picky {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        if message == 0 {
            return Err("zero".into());
        }
        ctx.reply(message);
        Ok(())
    }
}

/// Launches a ring kernel that fails after one message, and drops its handle.
fn fail(runtime: &Runtime, name: &str) {
    let kernel = runtime.launch(name, || Picky).unwrap();
    kernel.activate().unwrap();
    assert_eq!(kernel.ask(1).unwrap(), 1);
    kernel.ask(0).unwrap_err();
    assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
    // The end is reported just after the state has changed.
    while !runtime.all_stats().iter().any(|stats| stats.kernel == name && stats.state == State::Failed) {
        std::thread::yield_now();
    }
}

fn names(runtime: &Runtime) -> Vec<String> {
    runtime.all_stats().into_iter().map(|stats| stats.kernel).collect()
}

#[test]
fn the_counters_of_the_latest_failed_ones_are_kept() {
    watchdog!();
    let runtime = Runtime::with_options(RuntimeOptions::new().failed_kernel_capacity(2)).unwrap();
    let alive = runtime.launch("alive", || Picky).unwrap();
    for name in ["a", "b", "c"] {
        fail(&runtime, name);
    }
    while names(&runtime) != ["alive", "b", "c"] {
        std::thread::yield_now();
    }
    let stats = runtime.stats("c").unwrap();
    assert_eq!((stats.state, stats.handled, stats.dead_letters), (State::Failed, 1, 1));
    assert!(matches!(runtime.stats("a").unwrap_err(), LifecycleError::UnknownKernel { .. }));
    // A failure again is the latest, and a new ring kernel takes the name.
    fail(&runtime, "b");
    fail(&runtime, "d");
    while names(&runtime) != ["alive", "b", "d"] {
        std::thread::yield_now();
    }
    let again = runtime.launch("d", || Picky).unwrap();
    assert_eq!(runtime.stats("d").unwrap().state, State::Launched);
    assert_eq!(names(&runtime), ["alive", "b", "d"]);
    again.terminate(TIMEOUT).unwrap();
    alive.terminate(TIMEOUT).unwrap();
}

#[test]
fn a_capacity_of_zero_keeps_none() {
    watchdog!();
    let runtime = Runtime::with_options(RuntimeOptions::new().failed_kernel_capacity(0)).unwrap();
    let kernel = runtime.launch("k", || Picky).unwrap();
    kernel.activate().unwrap();
    kernel.ask(0).unwrap_err();
    assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
    while runtime.stats("k").is_ok() {
        std::thread::yield_now();
    }
    assert!(runtime.all_stats().is_empty());
    assert!(runtime.shutdown(TIMEOUT).is_ok());
}

/// Fails; counts what still exists of its state.
struct Tracks(#[expect(dead_code, reason = "it is dropped with the state")] Arc<()>);

impl RingKernel for Tracks {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, _: u64, _: &mut Context<u64>) -> HandlerResult {
        Err("fails".into())
    }
}

#[test]
fn a_failed_ring_kernel_is_found_as_long_as_a_handle_is_left() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let tracked = Arc::new(());
    let factory_tracked = Arc::clone(&tracked);
    let kernel = runtime.launch("k", move || Tracks(Arc::clone(&factory_tracked))).unwrap();
    kernel.activate().unwrap();
    kernel.ask(1).unwrap_err();
    assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
    let again = runtime.handle::<u64, u64>("k").unwrap();
    assert_eq!(again.state(), State::Failed);
    drop((kernel, again));
    // The driver drops its part just after the end.
    let error = loop {
        match runtime.handle::<u64, u64>("k") {
            Ok(_) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert_eq!(
        error.to_string(),
        "calling `handle` on ring kernel `k`: it is Failed; launch another; `stats` still returns its counters"
    );
    while Arc::strong_count(&tracked) > 1 {
        std::thread::yield_now();
    }
    assert_eq!(runtime.stats("k").unwrap().dead_letters, 1);
}

/// Its handler blocks while the lock is held.
struct Stuck(Weak<Mutex<()>>);

impl RingKernel for Stuck {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, _: u64, _: &mut Context<u64>) -> HandlerResult {
        if let Some(gate) = self.0.upgrade() {
            drop(gate.lock().unwrap());
        }
        Ok(())
    }
}

#[test]
fn the_counters_become_final_when_a_stuck_handler_returns() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let gate = Arc::new(Mutex::new(()));
    let guard = gate.lock().unwrap();
    let weak = Arc::downgrade(&gate);
    let options = KernelOptions::new().dedicated();
    let kernel = runtime.launch_with("stuck", options, move || Stuck(Weak::clone(&weak))).unwrap();
    kernel.activate().unwrap();
    for message in 0..3 {
        kernel.tell(message).unwrap();
    }
    while kernel.stats().queued > 2 {
        std::thread::yield_now();
    }
    kernel.terminate(Duration::from_millis(1)).unwrap_err();
    drop(kernel);
    assert_eq!(runtime.stats("stuck").unwrap().queued, 2, "its handler is still running");
    drop(guard);
    while runtime.stats("stuck").unwrap().dead_letters < 2 || runtime.handle::<u64, u64>("stuck").is_ok() {
        std::thread::yield_now();
    }
    let stats = runtime.stats("stuck").unwrap();
    assert_eq!((stats.state, stats.queued, stats.dead_letters), (State::Failed, 0, 2));
    assert!(stats.is_conserved());
}
