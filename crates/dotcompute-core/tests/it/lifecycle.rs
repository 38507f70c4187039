//! The lifecycle of a ring kernel, and every call in every wrong state.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::error::{HandlerResult, LaunchError, LifecycleError, ReceiveError, Refusal};
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::Runtime;

/// Adds up its messages and records every call of a handler or hook.
struct Recorder {
    events: Arc<Mutex<Vec<String>>>,
    sum: u64,
}

impl Recorder {
    fn record(&self, event: impl Into<String>) {
        self.events.lock().unwrap().push(event.into());
    }
}

impl RingKernel for Recorder {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        self.sum += message;
        self.record(format!("handle {message}"));
        if ctx.was_asked() {
            ctx.reply(self.sum);
        } else {
            ctx.send(self.sum);
        }
        Ok(())
    }
    fn on_activate(&mut self, _: &mut Context<u64>) -> HandlerResult {
        self.record("activate");
        Ok(())
    }
    fn on_deactivate(&mut self, _: &mut Context<u64>) -> HandlerResult {
        self.record("deactivate");
        Ok(())
    }
    fn on_terminate(&mut self, ctx: &mut Context<u64>) -> HandlerResult {
        self.record("terminate");
        ctx.send(self.sum);
        Ok(())
    }
}

fn recorder() -> (Arc<Mutex<Vec<String>>>, impl Fn() -> Recorder + Send + 'static) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let factory_events = Arc::clone(&events);
    (events, move || Recorder { events: Arc::clone(&factory_events), sum: 0 })
}

fn placements() -> [KernelOptions; 2] {
    [KernelOptions::new(), KernelOptions::new().dedicated()]
}

#[test]
fn states_and_hooks_follow_the_lifecycle() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let (events, factory) = recorder();
        let kernel = runtime.launch_with("recorder", options, factory).unwrap();
        assert_eq!(kernel.state(), State::Launched);
        kernel.activate().unwrap();
        assert_eq!(kernel.ask(1).unwrap(), 1);
        kernel.deactivate(TIMEOUT).unwrap();
        assert_eq!(kernel.state(), State::Deactivated);
        // Accepted and queued while deactivated.
        kernel.tell(2).unwrap();
        kernel.tell(3).unwrap();
        assert_eq!(kernel.stats().queued, 2);
        kernel.reactivate().unwrap();
        assert_eq!(kernel.ask(4).unwrap(), 10);
        kernel.terminate(TIMEOUT).unwrap();
        assert_eq!(kernel.state(), State::Terminated);
        assert_eq!(
            *events.lock().unwrap(),
            [
                "activate",
                "handle 1",
                "deactivate",
                "activate",
                "handle 2",
                "handle 3",
                "handle 4",
                "terminate"
            ]
        );
        // Outputs of told messages and the output of `on_terminate` can still be received after the end.
        let outputs: Vec<u64> = std::iter::from_fn(|| kernel.try_receive().ok()).collect();
        assert_eq!(outputs, [3, 6, 10]);
        assert!(matches!(kernel.receive(), Err(ReceiveError::Ended { state: State::Terminated, .. })));
    }
}

#[test]
fn calls_in_the_wrong_state_say_which_state_and_which_call() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let (_, factory) = recorder();
        let kernel = runtime.launch_with("recorder", options, factory).unwrap();

        // Launched and never activated: messages are rejected, not queued.
        let error = kernel.tell(5).unwrap_err();
        assert_eq!(error.reason, Refusal::NotActivated { state: State::Launched });
        assert_eq!(
            error.to_string(),
            "sending a `u64` to ring kernel `recorder`: it is Launched and was never activated; call `activate` first"
        );
        assert!(matches!(kernel.receive(), Err(ReceiveError::NotActivated { .. })));
        for error in [kernel.deactivate(TIMEOUT).unwrap_err(), kernel.reactivate().unwrap_err()] {
            assert!(matches!(error, LifecycleError::WrongState { state: State::Launched, .. }), "{error}");
        }
        kernel.activate().unwrap();
        let error = kernel.activate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "calling `activate` on ring kernel `recorder`: it is Active; it needs no activation"
        );
        assert!(kernel.reactivate().is_err());
        kernel.deactivate(TIMEOUT).unwrap();
        assert!(kernel.deactivate(TIMEOUT).is_err());
        assert!(kernel.activate().is_err());
        kernel.terminate(TIMEOUT).unwrap();
        // Ending it twice is not an error.
        kernel.terminate(TIMEOUT).unwrap();
        kernel.abort().unwrap();
        for error in [
            kernel.activate().unwrap_err(),
            kernel.deactivate(TIMEOUT).unwrap_err(),
            kernel.reactivate().unwrap_err(),
        ] {
            assert!(matches!(error, LifecycleError::WrongState { state: State::Terminated, .. }), "{error}");
        }
        assert_eq!(kernel.tell(5).unwrap_err().reason, Refusal::Ended { state: State::Terminated });
        assert!(kernel.ask(5).unwrap_err().to_string().contains("accepts no more messages"));
    }
}

#[test]
fn a_kernel_terminated_before_activation_ends() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let (events, factory) = recorder();
        let kernel = runtime.launch_with("recorder", options, factory).unwrap();
        kernel.terminate(TIMEOUT).unwrap();
        assert_eq!(kernel.state(), State::Terminated);
        assert!(events.lock().unwrap().is_empty(), "no hook runs without an activation");
    }
}

#[test]
fn a_terminate_right_after_activation_handles_every_accepted_message() {
    watchdog!();
    for options in placements() {
        for _ in 0..50 {
            let runtime = Runtime::new().unwrap();
            let (events, factory) = recorder();
            let kernel = runtime.launch_with("recorder", options.clone(), factory).unwrap();
            kernel.activate().unwrap();
            kernel.tell(1).unwrap();
            kernel.terminate(TIMEOUT).unwrap();
            assert_eq!(*events.lock().unwrap(), ["activate", "handle 1", "terminate"]);
        }
    }
}

#[test]
fn names_are_unique_while_in_use() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let kernel = runtime.launch("twice", recorder().1).unwrap();
    let error = runtime.launch("twice", recorder().1).unwrap_err();
    assert!(matches!(error, LaunchError::DuplicateName { state: State::Launched, .. }));
    assert!(error.to_string().contains("`twice`"));
    kernel.activate().unwrap();
    assert_eq!(kernel.ask(1).unwrap(), 1, "the first kernel is unaffected");
    kernel.terminate(TIMEOUT).unwrap();
    runtime.launch("twice", recorder().1).unwrap();
    assert!(matches!(runtime.launch("", recorder().1), Err(LaunchError::EmptyName)));
}

#[test]
fn unknown_names_and_wrong_types_are_errors() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let error = runtime.handle::<u64, u64>("unknown").unwrap_err();
    assert_eq!(
        error.to_string(),
        "looking up ring kernel `unknown`: no such name (none has been launched); launch it first"
    );
    let _kernel = runtime.launch("known", recorder().1).unwrap();
    assert!(runtime.handle::<u64, u64>("unknown").unwrap_err().to_string().contains("`known`"));
    let error = runtime.handle::<u32, u64>("known").unwrap_err();
    assert!(
        matches!(&error, LifecycleError::WrongType { requested, actual, .. } if requested == "u32 -> u64" && actual == "u64 -> u64")
    );
    assert!(runtime.handle::<u64, u64>("known").is_ok());
}

#[test]
fn bad_options_launch_nothing() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    for (options, ring) in
        [(KernelOptions::new().capacity(0), "input"), (KernelOptions::new().output_capacity(0), "output")]
    {
        let error = runtime.launch_with("k", options, recorder().1).unwrap_err();
        assert!(error.to_string().contains(ring), "{error}");
    }
    let error =
        runtime.launch_with("k", KernelOptions::new().capacity(usize::MAX), recorder().1).unwrap_err();
    assert!(matches!(error, LaunchError::Capacity { .. }), "{error}");
    let error = runtime.launch_with("k", KernelOptions::new().pinned(9999), recorder().1).unwrap_err();
    assert!(error.to_string().contains("core 9999"), "{error}");
    let error = runtime.launch("k", || -> Recorder { panic!("no state today") }).unwrap_err();
    assert!(error.to_string().contains("no state today"), "{error}");
    // Each failed launch left the name free.
    runtime.launch("k", recorder().1).unwrap();
}

/// Its handler blocks while the lock is held.
struct Stuck(Arc<Mutex<()>>);

impl RingKernel for Stuck {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        drop(self.0.lock().unwrap());
        ctx.reply(message);
        Ok(())
    }
}

#[test]
fn no_call_waits_for_a_handler_that_does_not_return() {
    watchdog!();
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let gate = Arc::new(Mutex::new(()));
        let guard = gate.lock().unwrap();
        let handler_gate = Arc::clone(&gate);
        let kernel = runtime.launch_with("stuck", options, move || Stuck(Arc::clone(&handler_gate))).unwrap();
        kernel.activate().unwrap();
        let caller = {
            let kernel = kernel.clone();
            std::thread::spawn(move || kernel.ask(1).unwrap_err().to_string())
        };
        while kernel.stats().sent == 0 || kernel.stats().queued > 0 {
            std::thread::yield_now();
        }
        let queued = {
            let kernel = kernel.clone();
            std::thread::spawn(move || {
                futures_lite::future::block_on(kernel.ask_async(2)).unwrap_err().to_string()
            })
        };
        while kernel.stats().queued == 0 {
            std::thread::yield_now();
        }
        let error = kernel.deactivate(Duration::from_millis(10)).unwrap_err();
        assert!(matches!(error, LifecycleError::Timeout { .. }));
        let error = kernel.terminate(Duration::from_millis(10)).unwrap_err();
        assert!(error.to_string().contains("did not return"), "{error}");
        assert!(caller.join().unwrap().contains("is Failed"));
        assert!(queued.join().unwrap().contains("is Failed"));
        assert_eq!(kernel.state(), State::Failed);
        // When the handler returns, it finds that the kernel has ended, and the counters agree.
        drop(guard);
        while !kernel.stats().is_conserved() || kernel.stats().queued > 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_runtime_that_was_shut_down_has_ended_its_kernels() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let kernel = runtime.launch("k", recorder().1).unwrap();
    kernel.activate().unwrap();
    kernel.tell(1).unwrap();
    runtime.shutdown(TIMEOUT).unwrap();
    assert_eq!(kernel.state(), State::Terminated);
    assert_eq!(kernel.stats().handled, 1, "shutdown handles the accepted messages");
    assert!(matches!(kernel.tell(2).unwrap_err().reason, Refusal::Ended { .. }));
}
