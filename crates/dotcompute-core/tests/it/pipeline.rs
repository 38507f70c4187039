//! Connected ring kernels, outputs, backpressure along a pipeline, and async calls.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use dotcompute_conformance::watchdog;
use dotcompute_core::dead_letter::Reason;
use dotcompute_core::error::{AskError, HandlerResult, LifecycleError, ReceiveError, Refusal};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::options::{Backpressure, BandOrder, KernelOptions, Placement, Telemetry};
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use futures_lite::future::block_on;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Sends each message plus a constant.
struct Add(u64);

impl RingKernel for Add {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        ctx.send(message + self.0);
        Ok(())
    }
}

/// Fails on a message out of order.
struct InOrder(u64);

impl RingKernel for InOrder {
    type Input = u64;
    type Output = u64;
    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        if message != self.0 {
            return Err(format!("received {message}, expected {}", self.0).into());
        }
        self.0 += 1;
        if ctx.wants_reply() {
            ctx.reply(self.0);
        }
        Ok(())
    }
}

fn launch(runtime: &Runtime, name: &str, options: &KernelOptions, plus: u64) -> KernelHandle<u64, u64> {
    runtime.launch_with(name, options.clone(), move || Add(plus)).unwrap()
}

#[test]
fn a_pipeline_of_small_rings_keeps_order_and_loses_nothing() {
    watchdog!();
    // One worker for three ring kernels: a blocked one must not hold the worker.
    for (workers, placement) in [(1, Placement::Pool), (2, Placement::Pool), (1, Placement::Dedicated)] {
        let runtime = Runtime::with_options(RuntimeOptions::new().workers(workers)).unwrap();
        let mut options = KernelOptions::new().capacity(4).telemetry(Telemetry::EVERY);
        options.placement = placement;
        let first = launch(&runtime, "first", &options, 1);
        let second = launch(&runtime, "second", &options, 2);
        let last = runtime.launch_with("last", options.clone(), || InOrder(3)).unwrap();
        first.connect(&second).unwrap();
        second.connect(&last).unwrap();
        // Upstream is activated first: early outputs wait for the kernels downstream.
        first.activate().unwrap();
        for message in 0..5 {
            first.tell(message).unwrap();
        }
        second.activate().unwrap();
        last.activate().unwrap();
        for message in 5..20_000 {
            first.tell(message).unwrap();
        }
        // Upstream ends first, so that every message arrives.
        runtime.shutdown(TIMEOUT).unwrap();
        for kernel in [&first, &second, &last] {
            let stats = kernel.stats();
            assert_eq!((stats.sent, stats.handled, stats.dead_letters), (20_000, 20_000, 0), "{stats:?}");
            assert_eq!(stats.queue_time.samples, 20_000);
        }
        assert_eq!(second.stats().emitted, 20_000);
    }
}

#[test]
fn fan_out_copies_to_each_and_fan_in_receives_from_all() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let options = KernelOptions::new().capacity(8);
    let source = launch(&runtime, "source", &options, 0);
    let left = launch(&runtime, "left", &options, 1_000_000);
    let right = launch(&runtime, "right", &options, 2_000_000);
    let sink = launch(&runtime, "sink", &options, 0);
    source.connect(&left).unwrap();
    source.connect(&right).unwrap();
    left.connect(&sink).unwrap();
    right.connect(&sink).unwrap();
    for kernel in [&source, &left, &right, &sink] {
        kernel.activate().unwrap();
    }
    let collected = std::thread::scope(|scope| {
        let reader =
            scope.spawn(|| (0..2000).map(|_| sink.receive_timeout(TIMEOUT).unwrap()).collect::<Vec<_>>());
        for message in 0..1000 {
            source.tell(message).unwrap();
        }
        reader.join().unwrap()
    });
    for offset in [1_000_000, 2_000_000] {
        let from_one: Vec<u64> =
            collected.iter().copied().filter(|value| value / 1_000_000 * 1_000_000 == offset).collect();
        assert_eq!(from_one, (offset..offset + 1000).collect::<Vec<_>>(), "each path keeps its order");
    }
    assert_eq!(source.stats().emitted, 2000);
}

#[test]
fn an_output_to_a_failed_kernel_is_a_dead_letter_with_its_message() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let source = launch(&runtime, "source", &KernelOptions::new(), 0);
    let ended = runtime.launch("ended", || InOrder(0)).unwrap();
    source.connect(&ended).unwrap();
    source.activate().unwrap();
    ended.activate().unwrap();
    ended.ask(9).unwrap_err();
    assert_eq!(ended.wait_ended(TIMEOUT), State::Failed);
    source.tell(77).unwrap();
    source.terminate(TIMEOUT).unwrap();
    let stats = source.stats();
    assert_eq!((stats.handled, stats.emitted, stats.undelivered), (1, 0, 1));
    assert!(stats.is_conserved());
    let mut letter = runtime.take_dead_letters().pop().unwrap();
    assert_eq!(letter.fault.reason, Reason::Undelivered);
    assert!(letter.fault.cause.contains("`ended` is Failed"), "{}", letter.fault);
    assert_eq!(letter.take_message::<u64>(), Some(77));
    // An ended kernel cannot be connected, nor a kernel to itself.
    assert!(matches!(source.connect(&ended), Err(LifecycleError::WrongState { call: "connect", .. })));
    let single = launch(&runtime, "single", &KernelOptions::new(), 0);
    assert!(matches!(single.connect(&single), Err(LifecycleError::SelfConnection { .. })));
}

#[test]
fn unread_outputs_block_the_kernel_until_they_are_received() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let options = KernelOptions::new().capacity(4).output_capacity(2).backpressure(Backpressure::Reject);
    let kernel = launch(&runtime, "kernel", &options, 0);
    kernel.activate().unwrap();
    let mut accepted = Vec::new();
    // It accepts at most one message more than its rings hold, and then rejects.
    for message in 0..100 {
        match kernel.tell(message) {
            Ok(()) => accepted.push(message),
            Err(error) => {
                assert_eq!(error.reason, Refusal::Full { capacity: 4 });
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }
    assert!(accepted.len() <= 4 + 2 + 1, "{accepted:?}");
    let received: Vec<u64> = accepted.iter().map(|_| kernel.receive_timeout(TIMEOUT).unwrap()).collect();
    assert_eq!(received, accepted);
    // Blocked on unread outputs, it can still be ended.
    for message in 0..4 {
        kernel.tell(message).unwrap();
    }
    let ended = kernel.terminate(Duration::from_millis(50));
    assert!(matches!(ended, Err(LifecycleError::Timeout { .. })), "{ended:?}");
    let stats = kernel.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!(stats.emitted + stats.undelivered, stats.handled);
}

#[test]
fn priorities_overtake_and_keep_their_order() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let kernel = launch(&runtime, "kernel", &KernelOptions::new(), 0);
    kernel.activate().unwrap();
    kernel.deactivate(TIMEOUT).unwrap();
    for (priority, message) in
        [(10u8, 1), (128, 2), (200, 3), (255, 4), (10, 5), (128, 6), (200, 7), (255, 8)]
    {
        kernel.with_priority(priority).tell(message).unwrap();
    }
    kernel.reactivate().unwrap();
    // Outputs have the priorities of their causes, so all of them must be there before the first is received.
    while kernel.stats().handled < 8 {
        std::thread::yield_now();
    }
    let order: Vec<u64> = (0..8).map(|_| kernel.receive_timeout(TIMEOUT).unwrap()).collect();
    assert_eq!(order, [4, 8, 3, 7, 2, 6, 1, 5]);
}

#[test]
fn outputs_are_correlated_with_their_causes() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let kernel = launch(&runtime, "kernel", &KernelOptions::new(), 0);
    kernel.activate().unwrap();
    kernel.with_priority(200).tell(1).unwrap();
    let received = kernel.receive_envelope(Some(TIMEOUT)).unwrap();
    assert_eq!(received.header.priority.get(), 200);
    assert!(received.header.correlation_id.is_some());
    assert_ne!(received.header.correlation_id, Some(received.header.message_id));
}

#[test]
fn a_blocked_sender_waits_times_out_and_is_woken() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let kernel = runtime.launch_with("kernel", KernelOptions::new().capacity(2), || InOrder(0)).unwrap();
    kernel.activate().unwrap();
    kernel.deactivate(TIMEOUT).unwrap();
    kernel.tell(0).unwrap();
    kernel.tell(1).unwrap();
    let error = kernel.tell_timeout(2, Duration::from_millis(10)).unwrap_err();
    assert!(matches!(error.reason, Refusal::TimedOut { capacity: 2, .. }), "{error}");
    assert_eq!(kernel.try_tell(2).unwrap_err().into_message(), 2);
    let error = kernel.ask_timeout(2, Duration::from_millis(10)).unwrap_err();
    assert!(matches!(&error, AskError::NotSent(unsent) if unsent.message == 2), "{error}");
    let blocked = {
        let kernel = kernel.clone();
        std::thread::spawn(move || kernel.tell(2))
    };
    std::thread::sleep(Duration::from_millis(20));
    kernel.reactivate().unwrap();
    blocked.join().unwrap().unwrap();
    kernel.deactivate(TIMEOUT).unwrap();
    let mut next = 3;
    while kernel.try_tell(next).is_ok() {
        next += 1;
    }
    let blocked = {
        let kernel = kernel.clone();
        std::thread::spawn(move || block_on(kernel.tell_async(next)))
    };
    std::thread::sleep(Duration::from_millis(20));
    kernel.reactivate().unwrap();
    blocked.join().unwrap().unwrap();
    // If the kernel ends while a sender waits for a free slot, the sender gets an error with the message.
    let other = runtime.launch_with("other", KernelOptions::new().capacity(1), || InOrder(0)).unwrap();
    other.activate().unwrap();
    other.deactivate(TIMEOUT).unwrap();
    other.tell(0).unwrap();
    let blocked = {
        let other = other.clone();
        std::thread::spawn(move || other.tell(5).unwrap_err())
    };
    std::thread::sleep(Duration::from_millis(10));
    other.abort().unwrap();
    let error = blocked.join().unwrap();
    assert!(matches!(error.reason, Refusal::Ended { .. }), "{error}");
    assert_eq!(error.message, 5);
}

#[test]
fn async_calls_work_on_any_executor_and_can_be_dropped() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let kernel = runtime.launch("kernel", || InOrder(0)).unwrap();
    kernel.activate().unwrap();
    block_on(async {
        for message in 0..1000 {
            assert_eq!(kernel.ask_async(message).await.unwrap(), message + 1);
        }
        kernel.deactivate_async(TIMEOUT).await.unwrap();
        let error = kernel.ask_timeout_async(1000, Duration::from_millis(10)).await.unwrap_err();
        assert!(matches!(error, AskError::TimedOut { queued: 1, .. }), "{error}");
        // Dropping the future abandons the ask; the request is still handled.
        let abandoned = futures_lite::future::poll_once(Box::pin(kernel.ask_async(1001))).await;
        assert!(abandoned.is_none());
        kernel.reactivate().unwrap();
        assert_eq!(kernel.ask_async(1002).await.unwrap(), 1003);
        let error = futures_lite::future::or(async { kernel.receive_async().await }, async {
            kernel.terminate_async(TIMEOUT).await.unwrap();
            std::future::pending().await
        });
        assert!(matches!(error.await, Err(ReceiveError::Ended { .. })));
    });
    assert_eq!(kernel.stats().handled, 1003);
}

#[test]
fn a_reply_can_be_sent_later_and_from_another_thread() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    struct Elsewhere;
    impl RingKernel for Elsewhere {
        type Input = u64;
        type Output = u64;
        fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
            let reply = ctx.take_reply().ok_or("the message is not a request")?;
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(5));
                assert!(reply.send(message * 2));
            });
            Ok(())
        }
    }
    let kernel = runtime.launch("kernel", || Elsewhere).unwrap();
    kernel.activate().unwrap();
    assert_eq!(kernel.ask(21).unwrap(), 42);
}

/// Logs the messages that it handles.
struct Log(Arc<Mutex<Vec<u64>>>);

impl RingKernel for Log {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, _: &mut Context<u64>) -> HandlerResult {
        self.0.lock().unwrap().push(message);
        Ok(())
    }
}

/// Returns the place at which a normal message is handled that arrives before 100 messages of the high band.
fn place_of_a_normal_message(options: KernelOptions) -> usize {
    let runtime = Runtime::new().unwrap();
    let log = Arc::default();
    let logged = Arc::clone(&log);
    let kernel = runtime.launch_with("kernel", options, move || Log(Arc::clone(&logged))).unwrap();
    kernel.activate().unwrap();
    kernel.deactivate(TIMEOUT).unwrap();
    kernel.tell(0).unwrap();
    (1..=100).for_each(|message| kernel.with_priority(200).tell(message).unwrap());
    kernel.terminate(TIMEOUT).unwrap();
    let log = log.lock().unwrap();
    assert!(log.iter().filter(|&&message| message > 0).is_sorted(), "first in, first out in the high band");
    log.iter().position(|&message| message == 0).unwrap()
}

#[test]
fn a_normal_message_gets_its_turn_after_some_of_the_high_band() {
    watchdog!();
    assert_eq!(place_of_a_normal_message(KernelOptions::new()), 32);
    let order = BandOrder::Aged { after: 5 };
    assert_eq!(place_of_a_normal_message(KernelOptions::new().band_order(order)), 5);
    assert_eq!(place_of_a_normal_message(KernelOptions::new().band_order(BandOrder::Strict)), 100);
}
