//! Ring kernels on a device behave as those on threads do: the same calls, the same errors, the same books.

mod loopback;

use std::sync::Arc;
use std::time::{Duration, Instant};

use dotcompute_core::dead_letter::{DeadLetter, Reason};
use dotcompute_core::device::DeviceKernel;
use dotcompute_core::error::{AskError, HandlerResult, LaunchError, Refusal};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::message::record::{bytes_of, from_bytes};
use dotcompute_core::message::{Message, Priority};
use dotcompute_core::options::{Backpressure, KernelOptions};
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use dotcompute_ring::wait::WaitStrategy;
use loopback::{Loopback, Out};

const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Message, Debug, Clone, Copy, PartialEq)]
#[message(record)]
#[repr(C)]
struct Number {
    value: u64,
}

/// Adds up; answers with the sum. 666 is an error, 0 takes its time, 1000 and more is only counted.
fn sum(state: &mut [u8], message: &[u8], outs: &mut Vec<Out>) -> i32 {
    let value = from_bytes::<Number>(message).unwrap().value;
    if value == 666 {
        return 7;
    }
    if value == 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let total = from_bytes::<Number>(state).unwrap().value + value;
    state.copy_from_slice(bytes_of(&Number { value: total }));
    if value < 1000 {
        outs.push(Out::Replied(bytes_of(&Number { value: total }).to_vec()));
    }
    0
}

/// Sends as many numbers as it is told.
fn count(_: &mut [u8], message: &[u8], outs: &mut Vec<Out>) -> i32 {
    let upto = from_bytes::<Number>(message).unwrap().value;
    outs.extend((0..upto).map(|value| Out::Sent(bytes_of(&Number { value }).to_vec())));
    0
}

/// Answers with half a record.
fn broken(_: &mut [u8], _: &[u8], outs: &mut Vec<Out>) -> i32 {
    outs.push(Out::Replied(vec![1, 2, 3]));
    0
}

struct Bench {
    device: Arc<Loopback>,
    runtime: Runtime,
}

impl Bench {
    fn new() -> Self {
        let device = Loopback::new(&[("sum", sum), ("count", count), ("broken", broken)]);
        let options = RuntimeOptions::new().workers(2).device(device.clone());
        Self { device, runtime: Runtime::with_options(options).unwrap() }
    }

    fn launch(&self, entry: &'static str, options: KernelOptions) -> KernelHandle<Number, Number> {
        let kernel = DeviceKernel::cuda_cpp("test.cu", "").entry(entry).state(Number { value: 0 }).queue(4);
        let handle = self.runtime.launch_on_device(entry, options, kernel).unwrap();
        handle.activate().unwrap();
        handle
    }
}

fn number(value: u64) -> Number {
    Number { value }
}

#[test]
fn it_is_asked_told_and_read_as_any_other() {
    let waits = [WaitStrategy::Adaptive, WaitStrategy::Spin, WaitStrategy::Park];
    for (wait, dedicated) in waits.into_iter().flat_map(|wait| [(wait, false), (wait, true)]) {
        let bench = Bench::new();
        let mut options = KernelOptions::new().wait(wait);
        if dedicated {
            options = options.dedicated();
        }
        let kernel = bench.launch("sum", options);
        for round in 1..=50 {
            assert_eq!(kernel.ask(number(2)).unwrap(), number(6 * round - 4));
            assert_eq!(kernel.ask_timeout(number(1), PATIENCE).unwrap(), number(6 * round - 3));
            let asked = futures_lite::future::block_on(kernel.ask_async(number(1))).unwrap();
            assert_eq!(asked, number(6 * round - 2));
            kernel.tell(number(2)).unwrap();
            let told = kernel.receive_envelope(Some(PATIENCE)).unwrap();
            assert_eq!(told.message, number(6 * round));
            assert!(told.header.correlation_id.is_some());
        }
        kernel.terminate(PATIENCE).unwrap();
        let stats = kernel.stats();
        assert_eq!((stats.handled, stats.replied, stats.emitted), (200, 150, 50));
        assert!(stats.is_conserved(), "{stats:?}");
        bench.runtime.shutdown(PATIENCE).unwrap();
    }
}

#[test]
fn a_question_without_an_answer_is_an_error() {
    let bench = Bench::new();
    let kernel = bench.launch("sum", KernelOptions::new());
    assert!(matches!(kernel.ask(number(1000)), Err(AskError::NoReply { .. })));
    assert_eq!(kernel.ask(number(1)).unwrap(), number(1001));
}

#[test]
fn what_does_not_compile_or_has_no_device_is_refused_with_nothing_held() {
    let bench = Bench::new();
    for _ in 0..2 {
        let kernel = DeviceKernel::<Number, Number>::cuda_cpp("test.cu", "").entry("missing");
        let refused = bench.runtime.launch_on_device("x", KernelOptions::new(), kernel).unwrap_err();
        assert!(matches!(refused, LaunchError::Backend { .. }), "the name is free again: {refused}");
        assert!(refused.to_string().contains("no handler `missing`"), "{refused}");
    }
    let kernel = DeviceKernel::<Number, Number>::cuda_cpp("test.cu", "");
    let refused = Runtime::new().unwrap().launch_on_device("x", KernelOptions::new(), kernel).unwrap_err();
    assert!(refused.to_string().contains("RuntimeOptions::device"), "{refused}");
}

#[test]
fn a_pause_keeps_state_and_mail_and_lets_urgent_mail_pass() {
    let bench = Bench::new();
    let kernel = bench.launch("sum", KernelOptions::new());
    assert_eq!(kernel.ask(number(5)).unwrap(), number(5));
    kernel.deactivate(PATIENCE).unwrap();
    for value in 1..=20 {
        kernel.tell(number(value)).unwrap();
    }
    kernel.with_priority(Priority::SYSTEM).tell(number(100)).unwrap();
    assert_eq!((kernel.stats().handled, kernel.stats().queued), (1, 21));
    kernel.reactivate().unwrap();
    let first = kernel.receive_timeout(PATIENCE).unwrap();
    assert_eq!(first, number(105), "the urgent one first");
    let last = (0..20).map(|_| kernel.receive_timeout(PATIENCE).unwrap()).last();
    assert_eq!(last, Some(number(5 + 100 + 210)));

    // Paused with mail on both sides, it still handles all of it before it ends.
    kernel.tell(number(0)).unwrap();
    (1..=30).for_each(|value| kernel.tell(number(value)).unwrap());
    kernel.deactivate(PATIENCE).unwrap();
    assert!(kernel.stats().handled < 22 + 31, "it paused before the end");
    kernel.terminate(PATIENCE).unwrap();
    let stats = kernel.stats();
    assert_eq!((stats.state, stats.handled), (State::Terminated, 22 + 31));
    assert!(stats.is_conserved(), "{stats:?}");
}

#[test]
fn an_error_fails_restarts_or_is_passed_over_as_its_supervision_says() {
    let bench = Bench::new();
    let kernel = bench.launch("sum", KernelOptions::new());
    assert_eq!(kernel.ask(number(3)).unwrap(), number(3));
    let AskError::Failed(fault) = kernel.ask(number(666)).unwrap_err() else { panic!() };
    assert_eq!((fault.reason, &*fault.kernel), (Reason::HandlerErrored, "sum"));
    assert!(fault.cause.contains("returned 7"), "{fault}");
    assert_eq!(kernel.wait_ended(PATIENCE), State::Failed);
    assert!(kernel.stats().is_conserved());

    for (supervision, after, restarts) in
        [(Supervision::restart(100, PATIENCE), 1, 20), (Supervision::Resume, 4, 0)]
    {
        let bench = Bench::new();
        let kernel = bench.launch("sum", KernelOptions::new().supervision(supervision));
        for round in 0..20 {
            let before = if restarts > 0 { 0 } else { round * 4 };
            assert_eq!(kernel.ask(number(3)).unwrap(), number(before + 3));
            assert!(matches!(kernel.ask(number(666)), Err(AskError::Failed(_))));
            assert_eq!(kernel.ask(number(1)).unwrap(), number(before + after));
            if restarts > 0 {
                // Leaves the state at 0 for the next round.
                kernel.tell(number(666)).unwrap();
            }
        }
        kernel.terminate(PATIENCE).unwrap();
        assert_eq!(kernel.stats().restarts, 2 * restarts);
        assert!(kernel.stats().is_conserved());
    }
}

#[test]
fn an_abort_hands_back_what_the_device_never_came_to() {
    let bench = Bench::new();
    let kernel = bench.launch("sum", KernelOptions::new());
    (0..50).for_each(|_| kernel.tell(number(0)).unwrap());
    let asker = std::thread::spawn({
        let kernel = kernel.clone();
        move || kernel.ask(number(1))
    });
    while kernel.stats().sent < 51 {
        std::thread::yield_now();
    }
    kernel.abort().unwrap();
    assert!(matches!(asker.join().unwrap(), Err(AskError::Failed(fault)) if fault.reason == Reason::Aborted));
    let stats = kernel.stats();
    assert!(stats.is_conserved() && stats.handled < 50, "{stats:?}");
    let mut letters = bench.runtime.take_dead_letters();
    let bodies = letters.iter_mut().filter_map(DeadLetter::take_message::<Number>).count();
    assert_eq!(bodies as u64, stats.dead_letters, "with their bodies, also those on the device");
}

#[test]
fn a_lost_device_fails_its_kernels_at_once() {
    let bench = Bench::new();
    let kernel = bench.launch("sum", KernelOptions::new());
    kernel.deactivate(PATIENCE).unwrap();
    let asker = std::thread::spawn({
        let kernel = kernel.clone();
        move || kernel.ask(number(1))
    });
    while kernel.stats().sent < 1 {
        std::thread::yield_now();
    }
    bench.device.lose("the context died of an illegal address");
    let AskError::Failed(fault) = asker.join().unwrap().unwrap_err() else { panic!() };
    assert!(fault.cause.contains("illegal address"), "{fault}");
    assert_eq!(kernel.wait_ended(PATIENCE), State::Failed);
    let AskError::NotSent(refused) = kernel.ask(number(1)).unwrap_err() else { panic!() };
    assert!(matches!(refused.reason, Refusal::Ended { state: State::Failed }));
    assert!(kernel.stats().is_conserved());
}

#[test]
fn a_device_that_breaks_the_contract_is_lost_and_not_believed() {
    let bench = Bench::new();
    let kernel = bench.launch("broken", KernelOptions::new());
    let AskError::Failed(fault) = kernel.ask(number(1)).unwrap_err() else { panic!() };
    assert!(fault.cause.contains("3 bytes"), "{fault}");
    assert_eq!(kernel.wait_ended(PATIENCE), State::Failed);
}

/// Passes on the odd number that it makes of what it gets.
struct Odd;

impl RingKernel for Odd {
    type Input = Number;
    type Output = Number;
    fn handle(&mut self, message: Number, ctx: &mut Context<Number>) -> HandlerResult {
        ctx.reply(number(message.value * 2 + 1));
        Ok(())
    }
}

#[test]
fn it_stands_in_pipelines_on_either_side_and_full_outputs_hold_it_up() {
    const COUNT: u64 = 5_000;
    let bench = Bench::new();
    let small = || KernelOptions::new().capacity(4).output_capacity(4);
    let source = bench.launch("count", small());
    let odd = bench.runtime.launch_with("odd", small(), || Odd).unwrap();
    let total = bench.launch("sum", small());
    odd.activate().unwrap();
    source.connect(&odd).unwrap();
    odd.connect(&total).unwrap();
    source.tell(number(COUNT)).unwrap();
    let answers = 1000 / 2;
    let mut sum = 0;
    for value in 0..answers {
        sum += value * 2 + 1;
        assert_eq!(total.receive_timeout(PATIENCE).unwrap(), number(sum), "in order");
    }
    while total.stats().handled < COUNT {
        std::thread::yield_now();
    }
    bench.runtime.shutdown(PATIENCE).unwrap();
    assert_eq!(source.stats().emitted, COUNT);
    assert_eq!(total.stats().emitted, answers);

    // Nobody reads this one: the device waits, and an abort still gets through.
    let bench = Bench::new();
    let source = bench.launch("count", small());
    source.tell(number(100)).unwrap();
    while source.stats().emitted < 4 {
        std::thread::yield_now();
    }
    assert_eq!(source.try_receive().unwrap(), number(0));
    source.abort().unwrap();
    let stats = source.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!(stats.emitted + stats.undelivered, 100, "every output is accounted for: {stats:?}");
}

#[test]
fn every_message_is_accounted_for_in_every_way_of_ending() {
    let supervisions = [Supervision::Never, Supervision::restart(10_000, PATIENCE), Supervision::Resume];
    let backpressures = [
        Backpressure::Block,
        Backpressure::BlockFor(Duration::from_millis(1)),
        Backpressure::Reject,
        Backpressure::DropOldest,
    ];
    for supervision in supervisions {
        for backpressure in backpressures {
            for ending in ["drain", "abort", "pause and drain", "drop", "lose"] {
                account(supervision, backpressure, ending);
            }
        }
    }
}

fn account(supervision: Supervision, backpressure: Backpressure, ending: &str) {
    let title = format!("{supervision:?} {backpressure:?} {ending}");
    let begun = Instant::now();
    let bench = Bench::new();
    let options = KernelOptions::new().capacity(8).supervision(supervision).backpressure(backpressure);
    let kernel = bench.launch("sum", options);
    let Bench { device, runtime } = bench;
    let accepted = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3u64)
            .map(|sender| {
                let kernel = &kernel;
                scope.spawn(move || {
                    let handle = kernel.with_priority([250, 128, 10][sender as usize]);
                    let accepts = |round: u64| {
                        let value = if round % 50 == 49 { 666 } else { 1000 + round };
                        if round % 4 == 1 {
                            !matches!(handle.ask(number(value)), Err(AskError::NotSent(_)))
                        } else {
                            handle.tell(number(value)).is_ok()
                        }
                    };
                    (0..200).filter(|&round| accepts(round)).count() as u64
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(2));
        match ending {
            "drain" => drop(kernel.terminate(PATIENCE)),
            "abort" => drop(kernel.abort()),
            "pause and drain" => {
                drop(kernel.deactivate(PATIENCE));
                drop(kernel.terminate(PATIENCE));
            }
            "drop" => drop(runtime),
            _ => device.lose("lost"),
        }
        senders.into_iter().map(|sender| sender.join().unwrap()).sum::<u64>()
    });
    assert!(kernel.wait_ended(PATIENCE).has_ended(), "{title}");
    let stats = kernel.stats();
    assert!(begun.elapsed() < PATIENCE, "{title}: it came to an end only by a timeout");
    assert_eq!(stats.sent, accepted, "{title}");
    assert_eq!(stats.queued, 0, "{title}");
    assert!(stats.is_conserved(), "{title}: {stats:?}");
}
