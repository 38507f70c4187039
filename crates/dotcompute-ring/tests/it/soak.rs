//! Soak tests: a million messages through each ring between threads, with every message checked.
#![cfg(feature = "std")]

use std::thread;

use dotcompute_ring::fence::Fence;
use dotcompute_ring::mailbox::{self, Band, Options, Overflow};
use dotcompute_ring::wait::{Backoff, Step, WaitStrategy, block_on_poll};
use dotcompute_ring::wait_list::WaitToken;
use dotcompute_ring::{PushError, mpsc, spsc};

/// Miri is about a thousand times slower.
const MESSAGES: u64 = if cfg!(miri) { 1_000 } else { 1_000_000 };
const PRODUCERS: u64 = 4;

/// Larger than a cache line, and detectably torn if half of it is from another message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Message {
    from: u64,
    sequence: u64,
    copies: [u64; 7],
}

impl Message {
    fn new(from: u64, sequence: u64) -> Self {
        Self { from, sequence, copies: [from ^ sequence; 7] }
    }

    fn is_whole(&self) -> bool {
        self.copies == [self.from ^ self.sequence; 7]
    }
}

/// Polls until there is a result, yielding from time to time: these tests also run on machines with one core.
fn poll_until<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut backoff = Backoff::new(WaitStrategy::Adaptive);
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        if backoff.snooze() == Step::Park {
            thread::yield_now();
        }
    }
}

#[test]
fn spsc_singly() {
    let (mut producer, mut consumer) = spsc::channel(64).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            for sequence in 0..MESSAGES {
                poll_until(|| producer.try_push(Message::new(1, sequence)).ok());
            }
        });
        for sequence in 0..MESSAGES {
            assert_eq!(poll_until(|| consumer.try_pop()), Message::new(1, sequence));
        }
        poll_until(|| consumer.is_drained().then_some(()));
    });
}

/// Batches of changing size, so that they wrap around the end of the ring at every offset.
#[test]
fn spsc_in_batches() {
    let (mut producer, mut consumer) = spsc::channel(64).unwrap();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut sequences = 0..MESSAGES;
            while !sequences.is_empty() {
                let size = 1 + sequences.start as usize % 23;
                let Ok(mut claim) = producer.claim(size) else {
                    thread::yield_now();
                    continue;
                };
                claim.fill(sequences.by_ref().map(|sequence| Message::new(1, sequence)));
                claim.commit();
            }
        });
        let mut expected = 0;
        while expected < MESSAGES {
            let Some(claim) = consumer.claim(1 + expected as usize % 31) else {
                thread::yield_now();
                continue;
            };
            for message in claim.iter() {
                assert_eq!(*message, Message::new(1, expected));
                expected += 1;
            }
            claim.commit();
        }
    });
}

fn mpsc_check(seen: &mut [u64; PRODUCERS as usize], message: Message) {
    assert!(message.is_whole(), "{message:?}");
    let expected = &mut seen[message.from as usize];
    assert_eq!(message.sequence, *expected, "from producer {}", message.from);
    *expected += 1;
}

#[test]
fn mpsc_from_four() {
    let (producer, mut consumer) = mpsc::channel(64).unwrap();
    thread::scope(|scope| {
        for from in 0..PRODUCERS {
            let producer = producer.clone();
            scope.spawn(move || {
                for sequence in 0..MESSAGES / PRODUCERS {
                    poll_until(|| producer.try_push(Message::new(from, sequence)).ok());
                }
            });
        }
        let mut seen = [0; PRODUCERS as usize];
        for _ in 0..MESSAGES {
            mpsc_check(&mut seen, poll_until(|| consumer.try_pop()));
        }
        assert_eq!(seen, [MESSAGES / PRODUCERS; PRODUCERS as usize]);
    });
    assert_eq!((producer.pushed(), producer.popped()), (MESSAGES, MESSAGES));
}

/// Closed mid-stream: the consumer pops exactly the messages whose push was accepted.
#[test]
fn mpsc_closed_mid_stream() {
    let (producer, mut consumer) = mpsc::channel(64).unwrap();
    thread::scope(|scope| {
        let producers: Vec<_> = (0..PRODUCERS)
            .map(|from| {
                let producer = producer.clone();
                scope.spawn(move || {
                    let mut accepted = 0;
                    loop {
                        match producer.try_push(Message::new(from, accepted)) {
                            Ok(()) => accepted += 1,
                            Err(PushError::Full(_)) => thread::yield_now(),
                            Err(PushError::Closed(_)) => return accepted,
                        }
                    }
                })
            })
            .collect();
        let mut seen = [0; PRODUCERS as usize];
        while !consumer.is_drained() {
            match consumer.try_pop() {
                Some(message) => mpsc_check(&mut seen, message),
                None => thread::yield_now(),
            }
            if seen.iter().sum::<u64>() == MESSAGES / 2 {
                consumer.close();
            }
        }
        let accepted: Vec<u64> = producers.into_iter().map(|producer| producer.join().unwrap()).collect();
        assert_eq!(seen[..], accepted);
        assert_eq!(producer.pushed(), accepted.iter().sum::<u64>());
    });
}

const BANDS: [Band; PRODUCERS as usize] = [Band::System, Band::High, Band::Normal, Band::Low];

/// Four senders with a band each, which park when it is full, and a receiver that parks when the mailbox is empty.
#[test]
fn mailbox_parked_on_both_sides() {
    for (fence, count) in [(Fence::Symmetric, MESSAGES / 4), (Fence::Asymmetric, MESSAGES / 4)] {
        let (sender, mut receiver) =
            mailbox::channel(Options { capacity: 16, fence, ..Options::default() }).unwrap();
        thread::scope(|scope| {
            for (from, band) in (0..).zip(BANDS) {
                let sender = sender.clone();
                scope.spawn(move || {
                    let mut token = WaitToken::default();
                    for sequence in 0..count / PRODUCERS {
                        let mut message = Message::new(from, sequence);
                        while let Err(error) = sender.try_push(band, message) {
                            message = error.into_inner();
                            block_on_poll(WaitStrategy::Park, None, |cx| {
                                sender.poll_ready(band, &mut token, cx)
                            });
                        }
                    }
                    sender.cancel_wait(&mut token);
                });
            }
            let mut seen = [0; PRODUCERS as usize];
            for _ in 0..count / PRODUCERS * PRODUCERS {
                let message = block_on_poll(WaitStrategy::Park, None, |cx| receiver.poll_pop(cx)).flatten();
                mpsc_check(&mut seen, message.expect("the mailbox is open"));
            }
            assert_eq!(seen, [count / PRODUCERS; PRODUCERS as usize]);
            sender.close();
            assert_eq!(block_on_poll(WaitStrategy::Park, None, |cx| receiver.poll_pop(cx)), Some(None));
        });
    }
}

/// Senders that never wait: each value is either popped or dropped as the oldest, in order on both sides.
#[test]
fn mailbox_drop_oldest() {
    let (sender, mut receiver) =
        mailbox::channel(Options { capacity: 16, overflow: Overflow::DropOldest, ..Options::default() })
            .unwrap();
    thread::scope(|scope| {
        let senders: Vec<_> = (0..2)
            .map(|from| {
                let sender = sender.clone();
                scope.spawn(move || {
                    let mut dropped = 0;
                    for sequence in 0..MESSAGES / 2 {
                        let message = Message::new(from, sequence);
                        let on_drop = |oldest: Message| {
                            assert!(oldest.is_whole(), "{oldest:?}");
                            dropped += 1;
                        };
                        sender.push_drop_oldest(Band::Normal, message, on_drop).unwrap();
                    }
                    dropped
                })
            })
            .collect();
        let receiving = scope.spawn(move || {
            let (mut handled, mut next) = (0, [0; 2]);
            while !receiver.is_drained() {
                let Some(message) = receiver.try_pop() else {
                    thread::yield_now();
                    continue;
                };
                assert!(message.is_whole(), "{message:?}");
                let next = &mut next[message.from as usize];
                assert!(message.sequence >= *next, "{message:?} after {next}");
                *next = message.sequence + 1;
                handled += 1;
            }
            handled
        });
        let dropped: u64 = senders.into_iter().map(|sender| sender.join().unwrap()).sum();
        sender.close();
        assert_eq!(receiving.join().unwrap() + dropped, MESSAGES / 2 * 2);
    });
    assert_eq!((sender.pushed(), sender.popped()), (MESSAGES / 2 * 2, MESSAGES / 2 * 2));
}
