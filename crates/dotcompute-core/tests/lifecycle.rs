//! The life of a ring kernel, and every call in every wrong state.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use dotcompute_core::error::{HandlerResult, LaunchError, LifecycleError, ReceiveError, Refusal};
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(20);

/// Sums, and writes down what happens to it.
struct Diary {
    events: Arc<Mutex<Vec<String>>>,
    sum: u64,
}

impl Diary {
    fn note(&self, event: impl Into<String>) {
        self.events.lock().unwrap().push(event.into());
    }
}

impl RingKernel for Diary {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        self.sum += message;
        self.note(format!("handle {message}"));
        ctx.reply(self.sum);
        Ok(())
    }
    fn on_activate(&mut self, _: &mut Context<u64>) -> HandlerResult {
        self.note("activate");
        Ok(())
    }
    fn on_deactivate(&mut self, _: &mut Context<u64>) -> HandlerResult {
        self.note("deactivate");
        Ok(())
    }
    fn on_terminate(&mut self, ctx: &mut Context<u64>) -> HandlerResult {
        self.note("terminate");
        ctx.send(self.sum);
        Ok(())
    }
}

fn diary() -> (Arc<Mutex<Vec<String>>>, impl Fn() -> Diary + Send + 'static) {
    let events = Arc::new(Mutex::new(Vec::new()));
    let inner = Arc::clone(&events);
    (events, move || Diary { events: Arc::clone(&inner), sum: 0 })
}

fn placements() -> [KernelOptions; 2] {
    [KernelOptions::new(), KernelOptions::new().dedicated()]
}

#[test]
fn a_life_in_order() {
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let (events, factory) = diary();
        let kernel = runtime.launch_with("diary", options, factory).unwrap();
        assert_eq!(kernel.state(), State::Launched);
        kernel.activate().unwrap();
        assert_eq!(kernel.ask(1).unwrap(), 1);
        kernel.deactivate(PATIENCE).unwrap();
        assert_eq!(kernel.state(), State::Deactivated);
        // Accepted and kept while paused.
        kernel.tell(2).unwrap();
        kernel.tell(3).unwrap();
        assert_eq!(kernel.stats().queued, 2);
        kernel.reactivate().unwrap();
        assert_eq!(kernel.ask(4).unwrap(), 10);
        kernel.terminate(PATIENCE).unwrap();
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
        // Answers to what was told, and what `on_terminate` sent, are still to be had after the end.
        let outputs: Vec<u64> = std::iter::from_fn(|| kernel.try_receive().ok()).collect();
        assert_eq!(outputs, [3, 6, 10]);
        assert!(matches!(kernel.receive(), Err(ReceiveError::Ended { state: State::Terminated, .. })));
    }
}

#[test]
fn calls_in_the_wrong_state_say_which_state_and_which_call() {
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let (_, factory) = diary();
        let kernel = runtime.launch_with("diary", options, factory).unwrap();

        // Launched, never activated: nothing queues up silently.
        let error = kernel.tell(5).unwrap_err();
        assert_eq!(error.reason, Refusal::NotActivated { state: State::Launched });
        assert_eq!(
            error.to_string(),
            "sending a `u64` to ring kernel `diary`: it is Launched and was never activated; call `activate` first"
        );
        assert!(matches!(kernel.receive(), Err(ReceiveError::NotActivated { .. })));
        for error in [kernel.deactivate(PATIENCE).unwrap_err(), kernel.reactivate().unwrap_err()] {
            assert!(matches!(error, LifecycleError::WrongState { state: State::Launched, .. }), "{error}");
        }
        kernel.activate().unwrap();
        let error = kernel.activate().unwrap_err();
        assert_eq!(
            error.to_string(),
            "calling `activate` on ring kernel `diary`: it is Active; it needs no activation"
        );
        assert!(kernel.reactivate().is_err());
        kernel.deactivate(PATIENCE).unwrap();
        assert!(kernel.deactivate(PATIENCE).is_err());
        assert!(kernel.activate().is_err());
        kernel.terminate(PATIENCE).unwrap();
        // Ending twice is no mistake.
        kernel.terminate(PATIENCE).unwrap();
        kernel.abort().unwrap();
        for error in [
            kernel.activate().unwrap_err(),
            kernel.deactivate(PATIENCE).unwrap_err(),
            kernel.reactivate().unwrap_err(),
        ] {
            assert!(matches!(error, LifecycleError::WrongState { state: State::Terminated, .. }), "{error}");
        }
        assert_eq!(kernel.tell(5).unwrap_err().reason, Refusal::Ended { state: State::Terminated });
        assert!(kernel.ask(5).unwrap_err().to_string().contains("takes no more messages"));
    }
}

#[test]
fn a_kernel_that_is_ended_before_it_was_activated_ends() {
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let (events, factory) = diary();
        let kernel = runtime.launch_with("diary", options, factory).unwrap();
        kernel.terminate(PATIENCE).unwrap();
        assert_eq!(kernel.state(), State::Terminated);
        assert!(events.lock().unwrap().is_empty(), "no hook runs for a life that never began");
    }
}

#[test]
fn everything_accepted_right_after_activation_is_handled_by_a_terminate() {
    for options in placements() {
        for _ in 0..50 {
            let runtime = Runtime::new().unwrap();
            let (events, factory) = diary();
            let kernel = runtime.launch_with("diary", options.clone(), factory).unwrap();
            kernel.activate().unwrap();
            kernel.tell(1).unwrap();
            kernel.terminate(PATIENCE).unwrap();
            assert_eq!(*events.lock().unwrap(), ["activate", "handle 1", "terminate"]);
        }
    }
}

#[test]
fn names_are_unique_while_in_use() {
    let runtime = Runtime::new().unwrap();
    let kernel = runtime.launch("twice", diary().1).unwrap();
    let error = runtime.launch("twice", diary().1).unwrap_err();
    assert!(matches!(error, LaunchError::DuplicateName { state: State::Launched, .. }));
    assert!(error.to_string().contains("`twice`"));
    kernel.activate().unwrap();
    assert_eq!(kernel.ask(1).unwrap(), 1, "the first is unharmed");
    kernel.terminate(PATIENCE).unwrap();
    runtime.launch("twice", diary().1).unwrap();
    assert!(matches!(runtime.launch("", diary().1), Err(LaunchError::EmptyName)));
}

#[test]
fn unknown_names_and_wrong_types_are_errors() {
    let runtime = Runtime::new().unwrap();
    let error = runtime.handle::<u64, u64>("nobody").unwrap_err();
    assert_eq!(
        error.to_string(),
        "looking up ring kernel `nobody`: no such name (none has been launched); launch it first"
    );
    let _kernel = runtime.launch("somebody", diary().1).unwrap();
    assert!(runtime.handle::<u64, u64>("nobody").unwrap_err().to_string().contains("`somebody`"));
    let error = runtime.handle::<u32, u64>("somebody").unwrap_err();
    assert!(
        matches!(&error, LifecycleError::WrongType { requested, actual, .. } if requested == "u32 -> u64" && actual == "u64 -> u64")
    );
    assert!(runtime.handle::<u64, u64>("somebody").is_ok());
}

#[test]
fn bad_options_launch_nothing() {
    let runtime = Runtime::new().unwrap();
    for (options, ring) in
        [(KernelOptions::new().capacity(0), "input"), (KernelOptions::new().output_capacity(0), "output")]
    {
        let error = runtime.launch_with("k", options, diary().1).unwrap_err();
        assert!(error.to_string().contains(ring), "{error}");
    }
    let error = runtime.launch_with("k", KernelOptions::new().capacity(usize::MAX), diary().1).unwrap_err();
    assert!(matches!(error, LaunchError::Capacity { .. }), "{error}");
    let error = runtime.launch_with("k", KernelOptions::new().pinned(9999), diary().1).unwrap_err();
    assert!(error.to_string().contains("core 9999"), "{error}");
    let error = runtime.launch("k", || -> Diary { panic!("no state today") }).unwrap_err();
    assert!(error.to_string().contains("no state today"), "{error}");
    // Each left the name free.
    runtime.launch("k", diary().1).unwrap();
}

/// Its handler holds on until it is let go.
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
fn nobody_waits_for_a_handler_that_does_not_return() {
    for options in placements() {
        let runtime = Runtime::new().unwrap();
        let gate = Arc::new(Mutex::new(()));
        let held = gate.lock().unwrap();
        let inner = Arc::clone(&gate);
        let kernel = runtime.launch_with("stuck", options, move || Stuck(Arc::clone(&inner))).unwrap();
        kernel.activate().unwrap();
        let asker = {
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
        assert!(error.to_string().contains("does not return"), "{error}");
        assert!(asker.join().unwrap().contains("is Failed"));
        assert!(queued.join().unwrap().contains("is Failed"));
        assert_eq!(kernel.state(), State::Failed);
        // Let go at last, it finds that it has ended, and the books still balance.
        drop(held);
        while !kernel.stats().is_conserved() || kernel.stats().queued > 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_closed_runtime_launches_nothing_and_its_handles_say_so() {
    let runtime = Runtime::new().unwrap();
    let kernel = runtime.launch("k", diary().1).unwrap();
    kernel.activate().unwrap();
    kernel.tell(1).unwrap();
    runtime.shutdown(PATIENCE).unwrap();
    assert_eq!(kernel.state(), State::Terminated);
    assert_eq!(kernel.stats().handled, 1, "shutdown handles what was accepted");
    assert!(matches!(kernel.tell(2).unwrap_err().reason, Refusal::Ended { .. }));
}
