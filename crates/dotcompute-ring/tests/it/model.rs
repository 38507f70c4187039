//! Model tests of the rings against a `VecDeque`: any sequence of operations has the same results, and no value is leaked or dropped twice.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

use dotcompute_ring::fence::Fence;
use dotcompute_ring::mailbox::{self, Band, BandOrder, Options, Overflow};
use dotcompute_ring::{PushError, mpsc, spsc};
use proptest::collection::vec;
use proptest::prelude::*;

/// Counts live values; a double drop or a leak makes the count wrong.
#[derive(Clone, Default)]
struct LiveCount(Arc<AtomicIsize>);

struct Value {
    number: u32,
    // Boxed, so that a memory checker detects a double drop too.
    alive: Box<LiveCount>,
}

impl LiveCount {
    fn value(&self, number: u32) -> Value {
        self.0.fetch_add(1, Ordering::Relaxed);
        Value { number, alive: Box::new(self.clone()) }
    }

    fn count(&self) -> isize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Value {
    fn drop(&mut self) {
        self.alive.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn numbers(values: impl IntoIterator<Item = Value>) -> Vec<u32> {
    values.into_iter().map(|value| value.number).collect()
}

#[derive(Debug, Clone)]
enum Op {
    Push,
    Pop,
    PushBatch(usize),
    PopBatch(usize),
    /// Claims, writes, and commits or drops the claim.
    Write(usize, usize, bool),
    /// Claims, reads all values in place, takes some.
    Read(usize, usize),
    Close,
}

fn ops(closing: u32) -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        20 => Just(Op::Push),
        20 => Just(Op::Pop),
        5 => (0..12_usize).prop_map(Op::PushBatch),
        5 => (0..12_usize).prop_map(Op::PopBatch),
        5 => (0..12_usize, 0..12_usize, any::<bool>()).prop_map(|(claim, fill, commit)| Op::Write(claim, fill, commit)),
        5 => (0..12_usize, 0..12_usize).prop_map(|(claim, take)| Op::Read(claim, take)),
        closing => Just(Op::Close),
    ];
    vec(op, 0..200)
}

proptest! {
    // A failure prints its case. Without this setting proptest would write a file of past cases beside the sources.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spsc_is_a_bounded_queue(requested in 1..9_usize, ops in ops(0), producer_drops_first: bool) {
        let live = LiveCount::default();
        let (mut producer, mut consumer) = spsc::channel(requested).unwrap();
        let capacity = requested.next_power_of_two();
        let mut queue = VecDeque::new();
        let mut next = 0..;
        for op in ops {
            let free = capacity - queue.len();
            match op {
                Op::Push => {
                    let number = next.next().unwrap();
                    match producer.try_push(live.value(number)) {
                        Ok(()) => queue.push_back(number),
                        Err(error) => {
                            prop_assert!(error.is_full() && free == 0);
                            prop_assert_eq!(error.into_inner().number, number);
                        }
                    }
                }
                Op::Pop => {
                    prop_assert_eq!(consumer.peek().map(|value| value.number), queue.front().copied());
                    prop_assert_eq!(consumer.try_pop().map(|value| value.number), queue.pop_front());
                }
                Op::PushBatch(count) => {
                    let batch: Vec<u32> = next.by_ref().take(count).collect();
                    let mut values: Vec<Value> = batch.iter().map(|&number| live.value(number)).collect();
                    let pushed = producer.try_push_batch(&mut values).unwrap();
                    prop_assert_eq!(pushed, free.min(count));
                    prop_assert_eq!(numbers(values), &batch[pushed..]);
                    queue.extend(&batch[..pushed]);
                }
                Op::PopBatch(max) => {
                    let mut values = Vec::new();
                    let popped = consumer.pop_batch(&mut values, max);
                    prop_assert_eq!(popped, max.min(queue.len()));
                    prop_assert_eq!(numbers(values), queue.drain(..popped).collect::<Vec<_>>());
                }
                Op::Write(max, count, commit) => match producer.claim(max) {
                    Ok(mut claim) => {
                        prop_assert_eq!(claim.len(), free.min(max));
                        let batch: Vec<u32> = next.by_ref().take(claim.len().min(count)).collect();
                        let mut values = batch.iter().map(|&number| live.value(number));
                        if let Some(first) = values.next() {
                            prop_assert!(claim.write(first).is_ok());
                        }
                        claim.fill(values);
                        if commit {
                            prop_assert_eq!(claim.commit(), batch.len());
                            queue.extend(batch);
                        }
                    }
                    Err(error) => prop_assert!(error.is_full() && free == 0),
                },
                Op::Read(max, count) => match consumer.claim(max) {
                    Some(mut claim) => {
                        let expected: Vec<u32> = queue.iter().copied().take(max).collect();
                        prop_assert_eq!(claim.iter().map(|value| value.number).collect::<Vec<_>>(), &expected[..]);
                        let taken = numbers(claim.by_ref().take(count));
                        prop_assert_eq!(&taken[..], &expected[..count.min(expected.len())]);
                        drop(claim);
                        queue.drain(..taken.len());
                    }
                    None => prop_assert!(max == 0 || queue.is_empty()),
                },
                Op::Close => unreachable!("the ends of this ring close by being dropped"),
            }
            prop_assert_eq!((producer.len(), consumer.len()), (queue.len(), queue.len()));
            prop_assert_eq!((producer.is_empty(), consumer.is_empty()), (queue.is_empty(), queue.is_empty()));
            prop_assert_eq!(producer.pushed() - consumer.popped(), queue.len() as u64);
            prop_assert_eq!(live.count(), queue.len() as isize);
        }
        if producer_drops_first {
            drop(producer);
            prop_assert!(consumer.is_closed());
            prop_assert_eq!(consumer.is_drained(), queue.is_empty());
            prop_assert_eq!(consumer.try_pop().map(|value| value.number), queue.pop_front());
            drop(consumer);
        } else {
            drop(consumer);
            prop_assert!(matches!(producer.try_push(live.value(0)), Err(PushError::Closed(_))));
            prop_assert!(matches!(producer.claim(1).err(), Some(PushError::Closed(()))));
            drop(producer);
        }
        // The end dropped last has dropped the remaining values.
        prop_assert_eq!(live.count(), 0);
    }

    #[test]
    fn mpsc_is_a_bounded_queue(requested in 1..9_usize, ops in ops(1), chosen in vec(0..3_usize, 200)) {
        let live = LiveCount::default();
        let (first, mut consumer) = mpsc::channel(requested).unwrap();
        let producers = [first.clone(), first.clone(), first];
        let capacity = requested.next_power_of_two();
        let (mut queue, mut closed) = (VecDeque::new(), false);
        let mut next = 0..;
        for (op, chosen) in ops.into_iter().zip(chosen) {
            let (producer, free) = (&producers[chosen], capacity - queue.len());
            match op {
                Op::Push => {
                    let number = next.next().unwrap();
                    match producer.try_push(live.value(number)) {
                        Ok(()) => {
                            prop_assert!(!closed);
                            queue.push_back(number);
                        }
                        Err(PushError::Full(back)) => prop_assert!(back.number == number && free == 0 && !closed),
                        Err(PushError::Closed(back)) => prop_assert!(back.number == number && closed),
                    }
                }
                Op::PushBatch(count) | Op::Write(count, ..) => {
                    let batch: Vec<u32> = next.by_ref().take(count).collect();
                    let mut values: Vec<Value> = batch.iter().map(|&number| live.value(number)).collect();
                    let accepted = match producer.try_push_batch(&mut values) {
                        Ok(accepted) => accepted,
                        Err(error) => {
                            prop_assert!(closed && !error.is_full());
                            0
                        }
                    };
                    prop_assert_eq!(accepted, if closed { 0 } else { free.min(count) });
                    prop_assert_eq!(numbers(values), &batch[accepted..]);
                    queue.extend(&batch[..accepted]);
                }
                Op::Pop => prop_assert_eq!(consumer.try_pop().map(|value| value.number), queue.pop_front()),
                Op::PopBatch(max) | Op::Read(max, _) => {
                    let mut values = Vec::new();
                    let popped = consumer.pop_batch(&mut values, max);
                    prop_assert_eq!(popped, max.min(queue.len()));
                    prop_assert_eq!(numbers(values), queue.drain(..popped).collect::<Vec<_>>());
                }
                Op::Close => {
                    producer.close();
                    closed = true;
                }
            }
            prop_assert_eq!((producer.len(), consumer.len()), (queue.len(), queue.len()));
            prop_assert_eq!(producer.pushed() - producer.popped(), queue.len() as u64);
            prop_assert_eq!(producer.is_closed(), closed);
            prop_assert_eq!(consumer.is_drained(), closed && queue.is_empty());
            prop_assert_eq!(live.count(), queue.len() as isize);
        }
        drop(consumer);
        prop_assert!(producers[0].is_closed());
        drop(producers);
        prop_assert_eq!(live.count(), 0);
    }

    #[test]
    fn a_mailbox_is_four_bounded_queues(
        requested in 1..5_usize,
        drop_oldest: bool,
        ops in ops(1),
        priorities in vec(any::<u8>(), 200),
    ) {
        let live = LiveCount::default();
        let overflow = if drop_oldest { Overflow::DropOldest } else { Overflow::Reject };
        let options =
            Options { capacity: requested, overflow, fence: Fence::Symmetric, order: BandOrder::Strict };
        let (sender, mut receiver) = mailbox::channel(options).unwrap();
        let capacity = requested.next_power_of_two();
        let (mut queues, mut closed) = (<[VecDeque<u32>; 4]>::default(), false);
        let (mut accepted, mut popped) = (0_u64, 0_u64);
        let mut next = 0..;
        for (op, priority) in ops.into_iter().zip(priorities) {
            let band = Band::of(priority);
            match op {
                Op::Push | Op::PushBatch(_) | Op::Write(..) => {
                    let number = next.next().unwrap();
                    let queue = &mut queues[band as usize];
                    let dropped = Cell::new(None);
                    let on_drop = |oldest: Value| assert!(dropped.replace(Some(oldest.number)).is_none());
                    match sender.push_drop_oldest(band, live.value(number), on_drop) {
                        Ok(()) => {
                            prop_assert!(!closed && (drop_oldest || queue.len() < capacity));
                            let expected = if queue.len() == capacity { queue.pop_front() } else { None };
                            prop_assert_eq!(dropped.get(), expected);
                            queue.push_back(number);
                            accepted += 1;
                            popped += u64::from(expected.is_some());
                        }
                        Err(PushError::Full(back)) => {
                            prop_assert!(back.number == number && queue.len() == capacity && !drop_oldest && !closed);
                        }
                        Err(PushError::Closed(back)) => prop_assert!(back.number == number && closed),
                    }
                }
                Op::Pop | Op::PopBatch(_) | Op::Read(..) => {
                    let expected = queues.iter_mut().find_map(VecDeque::pop_front);
                    prop_assert_eq!(receiver.try_pop().map(|value| value.number), expected);
                    popped += u64::from(expected.is_some());
                }
                Op::Close => {
                    sender.close();
                    closed = true;
                }
            }
            let len = queues.iter().map(VecDeque::len).sum::<usize>();
            prop_assert_eq!((sender.len(), receiver.len()), (len, len));
            prop_assert_eq!((sender.pushed(), sender.popped()), (accepted, popped));
            prop_assert_eq!(sender.is_closed(), closed);
            prop_assert_eq!(receiver.is_drained(), closed && len == 0);
            prop_assert_eq!(live.count(), len as isize);
        }
        drop(receiver);
        prop_assert!(sender.is_closed());
        drop(sender);
        prop_assert_eq!(live.count(), 0);
    }
}

#[test]
fn priorities_map_to_the_documented_bands() {
    let expected =
        [(0, Band::Low), (63, Band::Low), (64, Band::Normal), (128, Band::Normal), (159, Band::Normal)];
    let above = [(160, Band::High), (223, Band::High), (224, Band::System), (255, Band::System)];
    for (priority, band) in expected.into_iter().chain(above) {
        assert_eq!(Band::of(priority), band, "{priority}");
    }
}

/// An iterator panics after some values: those already written are neither leaked nor published.
#[test]
fn a_claim_survives_a_panic_of_the_iterator_that_fills_it() {
    let live = LiveCount::default();
    let (mut producer, mut consumer) = spsc::channel(8).unwrap();
    let values = (0..).map(|number| if number < 3 { live.value(number) } else { panic!("no more") });
    let filling = std::panic::AssertUnwindSafe(|| {
        let mut claim = producer.claim(8).unwrap();
        claim.fill(values);
        claim.commit()
    });
    assert!(std::panic::catch_unwind(filling).is_err());
    assert_eq!(live.count(), 0);
    assert!(consumer.try_pop().is_none());
    assert!(producer.try_push(live.value(9)).is_ok());
    assert_eq!(consumer.try_pop().map(|value| value.number), Some(9));
}

/// A reader panics in the middle of a claim: the values it took are dropped, the others remain.
#[test]
fn a_claim_survives_a_panic_of_its_reader() {
    let live = LiveCount::default();
    let (mut producer, mut consumer) = spsc::channel(4).unwrap();
    assert_eq!(producer.claim(4).map(|mut claim| claim.fill((0..4).map(|number| live.value(number)))), Ok(4));
    assert_eq!(live.count(), 0, "a claim that is not committed publishes nothing");
    producer.try_push_batch(&mut (0..4).map(|number| live.value(number)).collect()).unwrap();
    let reading = std::panic::AssertUnwindSafe(|| {
        let claim = consumer.claim(4).unwrap();
        claim.for_each(|value| assert_ne!(value.number, 1, "the reader panics here"));
    });
    assert!(std::panic::catch_unwind(reading).is_err());
    assert_eq!(live.count(), 2);
    assert_eq!(producer.len(), 2);
    assert_eq!(consumer.try_pop().map(|value| value.number), Some(2));
}

/// A forgotten claim may leak its values, but the ring stays usable. Written slots count as not claimed, and the next pop releases the
/// slots of values already taken.
#[test]
fn a_forgotten_claim_leaves_the_ring_consistent() {
    let (mut producer, mut consumer) = spsc::channel(2).unwrap();
    let mut claim = producer.claim(2).unwrap();
    claim.fill([1, 2]);
    std::mem::forget(claim);
    assert_eq!(consumer.try_pop(), None);
    assert_eq!(producer.try_push_batch(&mut vec![3, 4]), Ok(2));
    let mut claim = consumer.claim(2).unwrap();
    assert_eq!(claim.next(), Some(3));
    std::mem::forget(claim);
    assert_eq!(consumer.try_pop(), Some(4));
    assert_eq!(producer.try_push_batch(&mut vec![5, 6]), Ok(2));
}

/// Memory is allocated zeroed and touched only by messages. A ring far larger than the memory in use can be created; an impossible one is
/// rejected.
#[test]
fn large_rings_are_cheap_and_impossible_ones_rejected() {
    use dotcompute_ring::CapacityError;
    let (mut producer, mut consumer) = spsc::channel::<[u64; 8]>(1 << 24).unwrap();
    assert!(producer.try_push([7; 8]).is_ok());
    assert_eq!(consumer.try_pop(), Some([7; 8]));
    for capacity in [usize::MAX, usize::MAX / 2 + 1, 1 << 60] {
        let error = spsc::channel::<u64>(capacity).unwrap_err();
        assert!(
            matches!(error, CapacityError::TooLarge { messages, slot_bytes: 16 } if messages == capacity),
            "{error}"
        );
        assert!(mpsc::channel::<u64>(capacity).is_err());
    }
}
