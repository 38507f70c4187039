//! The end of connections: by `disconnect`, with the target, and with the source.

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::error::{HandlerResult, LifecycleError};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::Runtime;

/// Sends each message on; fails for 0.
struct Forward;

impl RingKernel for Forward {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        if message == 0 {
            return Err("zero".into());
        }
        ctx.send(message);
        Ok(())
    }
}

fn launch(runtime: &Runtime, name: &str) -> KernelHandle<u64, u64> {
    let kernel = runtime.launch_with(name, KernelOptions::new().capacity(16), || Forward).unwrap();
    kernel.activate().unwrap();
    kernel
}

/// Sends a message to a ring kernel and waits until it is handled.
fn handle(kernel: &KernelHandle<u64, u64>, message: u64) {
    let handled = kernel.stats().handled;
    kernel.tell(message).unwrap();
    while kernel.stats().handled == handled {
        std::thread::yield_now();
    }
}

#[test]
fn after_disconnect_outputs_go_to_the_others_and_then_to_the_output_ring() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let [source, first, second] = ["source", "first", "second"].map(|name| launch(&runtime, name));
    let to_first = source.connect(&first).unwrap();
    drop(source.connect(&second).unwrap());
    handle(&source, 1);
    assert_eq!((first.receive().unwrap(), second.receive().unwrap()), (1, 1));
    to_first.disconnect().unwrap();
    handle(&source, 2);
    assert_eq!(second.receive().unwrap(), 2);
    source.disconnect(&second).unwrap();
    handle(&source, 3);
    assert_eq!(source.receive().unwrap(), 3);
    assert_eq!((first.stats().sent, second.stats().sent, source.stats().unrouted), (1, 2, 0));
    assert_eq!(
        source.disconnect(&second).unwrap_err().to_string(),
        "disconnecting ring kernel `source` from `second`: they are not connected; connect them first, or ignore this"
    );
    // And connected again.
    let again = source.connect(&second).unwrap();
    handle(&source, 4);
    assert_eq!(second.receive().unwrap(), 4);
    second.terminate(TIMEOUT).unwrap();
    again.disconnect().unwrap();
}

#[test]
fn outputs_that_wait_for_a_disconnected_ring_kernel_are_dead_letters() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let [source, target] = ["source", "target"].map(|name| launch(&runtime, name));
    let connection = source.connect(&target).unwrap();
    target.deactivate(TIMEOUT).unwrap();
    while target.try_tell(1).is_ok() {}
    handle(&source, 2);
    connection.disconnect().unwrap();
    // The driver takes the change over at its next output, which the backlog delays: the target makes room for it.
    target.reactivate().unwrap();
    handle(&source, 3);
    assert_eq!(source.receive().unwrap(), 3);
    let stats = source.stats();
    assert_eq!(stats.emitted + stats.undelivered, 2, "each output has one fate: {stats:?}");
}

#[test]
fn targets_that_were_terminated_are_pruned_silently_and_outputs_without_any_are_counted() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let source = launch(&runtime, "source");
    for index in 0..100 {
        let target = launch(&runtime, &format!("target-{index}"));
        source.connect(&target).unwrap();
        // Some are taken over by the driver, and some are not.
        if index % 3 == 0 {
            handle(&source, 1);
        }
        target.terminate(TIMEOUT).unwrap();
    }
    for _ in 0..5 {
        handle(&source, 2);
    }
    assert_eq!(runtime.dead_letter_count(), 0);
    assert_eq!(source.stats().undelivered, 0);
    assert!(source.stats().unrouted >= 4, "{:?}", source.stats());
    // A new connection is served again.
    let target = launch(&runtime, "target");
    source.connect(&target).unwrap();
    let unrouted = source.stats().unrouted;
    handle(&source, 3);
    assert_eq!(target.receive().unwrap(), 3);
    assert_eq!(source.stats().unrouted, unrouted);
    // After the explicit end of the last connection, outputs go to the output ring.
    source.disconnect(&target).unwrap();
    handle(&source, 4);
    assert_eq!(source.receive().unwrap(), 4);
}

#[test]
fn a_failed_target_is_one_dead_letter() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let [source, failed, alive] = ["source", "failed", "alive"].map(|name| launch(&runtime, name));
    source.connect(&failed).unwrap();
    source.connect(&alive).unwrap();
    failed.tell(0).unwrap();
    assert_eq!(failed.wait_ended(TIMEOUT), State::Failed);
    let before = runtime.dead_letter_count();
    for message in 1..=3 {
        handle(&source, message);
        assert_eq!(alive.receive().unwrap(), message);
    }
    assert_eq!(runtime.dead_letter_count(), before + 1);
    assert_eq!((source.stats().undelivered, source.stats().unrouted), (1, 0));
    let letter = runtime.take_dead_letters().pop().unwrap();
    assert!(letter.fault.cause.contains("`failed` is Failed"), "{}", letter.fault);
    assert!(matches!(source.disconnect(&failed), Err(LifecycleError::NotConnected { .. })));
}
