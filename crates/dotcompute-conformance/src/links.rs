//! Connections between two ring kernels on one device: links, rings in device memory that bypass the host.

use std::time::{Duration, Instant};

use dotcompute_core::dead_letter::{DeadLetter, Reason};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::lifecycle::State;
use dotcompute_core::message::Priority;
use dotcompute_core::options::{Backpressure, KernelOptions};
use dotcompute_core::supervision::Supervision;

#[doc(hidden)]
pub use crate::fixture::run;
use crate::fixture::{Fixture, TIMEOUT, TestDevice};
use crate::kernels::TestKernel::{Count, Sum};
use crate::kernels::{FAILING, Number, Total, number};
use crate::watchdog::step;

/// Defines the tests of connections on a [`TestDevice`] that has links, in the current module.
///
/// ```
/// # struct MyDevice;
/// // MyDevice implements `TestDevice`.
/// mod links {
///     dotcompute_conformance::link_tests!(super::MyDevice);
/// }
/// ```
#[macro_export]
macro_rules! link_tests {
    ($device:ty) => {
        $crate::__tests! { links, $device:
            linked_outputs_arrive_in_order_without_the_host
            fan_in_and_fan_out_to_device_and_host
            a_failed_linked_message_is_a_dead_letter_and_supervision_decides
            a_deactivated_consumer_blocks_its_producer_and_the_device_still_quiesces
            every_linked_message_is_accounted_for_however_the_consumer_ends
            a_kernel_off_the_device_is_relaunched_for_linked_messages
            connections_beyond_the_link_limit_go_through_the_host
        }
    };
}

type Kernel = KernelHandle<Number, Number>;

fn options() -> KernelOptions {
    KernelOptions::new().output_capacity(4096)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    step(what);
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < TIMEOUT, "{what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Waits until a count has reached `target`. Only a count that stands still for [`TIMEOUT`] is an error: an instrumented device on busy cores is
/// slow.
fn wait_for_count(what: &str, target: u64, mut count: impl FnMut() -> u64) {
    step(what);
    let (mut last, mut changed) = (count(), Instant::now());
    while last < target {
        std::thread::sleep(Duration::from_micros(200));
        let now = count();
        if now != last {
            (last, changed) = (now, Instant::now());
        }
        assert!(changed.elapsed() < TIMEOUT, "{what}: {last} of {target}");
    }
    assert_eq!(last, target, "{what}");
}

fn wait_handled(kernel: &Kernel, count: u64) {
    wait_for_count("all messages are handled", count, || kernel.stats().handled);
}

/// Outputs arrive in order and with their priority, more than the link holds, and the counters of both sides agree.
pub fn linked_outputs_arrive_in_order_without_the_host<D: TestDevice>() {
    let fixture = Fixture::<D>::new();
    let (count, sum) = (fixture.launch(Count, "count", options()), fixture.launch(Sum, "sum", options()));
    count.connect(&sum).unwrap();
    let urgent = count.with_priority(Priority::SYSTEM);
    // More messages than the link holds.
    for (times, handle) in [(1, &count), (2, &urgent)] {
        handle.tell(number(600)).unwrap();
        let mut total = 0;
        for value in 0..600 {
            total += value;
            let output = sum.receive_envelope(Some(TIMEOUT)).unwrap();
            assert_eq!(output.message.value - (times - 1) * (599 * 600 / 2), total, "in order");
            let expected = if times == 1 { Priority::default() } else { Priority::SYSTEM };
            assert_eq!(output.header.priority, expected, "that of the first message");
        }
        wait_handled(&sum, times * 600);
    }
    assert_eq!(sum.ask(number(1)).unwrap(), number(599 * 600 + 1), "the host may ask the consumer too");
    fixture.runtime.shutdown(TIMEOUT).unwrap();
    let (source, target) = (count.stats(), sum.stats());
    assert_eq!((source.handled, source.emitted, source.undelivered), (2, 1200, 0));
    assert_eq!((target.linked, target.sent, target.emitted), (1200, 1201, 1200));
    assert!(target.is_conserved(), "{target:?}");
}

/// Several producers share a consumer, and a producer feeds a link, a ring kernel of the host and a rejecting one at once.
pub fn fan_in_and_fan_out_to_device_and_host<D: TestDevice>() {
    const ROUNDS: u64 = 50;
    let fixture = Fixture::<D>::new();
    let sum = fixture.launch(Sum, "sum", options().supervision(Supervision::Resume));
    let other = fixture.launch(Sum, "sum-2", options().backpressure(Backpressure::Reject).capacity(1 << 14));
    let total = fixture.runtime.launch_with("total", KernelOptions::new(), Total::default).unwrap();
    total.activate().unwrap();
    let sources = ["count-1", "count-2"].map(|name| fixture.launch(Count, name, options()));
    for source in &sources {
        source.connect(&sum).unwrap();
        source.connect(&total).unwrap();
        source.connect(&other).unwrap();
    }
    for _ in 0..ROUNDS {
        sources.iter().for_each(|source| source.tell(number(20)).unwrap());
        sum.tell(number(1000)).unwrap();
        while sum.try_receive().is_ok() {}
        while other.try_receive().is_ok() {}
    }
    let expected = ROUNDS * 2 * (19 * 20 / 2);
    wait_for_count("all messages arrive", ROUNDS * (41 + 40), || {
        while sum.try_receive().is_ok() {}
        while other.try_receive().is_ok() {}
        sum.stats().handled + other.stats().handled
    });
    assert_eq!(sum.ask(number(1)).unwrap(), number(expected + ROUNDS * 1000 + 1));
    assert_eq!(other.ask(number(1)).unwrap(), number(expected + 1));
    wait_for_count("the host has all outputs", ROUNDS * 40, || total.stats().handled);
    assert_eq!(total.ask(number(0)).unwrap(), number(expected));
    assert_eq!(sum.stats().linked, ROUNDS * 40);
    assert_eq!(other.stats().linked, 0, "the host delivers to a kernel with `Reject`");
    fixture.runtime.shutdown(TIMEOUT).unwrap();
    for source in sources {
        let stats = source.stats();
        assert_eq!((stats.emitted, stats.undelivered), (3 * ROUNDS * 20, 0));
    }
}

/// A message that fails on the device is a dead letter of the host, with its body; supervision acts as for any other.
pub fn a_failed_linked_message_is_a_dead_letter_and_supervision_decides<D: TestDevice>() {
    for (supervision, handled) in
        [(Supervision::Resume, 699), (Supervision::restart(10, TIMEOUT), 699), (Supervision::Never, 666)]
    {
        let fixture = Fixture::<D>::new();
        let count = fixture.launch(Count, "count", options());
        let sum = fixture.launch(Sum, "sum", options().supervision(supervision));
        count.connect(&sum).unwrap();
        count.tell(number(700)).unwrap();
        wait_until("all messages are accounted for", || {
            let (source, target) = (count.stats(), sum.stats());
            target.handled + target.dead_letters + source.undelivered + source.unrouted == 700
                && source.handled == 1
        });
        let (source, target) = (count.stats(), sum.stats());
        assert_eq!(
            (target.handled, source.emitted + source.undelivered + source.unrouted),
            (handled, 700),
            "{supervision:?}"
        );
        assert_eq!(target.sent, source.emitted);
        assert!(target.is_conserved(), "{target:?}");
        assert_eq!(target.restarts, u64::from(matches!(supervision, Supervision::Restart { .. })));
        let letters = fixture.runtime.take_dead_letters();
        let failed = letters.iter().find(|letter| letter.fault.reason == Reason::HandlerErrored).unwrap();
        assert!(failed.fault.cause.contains("returned 7"));
        let mut values: Vec<u64> = letters
            .into_iter()
            .filter_map(|mut letter: DeadLetter| letter.take_message::<Number>())
            .map(|n| n.value)
            .collect();
        values.sort_unstable();
        // The last outputs find no connection: one that finds the failed ring kernel is a dead letter, and ends the connection.
        let last = 700 - source.unrouted;
        let expected: Vec<u64> = if handled == 699 { vec![FAILING] } else { (FAILING..last).collect() };
        assert_eq!(values, expected, "with their bodies: {supervision:?}");
        if supervision == Supervision::Never {
            assert_eq!(sum.wait_ended(TIMEOUT), State::Failed);
            count.tell(number(3)).unwrap();
            wait_until("the producer continues without its consumer", || count.stats().handled == 2);
        } else {
            let last = if supervision == Supervision::Resume {
                (0..700).sum::<u64>() - FAILING
            } else {
                (667..700).sum()
            };
            assert_eq!(sum.checkpoint::<Number>(TIMEOUT).unwrap(), number(last));
        }
        fixture.runtime.shutdown(TIMEOUT).unwrap();
    }
}

/// A deactivated consumer blocks its producer, also within a handler, and neither prevents `quiesced`.
pub fn a_deactivated_consumer_blocks_its_producer_and_the_device_still_quiesces<D: TestDevice>() {
    let fixture = Fixture::<D>::new();
    let (count, sum) = (fixture.launch(Count, "count", options()), fixture.launch(Sum, "sum", options()));
    count.connect(&sum).unwrap();
    sum.deactivate(TIMEOUT).unwrap();
    (0..10).for_each(|_| count.tell(number(D::LINK_CAPACITY / 4)).unwrap());
    wait_until("the link fills", || count.stats().emitted >= D::LINK_CAPACITY / 2);
    fixture.runtime.quiesced(TIMEOUT, || ()).unwrap();
    assert!(count.stats().emitted <= D::LINK_CAPACITY, "the producer is blocked");
    assert!(count.stats().handled < 10);
    assert_eq!(sum.stats().handled, 0);
    sum.reactivate().unwrap();
    wait_handled(&sum, 10 * D::LINK_CAPACITY / 4);

    // One message whose outputs exceed the link: the producer stays in its handler until the link has free slots.
    sum.deactivate(TIMEOUT).unwrap();
    count.tell(number(600)).unwrap();
    wait_until("the link is full", || sum.stats().queued >= D::LINK_CAPACITY);
    fixture.runtime.quiesced(TIMEOUT, || ()).unwrap();
    sum.reactivate().unwrap();
    wait_handled(&sum, 10 * D::LINK_CAPACITY / 4 + 600);
    let each = (0..D::LINK_CAPACITY / 4).sum::<u64>();
    assert_eq!(sum.checkpoint::<Number>(TIMEOUT).unwrap(), number(10 * each + (0..600).sum::<u64>()));
    fixture.runtime.shutdown(TIMEOUT).unwrap();
    assert!(sum.stats().is_conserved() && count.stats().is_conserved());
}

/// `emitted + undelivered + unrouted` of the producer and `sent` of the consumer agree after a drain, an abort and a drop, paused or not.
pub fn every_linked_message_is_accounted_for_however_the_consumer_ends<D: TestDevice>() {
    for (ending, paused) in
        [("drain", false), ("drain", true), ("abort", false), ("abort", true), ("drop", true)]
    {
        let fixture = Fixture::<D>::new();
        let (count, sum) = (fixture.launch(Count, "count", options()), fixture.launch(Sum, "sum", options()));
        count.connect(&sum).unwrap();
        if paused {
            sum.deactivate(TIMEOUT).unwrap();
        }
        count.tell(number(600)).unwrap();
        wait_until("some messages have arrived", || sum.stats().linked > 10);
        let Fixture { runtime, .. } = fixture;
        match ending {
            "drain" => sum.terminate(TIMEOUT).unwrap(),
            "abort" => sum.abort().unwrap(),
            _ => {
                drop(runtime);
                assert_eq!(sum.wait_ended(TIMEOUT), State::Terminated);
                assert_eq!(count.wait_ended(TIMEOUT), State::Terminated);
                continue;
            }
        }
        wait_until("the producer continues", || count.stats().handled == 1);
        runtime.shutdown(TIMEOUT).unwrap();
        let (source, target) = (count.stats(), sum.stats());
        let title = format!("{ending}, paused: {paused}: {source:?} {target:?}");
        assert_eq!(source.emitted + source.undelivered + source.unrouted, 600, "{title}");
        assert_eq!((target.sent, target.queued), (source.emitted, 0), "{title}");
        assert!(target.is_conserved(), "{title}");
        assert!(ending != "drain" || target.dead_letters == 0, "it handles what has arrived: {title}");
    }
}

/// A consumer that has left the device because it was idle handles what arrives over a link.
pub fn a_kernel_off_the_device_is_relaunched_for_linked_messages<D: TestDevice>() {
    let fixture = Fixture::<D>::new();
    let (count, sum) = (fixture.launch(Count, "count", options()), fixture.launch(Sum, "sum", options()));
    count.connect(&sum).unwrap();
    for round in 1..=2 {
        std::thread::sleep(D::IDLE_TIME);
        count.tell(number(5)).unwrap();
        wait_handled(&sum, round * 5);
    }
    fixture.runtime.shutdown(TIMEOUT).unwrap();
}

/// Connections beyond [`TestDevice::MAX_LINKS`] deliver through the host.
pub fn connections_beyond_the_link_limit_go_through_the_host<D: TestDevice>() {
    let fixture = Fixture::<D>::new();
    let sum = fixture.launch(Sum, "sum", options());
    let count = fixture.launch(Count, "count", options());
    let connections = D::MAX_LINKS + 2;
    (0..connections).for_each(|_| drop(count.connect(&sum).unwrap()));
    count.tell(number(3)).unwrap();
    wait_handled(&sum, 3 * connections);
    assert_eq!(sum.stats().linked, 3 * D::MAX_LINKS);
    fixture.runtime.shutdown(TIMEOUT).unwrap();
}
