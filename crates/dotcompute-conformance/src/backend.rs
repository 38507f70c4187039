//! What every ring kernel does, on whatever backend it runs.

use std::time::{Duration, Instant};

use dotcompute_core::dead_letter::{DeadLetter, Reason};
use dotcompute_core::error::AskError;
use dotcompute_core::lifecycle::State;
use dotcompute_core::message::Priority;
use dotcompute_core::options::{Backpressure, KernelOptions};
use dotcompute_core::supervision::Supervision;
use dotcompute_ring::wait::WaitStrategy;

#[doc(hidden)]
pub use crate::fixture::run;
use crate::fixture::{Fixture, TIMEOUT, TestBackend};
use crate::kernels::TestKernel::{Count, Echo, Sum};
use crate::kernels::{FAILING, Number, Odd, number};
use crate::watchdog::step;

/// Defines a `#[test]` for each property of a [`TestBackend`], in the current module.
///
/// ```
/// use dotcompute_conformance::{Count, Echo, Number, Sum, TestBackend, TestKernel};
/// use dotcompute_core::handle::KernelHandle;
/// use dotcompute_core::options::KernelOptions;
/// use dotcompute_core::runtime::{Runtime, RuntimeOptions};
///
/// /// The CPU backend, every ring kernel on a thread of its own.
/// struct Dedicated;
///
/// impl TestBackend for Dedicated {
///     fn open() -> Self {
///         Dedicated
///     }
///
///     fn runtime(&self) -> Runtime {
///         Runtime::with_options(RuntimeOptions::new().workers(2)).unwrap()
///     }
///
///     fn launch(
///         &self,
///         runtime: &Runtime,
///         kernel: TestKernel,
///         name: &str,
///         options: KernelOptions,
///     ) -> KernelHandle<Number, Number> {
///         match kernel {
///             TestKernel::Sum => runtime.launch_with(name, options.dedicated(), Sum::default),
///             TestKernel::Count => runtime.launch_with(name, options.dedicated(), || Count),
///             TestKernel::Echo => runtime.launch_with(name, options.dedicated(), || Echo),
///         }
///         .unwrap()
///     }
/// }
///
/// mod dedicated {
///     dotcompute_conformance::backend_tests!(super::Dedicated);
/// }
/// # // What the tests do, in short.
/// # dotcompute_conformance::backend::a_request_without_a_reply_is_an_error::<Dedicated>();
/// ```
#[macro_export]
macro_rules! backend_tests {
    ($backend:ty) => {
        $crate::__tests! { backend, $backend:
            ask_tell_and_receive_work_with_every_wait_strategy
            a_request_without_a_reply_is_an_error
            replies_to_told_messages_are_dropped_and_counted
            deactivation_keeps_state_and_messages_and_urgent_ones_come_first
            supervision_decides_what_follows_an_error
            an_abort_returns_unhandled_messages_as_dead_letters
            it_works_at_either_end_of_a_pipeline_and_full_outputs_block_it
            every_message_is_accounted_for_however_the_kernel_ends
        }
    };
}

/// `ask`, `tell` and `receive`, blocking and async, on the pool and on a dedicated thread; the counters agree at the end.
pub fn ask_tell_and_receive_work_with_every_wait_strategy<B: TestBackend>() {
    let waits = [WaitStrategy::Adaptive, WaitStrategy::Spin, WaitStrategy::Park];
    for (wait, dedicated) in waits.into_iter().flat_map(|wait| [(wait, false), (wait, true)]) {
        step(format!("{wait:?}, dedicated: {dedicated}"));
        let fixture = Fixture::<B>::new();
        let mut options = KernelOptions::new().wait(wait);
        if dedicated {
            options = options.dedicated();
        }
        let kernel = fixture.launch(Sum, "sum", options);
        for round in 1..=50 {
            assert_eq!(kernel.ask(number(2)).unwrap(), number(6 * round - 4));
            assert_eq!(kernel.ask_timeout(number(1), TIMEOUT).unwrap(), number(6 * round - 3));
            let reply = futures_lite::future::block_on(kernel.ask_async(number(1))).unwrap();
            assert_eq!(reply, number(6 * round - 2));
            kernel.tell(number(2)).unwrap();
            let output = kernel.receive_envelope(Some(TIMEOUT)).unwrap();
            assert_eq!(output.message, number(6 * round));
            assert!(output.header.correlation_id.is_some());
        }
        kernel.terminate(TIMEOUT).unwrap();
        let stats = kernel.stats();
        assert_eq!((stats.handled, stats.replied, stats.emitted), (200, 150, 50));
        assert!(stats.is_conserved(), "{stats:?}");
        fixture.runtime.shutdown(TIMEOUT).unwrap();
    }
}

/// A handler that does not reply to a request makes the ask an error, not a hang, and is not a fault.
pub fn a_request_without_a_reply_is_an_error<B: TestBackend>() {
    let fixture = Fixture::<B>::new();
    let kernel = fixture.launch(Sum, "sum", KernelOptions::new());
    assert!(matches!(kernel.ask(number(1000)), Err(AskError::NoReply { .. })));
    assert_eq!(kernel.ask(number(1)).unwrap(), number(1001));
}

/// A reply answers a caller that asked. To a told message it is dropped and counted, whatever their number, and fills no ring.
pub fn replies_to_told_messages_are_dropped_and_counted<B: TestBackend>() {
    const TOLD: u64 = 3_000;
    let fixture = Fixture::<B>::new();
    let kernel = fixture.launch(Echo, "echo", KernelOptions::new().output_capacity(4));
    for value in 0..TOLD {
        kernel.tell_timeout(number(value), TIMEOUT).unwrap();
    }
    assert_eq!(kernel.ask_timeout(number(7), TIMEOUT).unwrap(), number(7));
    kernel.terminate(TIMEOUT).unwrap();
    let stats = kernel.stats();
    assert_eq!((stats.handled, stats.replied, stats.unasked_replies), (TOLD + 1, 1, TOLD));
    assert_eq!((stats.emitted, stats.undelivered), (0, 0));
    assert!(kernel.try_receive().is_err(), "nothing was sent");
}

/// While deactivated, messages queue up by priority and the state stays; a terminate handles what is queued first.
pub fn deactivation_keeps_state_and_messages_and_urgent_ones_come_first<B: TestBackend>() {
    let fixture = Fixture::<B>::new();
    let kernel = fixture.launch(Sum, "sum", KernelOptions::new());
    assert_eq!(kernel.ask(number(5)).unwrap(), number(5));
    kernel.deactivate(TIMEOUT).unwrap();
    for value in 1..=20 {
        kernel.tell(number(value)).unwrap();
    }
    kernel.with_priority(Priority::SYSTEM).tell(number(100)).unwrap();
    assert_eq!((kernel.stats().handled, kernel.stats().queued), (1, 21));
    kernel.reactivate().unwrap();
    let first = kernel.receive_timeout(TIMEOUT).unwrap();
    assert_eq!(first, number(105), "the urgent one first");
    let last = (0..20).map(|_| kernel.receive_timeout(TIMEOUT).unwrap()).last();
    assert_eq!(last, Some(number(5 + 100 + 210)));

    // Deactivated with messages on the host and on the device, it handles all of them before it ends.
    kernel.tell(number(0)).unwrap();
    (1..=30).for_each(|value| kernel.tell(number(value)).unwrap());
    kernel.deactivate(TIMEOUT).unwrap();
    assert!(kernel.stats().handled < 22 + 31, "it was deactivated before it had handled all");
    kernel.terminate(TIMEOUT).unwrap();
    let stats = kernel.stats();
    assert_eq!((stats.state, stats.handled), (State::Terminated, 22 + 31));
    assert!(stats.is_conserved(), "{stats:?}");
}

/// `Never` fails the ring kernel, `restart` resets its state, `Resume` keeps it; the caller gets the error in each case.
pub fn supervision_decides_what_follows_an_error<B: TestBackend>() {
    let fixture = Fixture::<B>::new();
    let kernel = fixture.launch(Sum, "sum", KernelOptions::new());
    assert_eq!(kernel.ask(number(3)).unwrap(), number(3));
    let AskError::Failed(fault) = kernel.ask(number(FAILING)).unwrap_err() else { panic!() };
    assert_eq!((fault.reason, &*fault.kernel), (Reason::HandlerErrored, "sum"));
    assert!(fault.cause.contains("returned 7"), "{fault}");
    assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
    assert!(kernel.stats().is_conserved());

    for (supervision, after, restarts) in
        [(Supervision::restart(100, TIMEOUT), 1, 20), (Supervision::Resume, 4, 0)]
    {
        step(format!("{supervision:?}"));
        let fixture = Fixture::<B>::new();
        let kernel = fixture.launch(Sum, "sum", KernelOptions::new().supervision(supervision));
        for round in 0..20 {
            let before = if restarts > 0 { 0 } else { round * 4 };
            assert_eq!(kernel.ask(number(3)).unwrap(), number(before + 3));
            assert!(matches!(kernel.ask(number(FAILING)), Err(AskError::Failed(_))));
            assert_eq!(kernel.ask(number(1)).unwrap(), number(before + after));
            if restarts > 0 {
                // Resets the state to 0 for the next round.
                kernel.tell(number(FAILING)).unwrap();
            }
        }
        kernel.terminate(TIMEOUT).unwrap();
        assert_eq!(kernel.stats().restarts, 2 * restarts);
        assert!(kernel.stats().is_conserved());
    }
}

/// An abort turns what is queued into dead letters that hold their messages, also those already on the device, and ends every ask.
pub fn an_abort_returns_unhandled_messages_as_dead_letters<B: TestBackend>() {
    let fixture = Fixture::<B>::new();
    let kernel = fixture.launch(Sum, "sum", KernelOptions::new());
    (0..50).for_each(|_| kernel.tell(number(0)).unwrap());
    let caller = std::thread::spawn({
        let kernel = kernel.clone();
        move || kernel.ask(number(1))
    });
    while kernel.stats().sent < 51 {
        std::thread::yield_now();
    }
    kernel.abort().unwrap();
    assert!(
        matches!(caller.join().unwrap(), Err(AskError::Failed(fault)) if fault.reason == Reason::Aborted)
    );
    let stats = kernel.stats();
    assert!(stats.is_conserved() && stats.handled < 50, "{stats:?}");
    let mut letters = fixture.runtime.take_dead_letters();
    let bodies = letters.iter_mut().filter_map(DeadLetter::take_message::<Number>).count();
    assert_eq!(bodies as u64, stats.dead_letters, "with their bodies, also those on the device");
}

/// A pipeline through both test kernels and one of the host keeps order and loses nothing; full outputs block the producer.
pub fn it_works_at_either_end_of_a_pipeline_and_full_outputs_block_it<B: TestBackend>() {
    const COUNT: u64 = 5_000;
    let fixture = Fixture::<B>::new();
    let small = || KernelOptions::new().capacity(4).output_capacity(4);
    let source = fixture.launch(Count, "count", small());
    let odd = fixture.runtime.launch_with("odd", small(), || Odd).unwrap();
    let total = fixture.launch(Sum, "sum", small());
    odd.activate().unwrap();
    source.connect(&odd).unwrap();
    odd.connect(&total).unwrap();
    source.tell(number(COUNT)).unwrap();
    let replies = 1000 / 2;
    let mut sum = 0;
    for value in 0..replies {
        sum += value * 2 + 1;
        assert_eq!(total.receive_timeout(TIMEOUT).unwrap(), number(sum), "in order");
    }
    while total.stats().handled < COUNT {
        std::thread::yield_now();
    }
    fixture.runtime.shutdown(TIMEOUT).unwrap();
    assert_eq!(source.stats().emitted, COUNT);
    assert_eq!(total.stats().emitted, replies);

    // Nothing reads the outputs: the producer is blocked, and an abort still takes effect.
    step("unread outputs");
    let fixture = Fixture::<B>::new();
    let source = fixture.launch(Count, "count", small());
    source.tell(number(100)).unwrap();
    while source.stats().emitted < 4 {
        std::thread::yield_now();
    }
    while source.status().blocked.is_none() {
        std::thread::yield_now();
    }
    let status = source.status().to_string();
    assert_eq!(status, "Active, waiting for room in its output ring: 4 outputs unread");
    let error = source.ask_timeout(number(1), Duration::from_millis(10)).unwrap_err().to_string();
    assert!(error.contains("waiting for room in its output ring"), "{error}");
    assert_eq!(source.try_receive().unwrap(), number(0));
    source.abort().unwrap();
    assert_eq!(source.status().to_string(), "Terminated");
    let stats = source.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!(stats.emitted + stats.undelivered, 100, "every output is accounted for: {stats:?}");
}

/// `sent = handled + dead letters` for every supervision, backpressure and way of ending, under concurrent senders and faults.
pub fn every_message_is_accounted_for_however_the_kernel_ends<B: TestBackend>() {
    let supervisions = [Supervision::Never, Supervision::restart(10_000, TIMEOUT), Supervision::Resume];
    let backpressures = [
        Backpressure::Block,
        Backpressure::BlockFor(Duration::from_millis(1)),
        Backpressure::Reject,
        Backpressure::DropOldest,
    ];
    for supervision in supervisions {
        for backpressure in backpressures {
            for ending in ["drain", "abort", "pause and drain", "drop", "lose"] {
                check_accounting::<B>(supervision, backpressure, ending);
            }
        }
    }
}

fn check_accounting<B: TestBackend>(supervision: Supervision, backpressure: Backpressure, ending: &str) {
    let title = format!("{supervision:?} {backpressure:?} {ending}");
    step(title.clone());
    let started = Instant::now();
    let fixture = Fixture::<B>::new();
    let options = KernelOptions::new().capacity(8).supervision(supervision).backpressure(backpressure);
    let kernel = fixture.launch(Sum, "sum", options);
    let Fixture { backend, runtime } = fixture;
    let accepted = std::thread::scope(|scope| {
        let senders: Vec<_> = (0..3u64)
            .map(|sender| {
                let kernel = &kernel;
                scope.spawn(move || {
                    let handle = kernel.with_priority([250, 128, 10][sender as usize]);
                    let accepts = |round: u64| {
                        let value = if round % 50 == 49 { FAILING } else { 1000 + round };
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
            "drain" => drop(kernel.terminate(TIMEOUT)),
            "abort" => drop(kernel.abort()),
            "pause and drain" => {
                drop(kernel.deactivate(TIMEOUT));
                drop(kernel.terminate(TIMEOUT));
            }
            "drop" => drop(runtime),
            _ => {
                if !backend.lose_device("lost") {
                    drop(kernel.abort());
                }
            }
        }
        senders.into_iter().map(|sender| sender.join().unwrap()).sum::<u64>()
    });
    assert!(kernel.wait_ended(TIMEOUT).has_ended(), "{title}");
    let stats = kernel.stats();
    assert!(started.elapsed() < TIMEOUT, "{title}: it ended only by a timeout");
    assert_eq!(stats.sent, accepted, "{title}");
    assert_eq!(stats.queued, 0, "{title}");
    assert!(stats.is_conserved(), "{title}: {stats:?}");
}
