//! Loom models of the rings.
//!
//! A slot written while it is read is reported as a concurrent access, a value never dropped as a leak, a lost wake-up as a deadlock. The
//! models return both ends to one thread before dropping them, because an `Arc` of `alloc` orders the drops, and loom does not track it.

use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};

use loom::alloc::Track;
use loom::thread;

use dotcompute_ring::fence::Fence;
use dotcompute_ring::mailbox::{self, Band, Options, Overflow, Receiver, Sender};
use dotcompute_ring::wait_list::WaitToken;
use dotcompute_ring::{PushError, mpsc, spsc};

/// Three preemptions find every known bug here; without a bound the larger models take hours.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
}

/// A value that loom reports if it is never dropped.
type Value = Track<u32>;

fn value(number: u32) -> Value {
    Track::new(number)
}

fn push(producer: &mut spsc::Producer<Value>, number: u32) {
    let mut next = value(number);
    while let Err(PushError::Full(back)) = producer.try_push(next) {
        next = back;
        thread::yield_now();
    }
}

fn pop(mut attempt: impl FnMut() -> Option<Value>) -> u32 {
    loop {
        match attempt() {
            Some(value) => return *value.get_ref(),
            None => thread::yield_now(),
        }
    }
}

#[test]
fn spsc_passes_values_in_order_around_the_ring() {
    model(|| {
        let (mut producer, mut consumer) = spsc::channel(1).unwrap();
        let pushing = thread::spawn(move || {
            (1..=3).for_each(|number| push(&mut producer, number));
            producer
        });
        for number in 1..=3 {
            assert_eq!(pop(|| consumer.try_pop()), number);
        }
        let producer = pushing.join().unwrap();
        assert!(producer.is_empty() && consumer.is_empty());
    });
}

#[test]
fn spsc_transfers_claimed_slots_both_ways() {
    model(|| {
        let (mut producer, mut consumer) = spsc::channel(2).unwrap();
        let pushing = thread::spawn(move || {
            let mut next = 1;
            while next <= 3 {
                let Ok(mut claim) = producer.claim(2) else {
                    thread::yield_now();
                    continue;
                };
                claim.fill((next..=3).map(value));
                next += claim.commit() as u32;
            }
            producer
        });
        let mut taken = Vec::new();
        while taken.len() < 3 {
            match consumer.claim(2) {
                Some(claim) => taken.extend(claim.map(|value| *value.get_ref())),
                None => thread::yield_now(),
            }
        }
        assert_eq!(taken, [1, 2, 3]);
        pushing.join().unwrap();
    });
}

#[test]
fn spsc_is_drained_only_after_the_last_value() {
    model(|| {
        let (mut producer, mut consumer) = spsc::channel(2).unwrap();
        let pushing = thread::spawn(move || {
            push(&mut producer, 1);
            drop(producer);
        });
        let mut taken = Vec::new();
        while !consumer.is_drained() {
            match consumer.try_pop() {
                Some(value) => taken.push(*value.get_ref()),
                None => thread::yield_now(),
            }
        }
        assert_eq!(taken, [1]);
        pushing.join().unwrap();
    });
}

#[test]
fn spsc_drops_remaining_values() {
    model(|| {
        let (mut producer, mut consumer) = spsc::channel(2).unwrap();
        let pushing = thread::spawn(move || {
            let both = [producer.try_push(value(1)).is_ok(), producer.try_push(value(2)).is_ok()];
            assert_eq!(both, [true, true]);
            producer
        });
        drop(consumer.try_pop());
        let producer = pushing.join().unwrap();
        drop(consumer);
        assert!(producer.is_closed());
    });
}

/// Pushes until the value is accepted or the ring is closed. Returns whether it was accepted.
fn push_until_accepted(producer: &mpsc::Producer<Value>, number: u32) -> bool {
    let mut next = value(number);
    loop {
        match producer.try_push(next) {
            Ok(()) => return true,
            Err(PushError::Closed(_)) => return false,
            Err(PushError::Full(back)) => next = back,
        }
        thread::yield_now();
    }
}

#[test]
fn mpsc_gives_each_index_to_one_producer() {
    model(|| {
        let (producer, mut consumer) = mpsc::channel(2).unwrap();
        let other = producer.clone();
        let pushing = thread::spawn(move || {
            assert!(push_until_accepted(&other, 1) && push_until_accepted(&other, 2));
            other
        });
        let pushing_too = thread::spawn(move || {
            assert!(push_until_accepted(&producer, 10));
            producer
        });
        let taken: Vec<u32> = (0..3).map(|_| pop(|| consumer.try_pop())).collect();
        let of_other: Vec<u32> = taken.iter().copied().filter(|number| *number < 10).collect();
        assert_eq!(of_other, [1, 2], "one producer's values stay in order");
        assert_eq!(taken.iter().sum::<u32>(), 13);
        let other = pushing.join().unwrap();
        pushing_too.join().unwrap();
        assert_eq!((other.pushed(), other.popped()), (3, 3));
    });
}

/// Two threads that share a producer share its cached `head`. A thread that relies on the copy must also acquire the order that came with
/// it; otherwise it writes a slot that the consumer may still be reading.
#[test]
fn mpsc_shares_a_producers_cached_head() {
    model(|| {
        let (producer, mut consumer) = mpsc::channel(2).unwrap();
        assert!(push_until_accepted(&producer, 1) && push_until_accepted(&producer, 2));
        let producer = StdArc::new(producer);
        let pushing = [3, 4].map(|number| {
            let producer = StdArc::clone(&producer);
            thread::spawn(move || producer.try_push(value(number)).is_ok())
        });
        assert_eq!((pop(|| consumer.try_pop()), pop(|| consumer.try_pop())), (1, 2));
        let accepted = pushing.map(|pushing| pushing.join().unwrap());
        let left = core::iter::from_fn(|| consumer.try_pop()).count();
        assert_eq!(left, accepted.iter().filter(|accepted| **accepted).count());
    });
}

#[test]
fn mpsc_drains_exactly_what_was_accepted_before_it_closed() {
    model(|| {
        let (producer, mut consumer) = mpsc::channel(2).unwrap();
        let closer = producer.clone();
        let pushing = thread::spawn(move || {
            let accepted = (1..=2).take_while(|&number| push_until_accepted(&producer, number)).count();
            (producer, accepted)
        });
        let closing = thread::spawn(move || {
            closer.close();
            closer
        });
        let mut taken = 0;
        while !consumer.is_drained() {
            match consumer.try_pop() {
                Some(_) => taken += 1,
                None => thread::yield_now(),
            }
        }
        let (producer, accepted) = pushing.join().unwrap();
        closing.join().unwrap();
        assert_eq!(taken, accepted);
        assert_eq!(producer.pushed(), accepted as u64);
    });
}

fn mailbox(capacity: usize, overflow: Overflow) -> (Sender<Value>, Receiver<Value>) {
    mailbox::channel(Options { capacity, overflow, fence: Fence::Symmetric, ..Options::default() }).unwrap()
}

#[test]
fn mailbox_drop_oldest_and_pop_return_every_value_once() {
    model(|| {
        let (sender, mut receiver) = mailbox(1, Overflow::DropOldest);
        let pushing = thread::spawn(move || {
            let mut dropped = Vec::new();
            for number in 1..=2 {
                sender
                    .push_drop_oldest(Band::Normal, value(number), |oldest| dropped.push(*oldest.get_ref()))
                    .unwrap();
            }
            (sender, dropped)
        });
        let popped = receiver.try_pop().map(|value| *value.get_ref());
        let (sender, mut seen) = pushing.join().unwrap();
        seen.extend(popped);
        seen.extend(core::iter::from_fn(|| receiver.try_pop()).map(|value| *value.get_ref()));
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        assert_eq!((sender.pushed(), sender.popped()), (2, 2));
    });
}

/// The first push into a band initialises it, and closing forbids that. Exactly one of them succeeds, and both sides agree which.
#[test]
fn mailbox_closes_a_band_during_its_initialization() {
    model(|| {
        let (sender, mut receiver) = mailbox(1, Overflow::Reject);
        let pushing = thread::spawn(move || {
            let accepted = sender.try_push(Band::High, value(1)).is_ok();
            (sender, accepted)
        });
        receiver.close();
        let mut taken = 0;
        while !receiver.is_drained() {
            match receiver.try_pop() {
                Some(_) => taken += 1,
                None => thread::yield_now(),
            }
        }
        let (sender, accepted) = pushing.join().unwrap();
        assert_eq!(taken, u64::from(accepted));
        assert_eq!(sender.pushed(), taken);
        assert!(matches!(sender.try_push(Band::High, value(2)), Err(PushError::Closed(_))));
    });
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: StdArc<Self>) {
        self.0.unpark();
    }
}

fn waker() -> Waker {
    Waker::from(StdArc::new(Unpark(thread::current())))
}

/// Waits as a task does, parked between polls.
fn block_on<T>(mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> T {
    let waker = waker();
    let mut cx = Context::from_waker(&waker);
    loop {
        match poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn mailbox_wakes_a_receiver_for_a_value() {
    model(|| {
        let (sender, mut receiver) = mailbox(2, Overflow::Reject);
        let receiving = thread::spawn(move || {
            let first = block_on(|cx| receiver.poll_pop(cx)).map(|value| *value.get_ref());
            assert_eq!(first, Some(1));
            receiver
        });
        sender.try_push(Band::Normal, value(1)).unwrap();
        receiving.join().unwrap();
    });
}

#[test]
fn mailbox_wakes_a_receiver_for_the_close() {
    model(|| {
        let (sender, mut receiver) = mailbox(2, Overflow::Reject);
        let receiving = thread::spawn(move || {
            let first = block_on(|cx| receiver.poll_pop(cx)).map(|value| *value.get_ref());
            let last = block_on(|cx| receiver.poll_pop(cx)).map(|value| *value.get_ref());
            assert_eq!((first, last), (Some(1), None));
            receiver
        });
        sender.try_push(Band::Normal, value(1)).unwrap();
        sender.close();
        receiving.join().unwrap();
    });
}

#[test]
fn mailbox_wakes_a_sender_that_waits_for_a_free_slot() {
    model(|| {
        let (sender, mut receiver) = mailbox(1, Overflow::Reject);
        sender.try_push(Band::Normal, value(1)).unwrap();
        let sending = thread::spawn(move || {
            let mut token = WaitToken::default();
            block_on(|cx| sender.poll_ready(Band::Normal, &mut token, cx));
            sender.try_push(Band::Normal, value(2)).unwrap();
            sender.cancel_wait(&mut token);
            sender
        });
        assert_eq!(pop(|| receiver.try_pop()), 1);
        assert_eq!(pop(|| receiver.try_pop()), 2);
        sending.join().unwrap();
    });
}

/// The sender parks although a slot is free again: the receiver wakes it once the band is half free.
#[test]
fn mailbox_wakes_a_sender_once_the_band_is_half_free() {
    model(|| {
        let (sender, mut receiver) = mailbox(2, Overflow::Reject);
        for number in 1..=2 {
            sender.try_push(Band::Normal, value(number)).unwrap();
        }
        let sending = thread::spawn(move || {
            let mut token = WaitToken::default();
            block_on(|cx| sender.poll_ready(Band::Normal, &mut token, cx));
            sender.cancel_wait(&mut token);
            sender
        });
        assert_eq!(pop(|| receiver.try_pop()), 1);
        assert_eq!(pop(|| receiver.try_pop()), 2);
        sending.join().unwrap();
    });
}

#[test]
fn mailbox_wakes_waiting_senders_when_it_closes() {
    model(|| {
        let (sender, receiver) = mailbox(1, Overflow::Reject);
        sender.try_push(Band::Normal, value(1)).unwrap();
        let sending = thread::spawn(move || {
            let mut token = WaitToken::default();
            block_on(|cx| sender.poll_ready(Band::Normal, &mut token, cx));
            sender.cancel_wait(&mut token);
            assert!(matches!(sender.try_push(Band::Normal, value(2)), Err(PushError::Closed(_))));
            sender
        });
        receiver.close();
        sending.join().unwrap();
    });
}

/// Sends one value as a task does that waits in line.
fn send_in_line(sender: &Sender<Value>, number: u32) {
    let mut token = WaitToken::default();
    loop {
        block_on(|cx| sender.poll_ready(Band::Normal, &mut token, cx));
        if sender.try_push(Band::Normal, value(number)).is_ok() {
            return sender.cancel_wait(&mut token);
        }
    }
}

/// One slot and two waiting senders: the second one is woken when the first has used the slot, whichever comes last.
#[test]
fn mailbox_hands_a_slot_from_one_waiting_sender_to_the_next() {
    model(|| {
        let (sender, mut receiver) = mailbox(1, Overflow::Reject);
        sender.try_push(Band::Normal, value(0)).unwrap();
        let senders: Vec<_> = (1..=2)
            .map(|number| {
                let sender = sender.clone();
                thread::spawn(move || {
                    send_in_line(&sender, number);
                    sender
                })
            })
            .collect();
        let mut received: Vec<_> = (0..3).map(|_| pop(|| receiver.try_pop())).collect();
        received.sort_unstable();
        assert_eq!(received, [0, 1, 2]);
        for sender in senders {
            sender.join().unwrap();
        }
    });
}

/// A sender that was woken, or is about to be, gives up: the other one gets the slot.
#[test]
fn mailbox_hands_a_slot_on_when_its_sender_gives_up() {
    model(|| {
        let (sender, mut receiver) = mailbox(1, Overflow::Reject);
        sender.try_push(Band::Normal, value(0)).unwrap();
        let mut token = WaitToken::default();
        let noop = Waker::from(StdArc::new(NoopWake));
        let _ = sender.poll_ready(Band::Normal, &mut token, &mut Context::from_waker(&noop));
        let other = sender.clone();
        let sending = thread::spawn(move || {
            send_in_line(&other, 1);
            other
        });
        let giving_up = thread::spawn(move || {
            sender.cancel_wait(&mut token);
            sender
        });
        assert_eq!(pop(|| receiver.try_pop()), 0);
        assert_eq!(pop(|| receiver.try_pop()), 1);
        sending.join().unwrap();
        giving_up.join().unwrap();
    });
}

struct NoopWake;

impl Wake for NoopWake {
    fn wake(self: StdArc<Self>) {}
}
