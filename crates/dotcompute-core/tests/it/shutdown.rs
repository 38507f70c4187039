//! Shutting down a runtime: the order, the deadline that all ring kernels share, and calls that end one ring kernel.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::error::{HandlerResult, LifecycleError};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_ring::wait::{park, thread_waker};

/// Sends each message on, after it has the lock of `gate`.
struct Forward {
    gate: Arc<Mutex<()>>,
}

impl RingKernel for Forward {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        drop(self.gate.lock().unwrap());
        ctx.send(message);
        Ok(())
    }
}

fn launch(
    runtime: &Runtime,
    name: &str,
    options: KernelOptions,
    gate: &Arc<Mutex<()>>,
) -> KernelHandle<u64, u64> {
    let gate = Arc::clone(gate);
    let kernel = runtime.launch_with(name, options, move || Forward { gate: Arc::clone(&gate) }).unwrap();
    kernel.activate().unwrap();
    kernel
}

fn launch_free(runtime: &Runtime, name: &str) -> KernelHandle<u64, u64> {
    launch(runtime, name, KernelOptions::new(), &Arc::default())
}

fn launch_stuck(runtime: &Runtime, name: &str, gate: &Arc<Mutex<()>>) -> KernelHandle<u64, u64> {
    let kernel = launch(runtime, name, KernelOptions::new().dedicated(), gate);
    kernel.tell(1).unwrap();
    while kernel.stats().queued > 0 {
        std::thread::yield_now();
    }
    kernel
}

#[test]
fn messages_in_a_pipeline_are_handled_although_an_unrelated_handler_is_stuck() {
    watchdog!();
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2)).unwrap();
    let gate = Arc::new(Mutex::new(()));
    let guard = gate.lock().unwrap();
    // Named so that no order by name is the right one.
    let stages = ["b", "c", "a"].map(|name| launch_free(&runtime, name));
    let stuck: Vec<_> = ["0", "z"].iter().map(|name| launch_stuck(&runtime, name, &gate)).collect();
    for pair in stages.windows(2) {
        pair[0].connect(&pair[1]).unwrap();
    }
    for number in 0..100 {
        stages[0].tell(number).unwrap();
    }
    let error = runtime.shutdown(Duration::from_secs(2)).unwrap_err();
    assert_eq!(error.stuck, ["0", "z"]);
    for stage in &stages {
        assert_eq!((stage.stats().handled, stage.state()), (100, State::Terminated), "{stage:?}");
    }
    for kernel in &stuck {
        assert_eq!(kernel.state(), State::Failed);
    }
    drop(guard);
}

#[test]
fn cycles_end_together_and_those_downstream_of_them_afterwards() {
    watchdog!();
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(1)).unwrap();
    let [upstream, first, second, downstream] =
        ["upstream", "first", "second", "downstream"].map(|name| launch_free(&runtime, name));
    // Before the cycle is closed, which would otherwise pass the messages round forever.
    first.connect(&downstream).unwrap();
    upstream.connect(&downstream).unwrap();
    for number in 0..100 {
        first.tell(number).unwrap();
        upstream.tell(number).unwrap();
    }
    while first.stats().handled < 100 {
        std::thread::yield_now();
    }
    first.connect(&second).unwrap();
    second.connect(&first).unwrap();
    runtime.shutdown(TIMEOUT).unwrap();
    assert_eq!(downstream.stats().handled, 200);
    assert_eq!(second.state(), State::Terminated);
}

/// One after the other, with two seconds for each, these would take a minute.
#[test]
fn the_deadline_is_common_to_all() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let gate = Arc::new(Mutex::new(()));
    let guard = gate.lock().unwrap();
    let stuck: Vec<_> =
        (0..30).map(|index| launch_stuck(&runtime, &format!("stuck-{index:02}"), &gate)).collect();
    let idle = launch_free(&runtime, "idle");
    let start = Instant::now();
    let error = runtime.shutdown(Duration::from_millis(20)).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let names: Vec<_> = stuck.iter().map(KernelHandle::name).collect();
    assert_eq!(error.stuck, names);
    assert!(stuck.iter().all(|kernel| kernel.state() == State::Failed));
    assert_eq!(idle.state(), State::Terminated);
    drop(guard);
}

#[test]
fn ring_kernels_without_a_free_worker_end_at_the_deadline() {
    watchdog!();
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(1)).unwrap();
    let gate = Arc::new(Mutex::new(()));
    let guard = gate.lock().unwrap();
    let stuck = launch(&runtime, "stuck", KernelOptions::new(), &gate);
    stuck.tell(1).unwrap();
    while stuck.stats().queued > 0 {
        std::thread::yield_now();
    }
    let waiting = launch_free(&runtime, "waiting");
    waiting.tell(1).unwrap();
    let error = runtime.shutdown(Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.stuck, ["stuck", "waiting"]);
    assert_eq!(waiting.state(), State::Terminated);
    assert_eq!(waiting.stats().dead_letters, 1);
    drop(guard);
}

/// Polls `terminate_async` until it is ready. Returns its result and the time of its longest poll.
fn longest_poll(kernel: &KernelHandle<u64, u64>) -> (Result<(), LifecycleError>, Duration) {
    let mut future = pin!(kernel.terminate_async(Duration::from_millis(1)));
    let waker = thread_waker();
    let mut longest = Duration::ZERO;
    loop {
        let start = Instant::now();
        let polled = future.as_mut().poll(&mut TaskContext::from_waker(&waker));
        longest = longest.max(start.elapsed());
        match polled {
            Poll::Ready(result) => return (result, longest),
            Poll::Pending => park(None),
        };
    }
}

/// A machine under load may stop the thread in any poll, so one of several attempts must be fast. A call that waits for the handler is
/// slow in every attempt.
#[test]
fn terminate_async_never_blocks_its_executor() {
    watchdog!();
    let gate = Arc::new(Mutex::new(()));
    let guard = gate.lock().unwrap();
    let runtime = Runtime::new().unwrap();
    let is_fast = (0..10).any(|attempt| {
        let kernel = launch_stuck(&runtime, &format!("stuck-{attempt}"), &gate);
        let (result, longest) = longest_poll(&kernel);
        assert!(result.unwrap_err().to_string().contains("did not return"));
        assert_eq!(kernel.state(), State::Failed);
        longest < Duration::from_millis(100)
    });
    assert!(is_fast);
    drop(guard);
}

#[test]
fn a_failed_look_up_names_a_few_of_many() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let kernels: Vec<_> = (0..1000).map(|index| launch_free(&runtime, &format!("k{index}"))).collect();
    let error = runtime.handle::<u64, u64>("nope").unwrap_err();
    let LifecycleError::UnknownKernel { kernel, known } = &error else { panic!("{error}") };
    assert_eq!((&**kernel, known.len()), ("nope", 8));
    assert!(known.is_sorted());
    // After most have ended, the table gives its memory back and still finds the others.
    let (ended, alive) = kernels.split_at(990);
    for kernel in ended {
        kernel.terminate(TIMEOUT).unwrap();
    }
    for kernel in alive {
        assert!(runtime.handle::<u64, u64>(kernel.name()).is_ok());
    }
    assert!(runtime.handle::<u64, u64>("k0").is_err());
}
