//! Ring kernels that are connected on their device: what they do in every place that is a device.
//!
//! `count` sends as many numbers as it is told, `sum` adds them up; further ones of a kind have names that begin so.

use std::time::{Duration, Instant};

use dotcompute_core::dead_letter::{DeadLetter, Reason};
use dotcompute_core::error::HandlerResult;
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::message::Priority;
use dotcompute_core::options::{Backpressure, KernelOptions};
use dotcompute_core::supervision::Supervision;

use crate::suite::{Bench, Number, PATIENCE, Place, number};

type Kernel = KernelHandle<Number, Number>;

/// Messages that a link holds.
const SLOTS: u64 = 256;

fn options() -> KernelOptions {
    KernelOptions::new().output_capacity(4096)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn wait_handled(kernel: &Kernel, count: u64) {
    wait_until("messages are handled", || kernel.stats().handled >= count);
    assert_eq!(kernel.stats().handled, count);
}

pub fn outputs_reach_the_next_in_order_without_the_host<P: Place>() {
    let bench = Bench::<P>::new();
    let (count, sum) = (bench.launch("count", options()), bench.launch("sum", options()));
    count.connect(&sum).unwrap();
    let urgent = count.with_priority(Priority::SYSTEM);
    // More than the link holds.
    for (times, handle) in [(1, &count), (2, &urgent)] {
        handle.tell(number(600)).unwrap();
        let mut total = 0;
        for value in 0..600 {
            total += value;
            let output = sum.receive_envelope(Some(PATIENCE)).unwrap();
            assert_eq!(output.message.value - (times - 1) * (599 * 600 / 2), total, "in order");
            let expected = if times == 1 { Priority::default() } else { Priority::SYSTEM };
            assert_eq!(output.header.priority, expected, "that of the first message of all");
        }
        wait_handled(&sum, times * 600);
    }
    assert_eq!(sum.ask(number(1)).unwrap(), number(599 * 600 + 1), "the host may ask beside");
    bench.runtime.shutdown(PATIENCE).unwrap();
    let (source, target) = (count.stats(), sum.stats());
    assert_eq!((source.handled, source.emitted, source.undelivered), (2, 1200, 0));
    assert_eq!((target.linked, target.sent, target.emitted), (1200, 1201, 1200));
    assert!(target.is_conserved(), "{target:?}");
}

/// Keeps a total on the host.
#[derive(Default)]
struct Total(u64);

impl RingKernel for Total {
    type Input = Number;
    type Output = Number;

    fn handle(&mut self, message: Number, ctx: &mut Context<Number>) -> HandlerResult {
        self.0 += message.value;
        if ctx.wants_reply() {
            ctx.reply(number(self.0));
        }
        Ok(())
    }
}

pub fn several_feed_one_and_one_feeds_device_and_host<P: Place>() {
    const ROUNDS: u64 = 50;
    let bench = Bench::<P>::new();
    let sum = bench.launch("sum", options().supervision(Supervision::Resume));
    let other = bench.launch("sum-2", options().backpressure(Backpressure::Reject).capacity(1 << 14));
    let total = bench.runtime.launch_with("total", KernelOptions::new(), Total::default).unwrap();
    total.activate().unwrap();
    let sources = ["count-1", "count-2"].map(|name| bench.launch(name, options()));
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
    wait_until("all arrive", || {
        while sum.try_receive().is_ok() {}
        while other.try_receive().is_ok() {}
        sum.stats().handled == ROUNDS * 41 && other.stats().handled == ROUNDS * 40
    });
    assert_eq!(sum.ask(number(1)).unwrap(), number(expected + ROUNDS * 1000 + 1));
    assert_eq!(other.ask(number(1)).unwrap(), number(expected + 1));
    wait_until("the host has them", || total.stats().handled == ROUNDS * 40);
    assert_eq!(total.ask(number(0)).unwrap(), number(expected));
    assert_eq!(sum.stats().linked, ROUNDS * 40);
    assert_eq!(other.stats().linked, 0, "one that rejects is asked by the host");
    bench.runtime.shutdown(PATIENCE).unwrap();
    for source in sources {
        let stats = source.stats();
        assert_eq!((stats.emitted, stats.undelivered), (3 * ROUNDS * 20, 0));
    }
}

pub fn a_failure_comes_back_with_its_message_and_supervision_decides<P: Place>() {
    for (supervision, handled) in
        [(Supervision::Resume, 699), (Supervision::restart(10, PATIENCE), 699), (Supervision::Never, 666)]
    {
        let bench = Bench::<P>::new();
        let count = bench.launch("count", options());
        let sum = bench.launch("sum", options().supervision(supervision));
        count.connect(&sum).unwrap();
        count.tell(number(700)).unwrap();
        wait_until("all are accounted for", || {
            let (source, target) = (count.stats(), sum.stats());
            target.handled + target.dead_letters + source.undelivered == 700 && source.handled == 1
        });
        let (source, target) = (count.stats(), sum.stats());
        assert_eq!((target.handled, source.emitted + source.undelivered), (handled, 700), "{supervision:?}");
        assert_eq!(target.sent, source.emitted);
        assert!(target.is_conserved(), "{target:?}");
        assert_eq!(target.restarts, u64::from(matches!(supervision, Supervision::Restart { .. })));
        let letters = bench.runtime.take_dead_letters();
        let failed = letters.iter().find(|letter| letter.fault.reason == Reason::HandlerErrored).unwrap();
        assert!(failed.fault.cause.contains("returned 7"));
        let mut values: Vec<u64> = letters
            .into_iter()
            .filter_map(|mut letter: DeadLetter| letter.take_message::<Number>())
            .map(|n| n.value)
            .collect();
        values.sort_unstable();
        let expected: Vec<u64> = if handled == 699 { vec![666] } else { (666..700).collect() };
        assert_eq!(values, expected, "with their bodies, wherever they were: {supervision:?}");
        if supervision == Supervision::Never {
            assert_eq!(sum.wait_ended(PATIENCE), State::Failed);
            count.tell(number(3)).unwrap();
            wait_until("it goes on without it", || count.stats().handled == 2);
        } else {
            let last = if supervision == Supervision::Resume {
                (0..700).sum::<u64>() - 666
            } else {
                (667..700).sum()
            };
            assert_eq!(sum.checkpoint::<Number>(PATIENCE).unwrap(), number(last));
        }
        bench.runtime.shutdown(PATIENCE).unwrap();
    }
}

pub fn a_pause_holds_those_before_and_keeps_nobody_from_the_device<P: Place>() {
    let bench = Bench::<P>::new();
    let (count, sum) = (bench.launch("count", options()), bench.launch("sum", options()));
    count.connect(&sum).unwrap();
    sum.deactivate(PATIENCE).unwrap();
    (0..10).for_each(|_| count.tell(number(SLOTS / 4)).unwrap());
    wait_until("the link fills", || count.stats().emitted >= SLOTS / 2);
    bench.runtime.quiesced(PATIENCE, || ()).unwrap();
    assert!(count.stats().emitted <= SLOTS, "it is held up");
    assert!(count.stats().handled < 10);
    assert_eq!(sum.stats().handled, 0);
    sum.reactivate().unwrap();
    wait_handled(&sum, 10 * SLOTS / 4);

    // One message that fills the link several times over: its sender is in its handler until there is room.
    sum.deactivate(PATIENCE).unwrap();
    count.tell(number(600)).unwrap();
    wait_until("the link is full", || sum.stats().queued >= SLOTS);
    bench.runtime.quiesced(PATIENCE, || ()).unwrap();
    sum.reactivate().unwrap();
    wait_handled(&sum, 10 * SLOTS / 4 + 600);
    let each = (0..SLOTS / 4).sum::<u64>();
    assert_eq!(sum.checkpoint::<Number>(PATIENCE).unwrap(), number(10 * each + (0..600).sum::<u64>()));
    bench.runtime.shutdown(PATIENCE).unwrap();
    assert!(sum.stats().is_conserved() && count.stats().is_conserved());
}

pub fn whoever_ends_leaves_nothing_unaccounted_for<P: Place>() {
    for (ending, paused) in
        [("drain", false), ("drain", true), ("abort", false), ("abort", true), ("drop", true)]
    {
        let bench = Bench::<P>::new();
        let (count, sum) = (bench.launch("count", options()), bench.launch("sum", options()));
        count.connect(&sum).unwrap();
        if paused {
            sum.deactivate(PATIENCE).unwrap();
        }
        count.tell(number(600)).unwrap();
        wait_until("some have come", || sum.stats().linked > 10);
        let Bench { runtime, .. } = bench;
        match ending {
            "drain" => sum.terminate(PATIENCE).unwrap(),
            "abort" => sum.abort().unwrap(),
            _ => {
                drop(runtime);
                assert_eq!(sum.wait_ended(PATIENCE), State::Terminated);
                assert_eq!(count.wait_ended(PATIENCE), State::Terminated);
                continue;
            }
        }
        wait_until("its sender goes on", || count.stats().handled == 1);
        runtime.shutdown(PATIENCE).unwrap();
        let (source, target) = (count.stats(), sum.stats());
        let title = format!("{ending}, paused: {paused}: {source:?} {target:?}");
        assert_eq!(source.emitted + source.undelivered, 600, "{title}");
        assert_eq!((target.sent, target.queued), (source.emitted, 0), "{title}");
        assert!(target.is_conserved(), "{title}");
        assert!(ending != "drain" || target.dead_letters == 0, "it handles what has come: {title}");
    }
}

pub fn one_that_is_away_comes_back_for_what_a_link_brings<P: Place>() {
    let bench = Bench::<P>::new();
    let (count, sum) = (bench.launch("count", options()), bench.launch("sum", options()));
    count.connect(&sum).unwrap();
    for round in 1..=2 {
        // Longer than any device lets an idle ring kernel stay.
        std::thread::sleep(Duration::from_millis(1300));
        count.tell(number(5)).unwrap();
        wait_handled(&sum, round * 5);
    }
    bench.runtime.shutdown(PATIENCE).unwrap();
}

pub fn more_than_there_are_links_go_by_the_host<P: Place>() {
    let bench = Bench::<P>::new();
    let sum = bench.launch("sum", options());
    let count = bench.launch("count", options());
    (0..10).for_each(|_| count.connect(&sum).unwrap());
    count.tell(number(3)).unwrap();
    wait_handled(&sum, 30);
    assert_eq!(sum.stats().linked, 24);
    bench.runtime.shutdown(PATIENCE).unwrap();
}

/// Makes these tests for a place.
#[macro_export]
macro_rules! links {
    ($module:ident, $place:ty) => {
        mod $module {
            use super::*;
            $crate::suite! { @tests_of links, $place:
                outputs_reach_the_next_in_order_without_the_host
                several_feed_one_and_one_feeds_device_and_host
                a_failure_comes_back_with_its_message_and_supervision_decides
                a_pause_holds_those_before_and_keeps_nobody_from_the_device
                whoever_ends_leaves_nothing_unaccounted_for
                one_that_is_away_comes_back_for_what_a_link_brings
                more_than_there_are_links_go_by_the_host
            }
        }
    };
}
