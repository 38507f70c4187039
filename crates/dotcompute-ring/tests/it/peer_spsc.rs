//! Cases that the test suites of other single-producer rings and channels cover, for [`spsc`](dotcompute_ring::spsc).

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::counted::Drops;
use dotcompute_ring::{CapacityError, PushError, spsc};

const ROUNDS: usize = if cfg!(miri) { 10 } else { 500 };

/// Rings of peers pass zero-sized values: counted, bounded, and each dropped once.
#[test]
fn zero_sized_values_are_counted_and_dropped_once() {
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    struct Empty;
    impl Drop for Empty {
        fn drop(&mut self) {
            DROPS.fetch_add(1, Ordering::Relaxed);
        }
    }
    assert_eq!(size_of::<Empty>(), 0);
    let (mut producer, mut consumer) = spsc::channel(4).unwrap();
    for lap in 1..=5 {
        assert_eq!(
            producer.claim(8).map(|mut claim| (claim.fill((0..3).map(|_| Empty)), claim.commit())),
            Ok((3, 3))
        );
        assert!(producer.try_push(Empty).is_ok());
        assert!(producer.try_push(Empty).is_err_and(|error| error.is_full()));
        assert_eq!(consumer.claim(8).map(|claim| claim.iter().count()), Some(4));
        assert_eq!(consumer.by_claim(), 4);
        assert_eq!(DROPS.load(Ordering::Relaxed), 5 * lap, "four popped and one rejected per lap");
    }
    assert!(producer.try_push(Empty).is_ok());
    drop((producer, consumer));
    assert_eq!(DROPS.load(Ordering::Relaxed), 26, "the value left in the ring is dropped with it");
}

trait ByClaim {
    /// Takes everything in one claim and returns how many values that were.
    fn by_claim(&mut self) -> usize;
}

impl<T> ByClaim for spsc::Consumer<T> {
    fn by_claim(&mut self) -> usize {
        self.claim(usize::MAX).map_or(0, Iterator::count)
    }
}

/// Chunk writers and readers of peers wrap around at every offset; also with a commit of fewer slots than claimed.
#[test]
fn claims_wrap_around_at_every_offset_with_every_partial_commit() {
    for capacity in [1, 2, 4, 8] {
        for offset in 0..2 * capacity {
            for claimed in 0..=capacity {
                for written in 0..=claimed {
                    let (mut producer, mut consumer) = spsc::channel(capacity).unwrap();
                    for skipped in 0..offset {
                        producer.try_push(1000 + skipped).unwrap();
                        assert_eq!(consumer.try_pop(), Some(1000 + skipped));
                    }
                    let mut claim = producer.claim(claimed).unwrap();
                    assert_eq!((claim.len(), claim.is_empty()), (claimed, claimed == 0));
                    assert_eq!(claim.fill(0..written), written);
                    assert_eq!(claim.len(), claimed - written);
                    assert_eq!(claim.commit(), written);
                    assert_eq!((producer.pushed(), producer.len()), ((offset + written) as u64, written));
                    let in_place =
                        consumer.claim(capacity).map(|claim| claim.iter().copied().collect::<Vec<_>>());
                    assert_eq!(in_place.unwrap_or_default(), (0..written).collect::<Vec<_>>());
                    assert_eq!(consumer.by_claim(), written);
                    assert!(producer.is_empty() && consumer.is_empty());
                }
            }
        }
    }
}

/// Chunk readers of peers report their length exactly, and commit only what was taken.
#[test]
fn a_claimed_read_reports_its_exact_length_and_releases_only_taken_slots() {
    let (mut producer, mut consumer) = spsc::channel(4).unwrap();
    producer.try_push_batch(&mut vec![1, 2, 3, 4]).unwrap();
    assert!(consumer.claim(0).is_none());
    let mut claim = consumer.claim(usize::MAX).unwrap();
    assert_eq!((claim.len(), claim.size_hint(), claim.iter().len()), (4, (4, Some(4)), 4));
    assert_eq!(
        (claim.next(), claim.len(), claim.iter().copied().collect::<Vec<_>>()),
        (Some(1), 3, vec![2, 3, 4])
    );
    drop(claim);
    assert_eq!(producer.try_push(5), Ok(()), "one slot was released");
    assert_eq!(producer.try_push(6), Err(PushError::Full(6)), "and only one");
    let mut claim = consumer.claim(4).unwrap();
    assert_eq!((claim.nth(3), claim.next(), claim.size_hint()), (Some(5), None, (0, Some(0))));
}

/// Chunk writers of peers take no item from the iterator that does not fit, and return a value that does not fit.
#[test]
fn a_claimed_write_consumes_exactly_what_fits() {
    let (mut producer, mut consumer) = spsc::channel(4).unwrap();
    let mut numbers = 0..10;
    let mut claim = producer.claim(usize::MAX).unwrap();
    assert_eq!(claim.write(100), Ok(()));
    assert_eq!(claim.fill(numbers.by_ref()), 3);
    assert_eq!(claim.fill(numbers.by_ref()), 0);
    assert_eq!(claim.write(101), Err(101));
    // SAFETY: the closure is not called, because every claimed slot is written.
    assert_eq!(unsafe { claim.write_in_place(|_| ()) }, None);
    assert_eq!((claim.commit(), numbers.next()), (4, Some(3)));
    assert!(producer.claim(1).is_err_and(|error| error.is_full()));
    assert_eq!(
        producer.claim(0).map(spsc::ClaimedWrite::commit),
        Ok(0),
        "an empty claim of a full ring is not an error"
    );
    assert_eq!(consumer.by_claim(), 4);
}

/// Peers accept a commit after the consumer was dropped, and drop the values with the ring.
#[test]
fn a_claim_outlives_the_consumer() {
    let drops = Drops::default();
    let (mut producer, consumer) = spsc::channel(4).unwrap();
    let mut claim = producer.claim(3).unwrap();
    claim.fill((0..2).map(|number| drops.value(number)));
    drop(consumer);
    assert_eq!(claim.commit(), 2);
    assert_eq!(drops.count(), 0);
    assert!(producer.is_closed());
    drop(producer);
    assert_eq!(drops.count(), 2);
}

/// Peers guarantee that a consumer that finds the ring closed also finds every value pushed before.
#[test]
fn a_closed_ring_shows_every_value_pushed_before() {
    for round in 0..ROUNDS {
        let (mut producer, mut consumer) = spsc::channel(2).unwrap();
        let pushing = thread::spawn(move || producer.try_push(round).unwrap());
        while !consumer.is_closed() {
            thread::yield_now();
        }
        assert_eq!((consumer.try_pop(), consumer.is_drained()), (Some(round), true));
        pushing.join().unwrap();
    }
}

/// Peers let a producer detect a consumer that is dropped on another thread, and get the value back.
#[test]
fn a_producer_detects_a_dropped_consumer() {
    let drops = Drops::default();
    let (mut producer, consumer) = spsc::channel(1).unwrap();
    producer.try_push(drops.value(0)).ok().unwrap();
    let dropping = thread::spawn(move || drop(consumer));
    let returned = loop {
        match producer.try_push(drops.value(1)) {
            Err(PushError::Closed(value)) => break value,
            other => assert!(other.is_err_and(|error| error.is_full()), "the only slot is filled"),
        }
        thread::yield_now();
    };
    assert_eq!(returned.number, 1);
    dropping.join().unwrap();
}

/// Peers drop values left in the ring exactly once, with ends on different threads and any number of values left.
#[test]
fn values_left_by_either_thread_are_dropped_once() {
    for round in 0..ROUNDS.min(100) {
        let drops = Drops::default();
        let (mut producer, mut consumer) = spsc::channel(16).unwrap();
        let (pushes, pops) = (round % 17, round % 11);
        let pushing = {
            let drops = drops.clone();
            // A push that finds the ring closed returns its value, which is dropped here.
            thread::spawn(move || {
                (0..pushes).filter(|&number| producer.try_push(drops.value(number)).is_ok()).count()
            })
        };
        let popped = (0..pops).filter_map(|_| consumer.try_pop()).count();
        drop(consumer);
        assert!(popped <= pushing.join().unwrap());
        assert_eq!(drops.count(), pushes);
    }
}

/// Peers report lengths within the capacity at all times, while the other end is in use.
#[test]
fn lengths_stay_within_the_capacity_under_concurrency() {
    const VALUES: usize = 20 * ROUNDS;
    let (mut producer, mut consumer) = spsc::channel(8).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..VALUES {
                while producer.try_push(number).is_err() {
                    assert!(producer.len() <= 8);
                    thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < VALUES {
            assert!(consumer.len() <= 8);
            match consumer.try_pop() {
                Some(number) => {
                    assert_eq!(number, expected);
                    expected += 1;
                }
                None => thread::yield_now(),
            }
        }
    });
}

/// Peers allow moving an end to another thread between operations; values stay in order.
#[test]
fn ends_move_between_threads() {
    let (mut producer, mut consumer) = spsc::channel(4).unwrap();
    for number in 0..ROUNDS.min(50) {
        producer = thread::spawn(move || {
            producer.try_push(number).unwrap();
            producer
        })
        .join()
        .unwrap();
        consumer = thread::spawn(move || {
            assert_eq!(consumer.try_pop(), Some(number));
            consumer
        })
        .join()
        .unwrap();
    }
}

/// Rings of peers align values in their slots, also beyond a cache line.
#[test]
fn overaligned_values_are_aligned_in_their_slots() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    #[repr(align(512))]
    struct Page(u8);
    let (mut producer, mut consumer) = spsc::channel(4).unwrap();
    for number in 0..9 {
        producer.try_push(Page(number)).unwrap();
        assert_eq!(std::ptr::from_ref(consumer.peek().unwrap()).addr() % 512, 0);
        assert_eq!(consumer.try_pop(), Some(Page(number)));
    }
}

/// Peers round or keep capacities of one slot and more, and reject those that no memory holds.
#[test]
fn capacities_at_the_edges() {
    for (requested, slots) in [(1, 1), (2, 2), (3, 4), (1023, 1024), (1025, 2048)] {
        let (producer, consumer) = spsc::channel::<u8>(requested).unwrap();
        assert_eq!((producer.capacity(), consumer.capacity()), (slots, slots));
    }
    assert_eq!(spsc::channel::<()>(0).err(), Some(CapacityError::Zero));
    assert!(matches!(spsc::channel::<()>(usize::MAX).err(), Some(CapacityError::TooLarge { .. })));
}

/// Peers survive a panic in the drop of a value: it reaches the caller, no value is dropped twice, and the ring stays usable.
#[test]
fn a_panic_in_drop_reaches_the_caller_and_drops_nothing_twice() {
    let drops = Drops::default();
    let (mut producer, mut consumer) = spsc::channel(4).unwrap();
    let mut values = vec![drops.value(0), drops.panicking_value(1), drops.value(2)];
    assert_eq!(producer.try_push_batch(&mut values), Ok(3));
    let committing = AssertUnwindSafe(|| consumer.claim(4).unwrap().commit());
    assert!(catch_unwind(committing).is_err());
    assert_eq!(drops.count(), 2);
    assert_eq!(consumer.try_pop().map(|value| value.number), Some(2));
    assert_eq!(drops.count(), 3);
    producer.try_push(drops.panicking_value(3)).ok().unwrap();
    drop(producer);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(consumer))).is_err(), "dropped with the ring");
    assert_eq!(drops.count(), 4);
}

/// Peers require of values to be `Send` only, and keep both ends off shared use.
#[test]
fn ends_are_send_and_not_sync() {
    struct Probe<T>(PhantomData<T>);
    trait Fallback {
        const IS_SYNC: bool = false;
    }
    impl<T> Fallback for Probe<T> {}
    impl<T: Sync> Probe<T> {
        const IS_SYNC: bool = true;
    }
    fn assert_send<T: Send>() {}
    assert_send::<(spsc::Producer<std::cell::Cell<u8>>, spsc::Consumer<std::cell::Cell<u8>>)>();
    let is_sync = [Probe::<spsc::Producer<u8>>::IS_SYNC, Probe::<spsc::Consumer<u8>>::IS_SYNC];
    assert_eq!((is_sync, Probe::<u8>::IS_SYNC), ([false, false], true));
}

/// Ends of peers print without requiring it of the values.
#[test]
fn ends_print_length_and_capacity() {
    struct Silent;
    let (mut producer, consumer) = spsc::channel(4).unwrap();
    assert!(producer.try_push(Silent).is_ok());
    assert_eq!(format!("{producer:?}"), "Producer { len: 1, capacity: 4, .. }");
    assert_eq!(format!("{consumer:?}"), "Consumer { len: 1, capacity: 4, .. }");
}
