//! Cases that the test suites of other channels cover, for the waiting sides of [`mailbox`](dotcompute_ring::mailbox).
#![cfg(feature = "std")]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use crate::counted::{Counted, Drops};
use dotcompute_ring::mailbox::{self, Band, Options, Overflow, Receiver, Sender};
use dotcompute_ring::wait::{WaitStrategy, block_on_poll};
use dotcompute_ring::wait_list::WaitToken;
use dotcompute_ring::{CapacityError, PushError};

const STRATEGIES: [WaitStrategy; 3] = [WaitStrategy::Spin, WaitStrategy::Adaptive, WaitStrategy::Park];
const SHORT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

fn mailbox<T: Send>(capacity: usize, overflow: Overflow) -> (Sender<T>, Receiver<T>) {
    mailbox::channel(Options { capacity, overflow, ..Options::default() }).unwrap()
}

/// `Err` after the timeout, `Ok(None)` if the mailbox is closed and drained.
fn receive<T: Send>(
    receiver: &mut Receiver<T>,
    strategy: WaitStrategy,
    timeout: Duration,
) -> Result<Option<T>, ()> {
    block_on_poll(strategy, Some(Instant::now() + timeout), |cx| receiver.poll_pop(cx)).ok_or(())
}

/// The value is returned after the timeout, or if the mailbox is closed.
fn send<T>(
    sender: &Sender<T>,
    strategy: WaitStrategy,
    timeout: Duration,
    value: T,
) -> Result<(), PushError<T>> {
    let deadline = Instant::now() + timeout;
    let mut token = WaitToken::default();
    let mut result = sender.try_push(Band::Normal, value);
    while let Err(PushError::Full(value)) = result {
        let ready =
            block_on_poll(strategy, Some(deadline), |cx| sender.poll_ready(Band::Normal, &mut token, cx));
        result = sender.try_push(Band::Normal, value);
        if ready.is_none() {
            break;
        }
    }
    sender.cancel_wait(&mut token);
    result
}

/// Receivers of peers do not time out early, and receive normally afterwards.
#[test]
fn a_receive_times_out_and_the_next_one_succeeds() {
    let (sender, mut receiver) = mailbox(4, Overflow::Reject);
    for (number, strategy) in STRATEGIES.into_iter().enumerate() {
        let start = Instant::now();
        assert_eq!(receive(&mut receiver, strategy, SHORT), Err(()));
        assert!(start.elapsed() >= SHORT, "{strategy:?}");
        sender.try_push(Band::Normal, number).unwrap();
        assert_eq!(receive(&mut receiver, strategy, Duration::ZERO), Ok(Some(number)));
    }
}

/// Senders of peers do not time out early, get their value back, and send normally afterwards.
#[test]
fn a_send_times_out_and_the_next_one_succeeds() {
    let (sender, mut receiver) = mailbox(1, Overflow::Reject);
    for (number, strategy) in STRATEGIES.into_iter().enumerate() {
        assert_eq!(send(&sender, strategy, Duration::ZERO, number), Ok(()));
        let start = Instant::now();
        assert_eq!(send(&sender, strategy, SHORT, 100 + number), Err(PushError::Full(100 + number)));
        assert!(start.elapsed() >= SHORT, "{strategy:?}");
        assert_eq!(receiver.try_pop(), Some(number));
    }
}

/// Peers end a wait as soon as the other side acts, long before the timeout, on either side.
#[test]
fn waits_end_before_their_timeout_when_the_other_side_acts() {
    for strategy in STRATEGIES {
        let (sender, mut receiver) = mailbox(1, Overflow::Reject);
        let start = Instant::now();
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(SHORT);
                sender.try_push(Band::Normal, 1).unwrap();
                send(&sender, strategy, LONG, 2).unwrap();
            });
            assert_eq!(receive(&mut receiver, strategy, LONG), Ok(Some(1)));
            thread::sleep(SHORT);
            assert_eq!(receive(&mut receiver, strategy, LONG), Ok(Some(2)));
        });
        assert!(start.elapsed() < LONG, "{strategy:?}");
    }
}

/// Receivers of peers that time out again and again lose and repeat no value.
#[test]
fn repeated_timeouts_lose_no_value() {
    const VALUES: usize = 60;
    let (sender, mut receiver) = mailbox(2, Overflow::Reject);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..VALUES {
                if number % 2 == 0 {
                    thread::sleep(Duration::from_millis(2));
                }
                let mut value = number;
                while let Err(error) = send(&sender, WaitStrategy::Park, Duration::from_millis(1), value) {
                    value = error.into_inner();
                }
            }
        });
        let mut expected = 0;
        while expected < VALUES {
            if let Ok(value) = receive(&mut receiver, WaitStrategy::Park, Duration::from_millis(1)) {
                assert_eq!(value, Some(expected));
                expected += 1;
            }
        }
    });
    assert_eq!((receiver.is_empty(), sender.pushed(), sender.popped()), (true, VALUES as u64, VALUES as u64));
}

/// Peers wake parked senders when the receiver is dropped, all of them, and return their values.
#[test]
fn dropping_the_receiver_wakes_every_parked_sender() {
    let drops = Drops::default();
    let (sender, receiver) = mailbox(1, Overflow::Reject);
    sender.try_push(Band::Normal, drops.value(0)).ok().unwrap();
    thread::scope(|scope| {
        let sending = [1, 2, 3].map(|number| {
            let (sender, value) = (sender.clone(), drops.value(number));
            scope.spawn(move || send(&sender, WaitStrategy::Park, LONG, value))
        });
        thread::sleep(SHORT);
        drop(receiver);
        for (sending, number) in sending.into_iter().zip(1..) {
            let result = sending.join().unwrap();
            assert!(matches!(result, Err(PushError::Closed(value)) if value.number == number));
        }
    });
    assert_eq!(drops.count(), 3, "the values returned to the senders");
    drop(sender);
    assert_eq!(drops.count(), 4);
}

/// Peers wake a parked receiver when the channel is closed, after the values accepted before.
#[test]
fn closing_wakes_a_parked_receiver() {
    let (sender, mut receiver) = mailbox(1, Overflow::Reject);
    thread::scope(|scope| {
        let receiving =
            scope.spawn(move || [(); 2].map(|()| receive(&mut receiver, WaitStrategy::Park, LONG)));
        thread::sleep(SHORT);
        sender.try_push(Band::Low, 1).unwrap();
        sender.close();
        assert_eq!(receiving.join().unwrap(), [Ok(Some(1)), Ok(None)]);
    });
}

/// Channels of peers with a single slot pass values back and forth between two threads that both park.
#[test]
fn two_parked_threads_exchange_values_through_single_slots() {
    const EXCHANGES: usize = if cfg!(miri) { 10 } else { 500 };
    let (to_worker, mut worker_inbox) = mailbox(1, Overflow::Reject);
    let (to_caller, mut caller_inbox) = mailbox(1, Overflow::Reject);
    thread::scope(|scope| {
        scope.spawn(move || {
            while let Ok(Some(value)) = receive(&mut worker_inbox, WaitStrategy::Park, LONG) {
                send(&to_caller, WaitStrategy::Park, LONG, value + 1).unwrap();
            }
        });
        for number in 0..EXCHANGES {
            send(&to_worker, WaitStrategy::Park, LONG, number).unwrap();
            assert_eq!(receive(&mut caller_inbox, WaitStrategy::Park, LONG), Ok(Some(number + 1)));
        }
        to_worker.close();
    });
}

/// Queues of peers that overwrite the oldest value stay usable if the code that receives it panics.
#[test]
fn a_panic_on_dropping_the_oldest_leaves_the_mailbox_usable() {
    let drops = Drops::default();
    let (sender, mut receiver) = mailbox(1, Overflow::DropOldest);
    let push =
        |number, on_drop: fn(Counted)| sender.push_drop_oldest(Band::Normal, drops.value(number), on_drop);
    push(0, drop).ok().unwrap();
    let pushing =
        AssertUnwindSafe(|| push(1, |oldest| panic!("the callback panics with value {}", oldest.number)));
    assert!(catch_unwind(pushing).is_err());
    assert_eq!((drops.count(), sender.len()), (2, 0), "both the oldest and the new value are dropped");
    push(2, drop).ok().unwrap();
    push(3, |oldest| assert_eq!(oldest.number, 2)).ok().unwrap();
    assert_eq!(receiver.try_pop().map(|value| value.number), Some(3));
    assert_eq!(drops.count(), 4);
}

/// Peers survive a panic in the drop of a value left in the channel: it reaches the caller, and every other band is dropped.
#[test]
fn a_panic_in_drop_reaches_the_caller_and_the_other_bands_are_dropped() {
    let drops = Drops::default();
    let (sender, receiver) = mailbox(1, Overflow::Reject);
    for (band, value) in [
        (Band::System, drops.value(0)),
        (Band::High, drops.panicking_value(1)),
        (Band::Normal, drops.value(2)),
        (Band::Low, drops.value(3)),
    ] {
        sender.try_push(band, value).ok().unwrap();
    }
    drop(sender);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(receiver))).is_err());
    assert_eq!(drops.count(), 4);
}

/// Channels of peers pass zero-sized values and count them.
#[test]
fn zero_sized_values_are_counted() {
    let (sender, mut receiver) = mailbox(2, Overflow::Reject);
    assert_eq!([(); 3].map(|()| sender.try_push(Band::High, ()).is_ok()), [true, true, false]);
    assert_eq!((sender.len(), receiver.try_pop(), receiver.len()), (2, Some(()), 1));
    sender.try_push(Band::Normal, ()).unwrap();
    assert_eq!([(); 3].map(|()| receiver.try_pop()), [Some(()), Some(()), None]);
}

/// Peers reject capacities that no memory holds; the check without allocation agrees.
#[test]
fn capacities_at_the_edges() {
    for (capacity, slots) in [(1, Some(1)), (5, Some(8)), (0, None), (usize::MAX, None)] {
        let options = Options { capacity, ..Options::default() };
        let created = mailbox::channel::<u64>(options);
        assert_eq!(created.as_ref().ok().map(|(sender, _)| sender.capacity()), slots);
        assert_eq!(created.err(), mailbox::check_capacity::<u64>(capacity).err());
    }
    assert_eq!(mailbox::check_capacity::<()>(0), Err(CapacityError::Zero));
}

/// Peers require of values to be `Send` only; their senders are `Sync`.
#[test]
fn senders_are_send_and_sync_and_receivers_send() {
    fn assert_send<T: Send>() {}
    fn assert_sync<T: Sync>() {}
    assert_send::<(Sender<Cell<u8>>, Receiver<Cell<u8>>)>();
    assert_sync::<Sender<Cell<u8>>>();
}
