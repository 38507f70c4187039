//! Cases that the test suites of other multi-producer queues and channels cover, for [`mpsc`](dotcompute_ring::mpsc).

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::counted::Drops;
use dotcompute_ring::{CapacityError, PushError, mpsc, spsc};

const ROUNDS: usize = if cfg!(miri) { 10 } else { 500 };
const PRODUCERS: usize = 4;

/// Pushes until the value is accepted.
fn push<T: Send>(producer: &mpsc::Producer<T>, mut value: T) {
    while let Err(error) = producer.try_push(value) {
        assert!(error.is_full(), "the ring is open");
        value = error.into_inner();
        thread::yield_now();
    }
}

fn pop<T: Send>(consumer: &mut mpsc::Consumer<T>) -> T {
    loop {
        match consumer.try_pop() {
            Some(value) => return value,
            None => thread::yield_now(),
        }
    }
}

/// Queues of peers pass zero-sized values: counted, bounded, and each dropped once.
#[test]
fn zero_sized_values_are_counted_and_dropped_once() {
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    struct Empty;
    impl Drop for Empty {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (producer, mut consumer) = mpsc::channel(4).unwrap();
    let mut values: Vec<_> = (0..6).map(|_| Empty).collect();
    assert_eq!((producer.try_push_batch(&mut values), values.len()), (Ok(4), 2));
    assert!(producer.try_push(Empty).is_err_and(|error| error.is_full()));
    let mut popped = Vec::new();
    assert_eq!(
        (consumer.pop_batch(&mut popped, 3), consumer.len(), DROPS.load(Ordering::Relaxed)),
        (3, 1, 1)
    );
    drop((producer, consumer));
    assert_eq!(DROPS.load(Ordering::Relaxed), 2, "the value left in the ring is dropped with it");
    drop((popped, values));
    assert_eq!(DROPS.load(Ordering::Relaxed), 7);
}

/// Channels of peers with a single slot pass every value of several producers, in the order of each.
#[test]
fn one_slot_serves_several_producers() {
    let (producer, mut consumer) = mpsc::channel(1).unwrap();
    thread::scope(|scope| {
        for from in 0..PRODUCERS {
            let producer = producer.clone();
            scope.spawn(move || (0..ROUNDS).for_each(|sequence| push(&producer, (from, sequence))));
        }
        let mut expected = [0; PRODUCERS];
        for _ in 0..PRODUCERS * ROUNDS {
            let (from, sequence) = pop(&mut consumer);
            assert_eq!(sequence, expected[from]);
            expected[from] += 1;
        }
    });
    assert!(consumer.is_empty());
}

/// Senders of peers may be shared by reference instead of cloned.
#[test]
fn one_producer_is_shared_by_several_threads() {
    let (producer, mut consumer) = mpsc::channel(8).unwrap();
    let sum = thread::scope(|scope| {
        for _ in 0..PRODUCERS {
            scope.spawn(|| (1..=ROUNDS).for_each(|number| push(&producer, number)));
        }
        (0..PRODUCERS * ROUNDS).map(|_| pop(&mut consumer)).sum::<usize>()
    });
    assert_eq!(sum, PRODUCERS * ROUNDS * (ROUNDS + 1) / 2);
}

/// Batches of peers stay contiguous while other producers push, also around the end of the ring.
#[test]
fn batches_of_several_producers_stay_contiguous() {
    const BATCH: usize = 5;
    const BATCHES: usize = ROUNDS / 5;
    // Large enough that no batch is split.
    let (producer, mut consumer) = mpsc::channel(PRODUCERS * BATCHES * BATCH).unwrap();
    for skipped in 0..producer.capacity() * 2 / 3 {
        producer.try_push((PRODUCERS, skipped, 0)).unwrap();
        assert_eq!(consumer.try_pop(), Some((PRODUCERS, skipped, 0)));
    }
    thread::scope(|scope| {
        for from in 0..PRODUCERS {
            let producer = producer.clone();
            scope.spawn(move || {
                for batch in 0..BATCHES {
                    let mut values = (0..BATCH).map(|index| (from, batch, index)).collect();
                    assert_eq!(producer.try_push_batch(&mut values), Ok(BATCH));
                    thread::yield_now();
                }
            });
        }
        let mut expected = [0; PRODUCERS];
        for _ in 0..PRODUCERS * BATCHES {
            let values: Vec<_> = (0..BATCH).map(|_| pop(&mut consumer)).collect();
            let from = values[0].0;
            assert_eq!(values, (0..BATCH).map(|index| (from, expected[from], index)).collect::<Vec<_>>());
            expected[from] += 1;
        }
    });
}

/// Batches of peers are accepted up to the free slots, at every offset in the ring.
#[test]
fn batches_are_accepted_up_to_the_free_slots_at_every_offset() {
    for offset in 0..8 {
        for size in 0..=6 {
            let (producer, mut consumer) = mpsc::channel(4).unwrap();
            for skipped in 0..offset {
                producer.try_push(1000 + skipped).unwrap();
                assert_eq!(consumer.try_pop(), Some(1000 + skipped));
            }
            let mut values: Vec<_> = (0..size).collect();
            assert_eq!(producer.try_push_batch(&mut values), Ok(size.min(4)));
            assert_eq!(values, (4..size).collect::<Vec<_>>());
            let mut popped = vec![99];
            assert_eq!(consumer.pop_batch(&mut popped, 0), 0);
            assert_eq!(consumer.pop_batch(&mut popped, usize::MAX), size.min(4));
            assert_eq!(popped[1..], (0..size.min(4)).collect::<Vec<_>>());
            assert_eq!(popped[0], 99, "a batch is appended");
        }
    }
}

/// Senders of peers all detect a dropped receiver, on every send, and get the value back.
#[test]
fn every_producer_detects_a_dropped_consumer() {
    let drops = Drops::default();
    let (producer, consumer) = mpsc::channel(2).unwrap();
    let accepted = thread::scope(|scope| {
        let pushing: Vec<_> = (0..PRODUCERS)
            .map(|_| {
                let (producer, drops) = (producer.clone(), drops.clone());
                scope.spawn(move || {
                    let mut accepted = 0;
                    loop {
                        match producer.try_push(drops.value(7)) {
                            Ok(()) => accepted += 1,
                            Err(PushError::Full(_)) => thread::yield_now(),
                            Err(PushError::Closed(value)) => {
                                assert_eq!(value.number, 7);
                                assert!(matches!(producer.try_push(value), Err(PushError::Closed(_))));
                                return accepted;
                            }
                        }
                    }
                })
            })
            .collect();
        drop(consumer);
        pushing.into_iter().map(|producer| producer.join().unwrap()).sum::<u64>()
    });
    assert!(accepted <= 2, "the ring had two slots, and no value was popped");
    assert_eq!((producer.pushed(), producer.len() as u64), (accepted, accepted));
    assert!(producer.try_push_batch(&mut vec![drops.value(8)]).is_err_and(|error| !error.is_full()));
}

/// Peers drop values left in the channel exactly once, with producers on several threads and any number of values left.
#[test]
fn values_left_by_several_producers_are_dropped_once() {
    for round in 0..ROUNDS.min(100) {
        let drops = Drops::default();
        let (producer, mut consumer) = mpsc::channel(16).unwrap();
        let (pushes, pops) = (round % 7, round % 23);
        let pushing = [(); 3].map(|()| {
            let (producer, drops) = (producer.clone(), drops.clone());
            thread::spawn(move || (0..pushes).for_each(|number| drop(producer.try_push(drops.value(number)))))
        });
        (0..pops).for_each(|_| drop(consumer.try_pop()));
        drop((producer, consumer));
        pushing.into_iter().for_each(|pushing| pushing.join().unwrap());
        assert_eq!(drops.count(), 3 * pushes);
    }
}

/// Channels of peers are created, used for one value and dropped many times over.
#[test]
fn short_lived_rings_pass_one_value_each() {
    for round in 0..ROUNDS.min(200) {
        let (producer, mut consumer) = mpsc::channel(1).unwrap();
        let pushing = thread::spawn(move || push(&producer, Box::new(round)));
        assert_eq!(*pop(&mut consumer), round);
        pushing.join().unwrap();
    }
}

/// Ends of channels of peers are values too, and pass through another channel, where they may also be dropped.
#[test]
fn ends_pass_through_another_ring() {
    let (producer, mut consumer) = mpsc::channel(2).unwrap();
    let (mut inner_producer, inner_consumer) = spsc::channel(2).unwrap();
    inner_producer.try_push(5).unwrap();
    producer.try_push(inner_consumer).ok().unwrap();
    let received = consumer.try_pop().map(|mut inner| (inner.try_pop(), inner));
    assert_eq!(received.as_ref().and_then(|(value, _)| *value), Some(5));
    producer.try_push(received.unwrap().1).ok().unwrap();
    drop((producer, consumer));
    assert_eq!(inner_producer.try_push(6), Err(PushError::Closed(6)), "dropped with the outer ring");
}

/// Peers survive a panic in the drop of a value: it reaches the caller, and no value is dropped twice.
#[test]
fn a_panic_in_drop_reaches_the_caller_and_drops_nothing_twice() {
    let drops = Drops::default();
    let (producer, mut consumer) = mpsc::channel(4).unwrap();
    for value in [drops.panicking_value(0), drops.value(1), drops.panicking_value(2)] {
        producer.try_push(value).ok().unwrap();
    }
    assert!(catch_unwind(AssertUnwindSafe(|| drop(consumer.try_pop()))).is_err());
    assert_eq!(drops.count(), 1);
    assert_eq!(consumer.try_pop().map(|value| value.number), Some(1));
    drop(producer);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(consumer))).is_err(), "dropped with the ring");
    assert_eq!(drops.count(), 3);
}

/// Peers round or keep capacities of one slot and more, and reject those that no memory holds.
#[test]
fn capacities_at_the_edges() {
    for (requested, slots) in [(1, 1), (2, 2), (3, 4), (1023, 1024), (1025, 2048)] {
        let (producer, _consumer) = mpsc::channel::<u8>(requested).unwrap();
        assert_eq!(producer.capacity(), slots);
    }
    assert_eq!(mpsc::channel::<()>(0).err(), Some(CapacityError::Zero));
    assert!(matches!(mpsc::channel::<()>(usize::MAX).err(), Some(CapacityError::TooLarge { .. })));
}

/// Peers require of values to be `Send` only; their senders are `Sync`, their receivers need not be.
#[test]
fn producers_are_send_and_sync_and_consumers_send() {
    fn assert_send<T: Send>() {}
    fn assert_sync<T: Sync>() {}
    assert_send::<(mpsc::Producer<Cell<u8>>, mpsc::Consumer<Cell<u8>>)>();
    assert_sync::<mpsc::Producer<Cell<u8>>>();
}
