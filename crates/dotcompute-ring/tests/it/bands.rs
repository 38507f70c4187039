//! The order of priority bands: every band makes progress, values of one band keep their order, and control messages come first.

use std::collections::VecDeque;

use dotcompute_ring::mailbox::{self, Band, BandOrder, Options, Receiver, Sender};
use proptest::collection::vec;
use proptest::prelude::*;

const BANDS: [Band; 4] = [Band::System, Band::High, Band::Normal, Band::Low];

/// A message: the band that it was sent to, and a number.
type Sent = (Band, u64);

fn mailbox(capacity: usize, order: BandOrder) -> (Sender<Sent>, Receiver<Sent>) {
    mailbox::channel(Options { capacity, order, ..Options::default() }).unwrap()
}

/// Pops `pops` values while senders keep the bands in `loaded` full. Returns the number of pops from each band. Checks the order in each.
fn pops_under_load(order: BandOrder, loaded: &[Band], pops: u64) -> [u64; 4] {
    let (sender, mut receiver) = mailbox(4, order);
    let (mut pushed, mut popped) = ([0; 4], [0; 4]);
    for _ in 0..pops {
        for &band in loaded {
            while sender.try_push(band, (band, pushed[band as usize])).is_ok() {
                pushed[band as usize] += 1;
            }
        }
        let (band, number) = receiver.try_pop().expect("the bands are full");
        assert_eq!(number, popped[band as usize], "{band:?} is first in, first out");
        popped[band as usize] += 1;
    }
    popped
}

#[test]
fn every_band_makes_progress_while_the_others_are_full() {
    for after in [1, 4, 32] {
        const POPS: u64 = 33_000;
        let popped = pops_under_load(BandOrder::Aged { after }, &BANDS, POPS);
        let share = POPS / (u64::from(after) + 6) - 1;
        assert!(popped.iter().all(|&pops| pops >= share), "after {after}: {popped:?}, at least {share} each");
        assert!(popped[0] > POPS * 7 / 10 || after < 32, "{popped:?}: mostly in order");
    }
}

#[test]
fn a_band_without_load_above_it_is_popped_as_before() {
    for &band in &BANDS {
        let mut expected = [0; 4];
        expected[band as usize] = 1000;
        assert_eq!(pops_under_load(BandOrder::default(), &[band], 1000), expected);
    }
}

#[test]
fn a_strict_order_starves_lower_bands() {
    assert_eq!(pops_under_load(BandOrder::Strict, &BANDS, 1000), [1000, 0, 0, 0]);
    assert_eq!(pops_under_load(BandOrder::Strict, &[Band::Normal, Band::Low], 1000), [0, 0, 1000, 0]);
}

#[test]
fn extreme_settings_neither_starve_nor_overflow() {
    assert_eq!(
        pops_under_load(BandOrder::Aged { after: 0 }, &BANDS, 1000),
        pops_under_load(BandOrder::Aged { after: 1 }, &BANDS, 1000)
    );
    let popped = pops_under_load(BandOrder::Aged { after: u16::MAX }, &BANDS, 100_000);
    assert!(popped[1..].iter().all(|&pops| pops >= 2), "{popped:?}");
}

proptest! {
    /// Against a model: order within each band, how long a value waits at most, and that a control message is next.
    #[test]
    fn a_value_waits_for_a_bounded_number_of_values_of_higher_bands(
        after in 1..6_u16,
        ops in vec(prop::option::weighted(0.6, 0..4_usize), 1..400),
    ) {
        let (sender, mut receiver) = mailbox(64, BandOrder::Aged { after });
        let mut queues = <[VecDeque<u64>; 4]>::default();
        // For each band, the values of higher bands popped while it had a value, since its last one.
        let mut passed = [0_u16; 4];
        let mut last = None;
        for (number, op) in (0..).zip(ops) {
            if let Some(band) = op {
                if sender.try_push(BANDS[band], (BANDS[band], number)).is_ok() {
                    queues[band].push_back(number);
                }
                continue;
            }
            let Some((band, number)) = receiver.try_pop() else {
                prop_assert!(queues.iter().all(VecDeque::is_empty));
                continue;
            };
            if last != Some(Band::System) && !queues[0].is_empty() {
                prop_assert_eq!(band, Band::System, "a control message is next");
            }
            prop_assert_eq!(queues[band as usize].pop_front(), Some(number));
            passed[band as usize] = 0;
            for lower in band as usize + 1..4 {
                passed[lower] = if queues[lower].is_empty() { 0 } else { passed[lower] + 1 };
                // Two other bands may be due for longer, and a control message may come before each of the three.
                prop_assert!(passed[lower] <= after + 5, "{:?} was passed {} times", BANDS[lower], passed[lower]);
            }
            last = Some(band);
        }
    }
}
