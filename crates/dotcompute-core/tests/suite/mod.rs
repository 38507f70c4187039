//! What every ring kernel does, wherever it runs: one suite for threads, for the emulated device, and for GPUs.
//!
//! A place runs two ring kernels that every test here uses. `sum` keeps a total: it adds what it gets and answers with the total, but
//! for 1000 and more it only adds, on 666 it fails, and on 0 it takes 20 milliseconds. `count` sends as many numbers as it is told.

use std::time::{Duration, Instant};

use dotcompute_core::dead_letter::{DeadLetter, Reason};
use dotcompute_core::error::{AskError, HandlerResult};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::message::{Message, Priority};
use dotcompute_core::options::{Backpressure, KernelOptions};
use dotcompute_core::runtime::Runtime;
use dotcompute_core::supervision::Supervision;
use dotcompute_ring::wait::WaitStrategy;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Message, Debug, Clone, Copy, PartialEq)]
#[message(record)]
#[repr(C)]
pub struct Number {
    pub value: u64,
}

pub fn number(value: u64) -> Number {
    Number { value }
}

/// Where ring kernels run.
pub trait Place {
    fn new() -> Self;

    /// A runtime with two workers.
    fn runtime(&self) -> Runtime;

    /// Launches `sum` or `count`, or one whose name begins so, with a short queue on a device.
    fn launch(&self, runtime: &Runtime, name: &str, options: KernelOptions) -> KernelHandle<Number, Number>;

    /// Loses the device, if this place has one that can be lost.
    fn lose(&self, _why: &str) -> bool {
        false
    }
}

/// A place and a runtime of its own.
pub struct Bench<P> {
    pub place: P,
    pub runtime: Runtime,
}

impl<P: Place> Bench<P> {
    pub fn new() -> Self {
        let place = P::new();
        let runtime = place.runtime();
        Self { place, runtime }
    }

    pub fn launch(&self, name: &str, options: KernelOptions) -> KernelHandle<Number, Number> {
        let kernel = self.place.launch(&self.runtime, name, options);
        kernel.activate().unwrap();
        kernel
    }
}

/// For places that are devices.
#[allow(dead_code)]
pub fn a_state_is_read_and_put_back_between_messages<P: Place>() {
    let bench = Bench::<P>::new();
    let kernel =
        bench.place.launch(&bench.runtime, "sum", KernelOptions::new().supervision(Supervision::Resume));
    kernel.restore(&number(40), PATIENCE).unwrap();
    assert_eq!(kernel.checkpoint::<Number>(PATIENCE).unwrap(), number(40), "before it is activated");
    kernel.activate().unwrap();
    assert_eq!(kernel.ask(number(2)).unwrap(), number(42));
    // While others send: what is read lies between two messages, and nothing is lost.
    let told = std::thread::spawn({
        let kernel = kernel.clone();
        move || (0..2000).for_each(|_| kernel.tell(number(1001)).unwrap())
    });
    for _ in 0..20 {
        let read = kernel.checkpoint::<Number>(PATIENCE).unwrap();
        assert_eq!((read.value - 42) % 1001, 0);
    }
    told.join().unwrap();
    assert_eq!(kernel.ask(number(1)).unwrap(), number(43 + 2000 * 1001));

    kernel.deactivate(PATIENCE).unwrap();
    kernel.restore(&number(7), PATIENCE).unwrap();
    assert_eq!(kernel.state(), State::Deactivated, "and stays so");
    kernel.reactivate().unwrap();
    assert_eq!(kernel.ask(number(1)).unwrap(), number(8));
    let refused = kernel.restore_bytes(&[1, 2, 3], PATIENCE).unwrap_err().to_string();
    assert!(refused.contains("`restore`") && refused.contains("8 bytes"), "{refused}");
    assert_eq!(kernel.ask(number(1)).unwrap(), number(9), "as it was");
    kernel.terminate(PATIENCE).unwrap();
    let refused = kernel.checkpoint_bytes(PATIENCE).unwrap_err().to_string();
    assert!(refused.contains("Terminated"), "{refused}");
}

/// Makes the suite's tests for a place.
#[macro_export]
macro_rules! suite {
    ($module:ident, $place:ty) => {
        mod $module {
            use super::*;
            $crate::suite! { @tests_of suite, $place:
                it_is_asked_told_and_read_as_any_other
                a_question_without_an_answer_is_an_error
                a_pause_keeps_state_and_mail_and_lets_urgent_mail_pass
                an_error_fails_restarts_or_is_passed_over_as_its_supervision_says
                an_abort_hands_back_what_was_never_handled
                it_stands_in_pipelines_on_either_side_and_full_outputs_hold_it_up
                every_message_is_accounted_for_in_every_way_of_ending
            }
        }
    };
    (@tests_of $tests:ident, $place:ty: $($test:ident)*) => {
        $(
            #[test]
            fn $test() {
                $tests::$test::<$place>();
            }
        )*
    };
}

pub fn it_is_asked_told_and_read_as_any_other<P: Place>() {
    let waits = [WaitStrategy::Adaptive, WaitStrategy::Spin, WaitStrategy::Park];
    for (wait, dedicated) in waits.into_iter().flat_map(|wait| [(wait, false), (wait, true)]) {
        let bench = Bench::<P>::new();
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

pub fn a_question_without_an_answer_is_an_error<P: Place>() {
    let bench = Bench::<P>::new();
    let kernel = bench.launch("sum", KernelOptions::new());
    assert!(matches!(kernel.ask(number(1000)), Err(AskError::NoReply { .. })));
    assert_eq!(kernel.ask(number(1)).unwrap(), number(1001));
}

pub fn a_pause_keeps_state_and_mail_and_lets_urgent_mail_pass<P: Place>() {
    let bench = Bench::<P>::new();
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

pub fn an_error_fails_restarts_or_is_passed_over_as_its_supervision_says<P: Place>() {
    let bench = Bench::<P>::new();
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
        let bench = Bench::<P>::new();
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

pub fn an_abort_hands_back_what_was_never_handled<P: Place>() {
    let bench = Bench::<P>::new();
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

pub fn it_stands_in_pipelines_on_either_side_and_full_outputs_hold_it_up<P: Place>() {
    const COUNT: u64 = 5_000;
    let bench = Bench::<P>::new();
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
    let bench = Bench::<P>::new();
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

pub fn every_message_is_accounted_for_in_every_way_of_ending<P: Place>() {
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
                account::<P>(supervision, backpressure, ending);
            }
        }
    }
}

fn account<P: Place>(supervision: Supervision, backpressure: Backpressure, ending: &str) {
    let title = format!("{supervision:?} {backpressure:?} {ending}");
    let begun = Instant::now();
    let bench = Bench::<P>::new();
    let options = KernelOptions::new().capacity(8).supervision(supervision).backpressure(backpressure);
    let kernel = bench.launch("sum", options);
    let Bench { place, runtime } = bench;
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
            _ => {
                if !place.lose("lost") {
                    drop(kernel.abort());
                }
            }
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
