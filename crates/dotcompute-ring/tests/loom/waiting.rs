//! Loom models of waiting and replying.
//!
//! A lost wake-up is reported as a deadlock, a race for a waker or a value as a concurrent access, a value never dropped as a leak. Under
//! loom every fence is symmetric; `fence.rs` tests the asymmetric one on real threads.

use std::sync::Arc as StdArc;
use std::task::{Context, Poll, Wake, Waker};

use loom::alloc::Track;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;

use dotcompute_ring::fence::Fence;
use dotcompute_ring::notifier::Notifier;
use dotcompute_ring::reply::{ReplyDropped, ReplySlot};
use dotcompute_ring::wait_list::{WaitList, WaitToken};

/// Three preemptions find every known bug here; without a bound the larger models take hours.
fn model(run: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(run);
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

/// For a task that does not park. Unlike the other wakers it may be woken at any time: in loom, unparking also ends a `join`.
struct NoopWake;

impl Wake for NoopWake {
    fn wake(self: StdArc<Self>) {}
}

fn noop_waker() -> Waker {
    Waker::from(StdArc::new(NoopWake))
}

/// A counter to wait for, and the notifier or wait list to wait on. The counter is relaxed throughout, because the fences under test order
/// it.
struct Event<L> {
    count: AtomicU32,
    wait_point: L,
}

impl<L> Event<L> {
    fn new(wait_point: L) -> Arc<Self> {
        Arc::new(Self { count: AtomicU32::new(0), wait_point })
    }

    fn has_reached(&self, wanted: u32) -> bool {
        self.count.load(Ordering::Relaxed) >= wanted
    }
}

impl Event<Notifier> {
    fn publish(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.wait_point.notify();
    }

    fn wait(&self, wanted: u32) {
        let waker = waker();
        while !self.has_reached(wanted) {
            if !self.wait_point.register(&waker) {
                thread::yield_now();
            } else if self.has_reached(wanted) {
                return self.wait_point.cancel();
            } else {
                thread::park();
            }
        }
    }
}

impl Event<WaitList> {
    fn publish(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.wait_point.notify_all();
    }

    fn wait(&self, wanted: u32) {
        let (waker, mut token) = (waker(), WaitToken::default());
        loop {
            self.wait_point.register(&mut token, &waker);
            if self.has_reached(wanted) {
                return self.wait_point.cancel(&mut token);
            }
            thread::park();
        }
    }
}

#[test]
fn notifier_loses_no_wake_up() {
    model(|| {
        let event = Event::new(Notifier::new(Fence::Symmetric));
        let notifier = Arc::clone(&event);
        thread::spawn(move || notifier.publish());
        event.wait(1);
    });
}

#[test]
fn notifier_loses_no_wake_up_with_full_fence() {
    model(|| {
        let event = Event::new(Notifier::new(Fence::Asymmetric));
        let notifier = Arc::clone(&event);
        thread::spawn(move || {
            notifier.count.fetch_add(1, Ordering::Relaxed);
            notifier.wait_point.notify_with_full_fence();
        });
        event.wait(1);
    });
}

#[test]
fn notifier_loses_no_wake_up_of_two_notifiers() {
    model(|| {
        let event = Event::new(Notifier::new(Fence::Symmetric));
        for _ in 0..2 {
            let notifier = Arc::clone(&event);
            thread::spawn(move || notifier.publish());
        }
        event.wait(2);
    });
}

#[test]
fn notifier_wakes_the_waker_that_replaced_another() {
    model(|| {
        let event = Event::new(Notifier::new(Fence::Symmetric));
        let notifier = Arc::clone(&event);
        thread::spawn(move || notifier.publish());
        // Registered by a poll of a task that has moved since. It may receive the wake-up only if the next poll finds the event.
        let _ = event.wait_point.register(&noop_waker());
        event.wait(1);
    });
}

#[test]
fn notifier_keeps_working_after_a_cancel() {
    model(|| {
        let event = Event::new(Notifier::new(Fence::Symmetric));
        let notifier = Arc::clone(&event);
        let thread = thread::spawn(move || {
            notifier.publish();
            notifier.publish();
        });
        if event.wait_point.register(&noop_waker()) {
            event.wait_point.cancel();
        }
        event.wait(2);
        thread.join().unwrap();
    });
}

/// Two waiters violate the contract, so which one is woken is unspecified; but there is no data race.
#[test]
fn notifier_survives_two_waiters() {
    model(|| {
        let notifier = Arc::new(Notifier::new(Fence::Symmetric));
        let other = Arc::clone(&notifier);
        let waiter = thread::spawn(move || other.register(&noop_waker()));
        let third = Arc::clone(&notifier);
        let notifying = thread::spawn(move || third.notify());
        let _ = notifier.register(&noop_waker());
        waiter.join().unwrap();
        notifying.join().unwrap();
    });
}

#[test]
fn wait_list_wakes_every_waiter() {
    model(|| {
        let event = Event::new(WaitList::new(Fence::Symmetric));
        let other = Arc::clone(&event);
        let waiter = thread::spawn(move || other.wait(1));
        let notifier = Arc::clone(&event);
        thread::spawn(move || notifier.publish());
        event.wait(1);
        waiter.join().unwrap();
        assert!(!event.wait_point.has_waiters());
    });
}

#[test]
fn wait_list_cancel_takes_no_wake_up_from_another() {
    model(|| {
        let event = Event::new(WaitList::new(Fence::Symmetric));
        let other = Arc::clone(&event);
        let canceller = thread::spawn(move || {
            let mut token = WaitToken::default();
            other.wait_point.register(&mut token, &noop_waker());
            other.wait_point.cancel(&mut token);
        });
        let notifier = Arc::clone(&event);
        thread::spawn(move || notifier.publish());
        event.wait(1);
        canceller.join().unwrap();
        assert!(!event.wait_point.has_waiters());
    });
}

/// Tracked by loom, which reports a value that is lost or dropped twice.
type Value = Track<u32>;

/// Polls and parks, as an executor does.
fn wait(slot: &mut ReplySlot<Value>) -> Result<u32, ReplyDropped> {
    let waker = waker();
    loop {
        if let Poll::Ready(reply) = slot.poll_take(&mut Context::from_waker(&waker)) {
            return reply.map(Track::into_inner);
        }
        thread::park();
        // A poll may schedule another poll; the other thread must run in between.
        thread::yield_now();
    }
}

/// Polls continuously, as a spinning caller does.
fn spin(slot: &mut ReplySlot<Value>) -> Result<u32, ReplyDropped> {
    loop {
        if let Some(reply) = slot.try_take() {
            return reply.map(Track::into_inner);
        }
        thread::yield_now();
    }
}

#[test]
fn reply_reaches_a_spinning_and_a_parked_caller_and_the_slot_is_reused() {
    model(|| {
        let mut slot = ReplySlot::new();
        let first = slot.arm();
        let sender = thread::spawn(move || assert!(first.send(Track::new(1)).is_ok()));
        assert_eq!(spin(&mut slot), Ok(1));
        // The first sender may not have returned yet; it must not touch the cell any more.
        let second = slot.arm();
        let other = thread::spawn(move || assert!(second.send(Track::new(2)).is_ok()));
        assert_eq!(wait(&mut slot), Ok(2));
        sender.join().unwrap();
        other.join().unwrap();
    });
}

#[test]
fn reply_wakes_a_caller_that_changes_its_waker() {
    model(|| {
        let mut slot = ReplySlot::new();
        let sender = slot.arm();
        let thread = thread::spawn(move || assert!(sender.send(Track::new(1)).is_ok()));
        match slot.poll_take(&mut Context::from_waker(&noop_waker())) {
            Poll::Ready(reply) => assert_eq!(reply.map(Track::into_inner), Ok(1)),
            Poll::Pending => assert_eq!(wait(&mut slot), Ok(1)),
        }
        thread.join().unwrap();
    });
}

#[test]
fn reply_races_with_an_abandoning_caller() {
    model(|| {
        let mut slot = ReplySlot::new();
        let sender = slot.arm();
        // Err: abandoned first, and the value is returned. Ok: replied first, and the slot drops the value.
        let thread = thread::spawn(move || drop(sender.send(Track::new(1))));
        slot.abandon();
        // Uses a new cell, regardless of what the sender of the old one does.
        slot.arm().send(Track::new(2)).ok().unwrap();
        assert_eq!(spin(&mut slot), Ok(2));
        thread.join().unwrap();
    });
}

#[test]
fn reply_races_with_an_abandoning_caller_that_it_wakes() {
    model(|| {
        let mut slot = ReplySlot::new();
        let sender = slot.arm();
        let polled = slot.poll_take(&mut Context::from_waker(&noop_waker()));
        assert!(polled.is_pending());
        let thread = thread::spawn(move || drop(sender.send(Track::new(1))));
        drop(slot);
        thread.join().unwrap();
    });
}

#[test]
fn a_dropped_sender_wakes_its_caller() {
    model(|| {
        let mut slot = ReplySlot::new();
        let sender = slot.arm();
        let thread = thread::spawn(move || drop(sender));
        assert_eq!(wait(&mut slot), Err(ReplyDropped));
        thread.join().unwrap();
    });
}

#[test]
fn a_dropped_sender_races_with_an_abandoning_caller() {
    model(|| {
        let mut slot = ReplySlot::<Value>::new();
        let sender = slot.arm();
        let thread = thread::spawn(move || drop(sender));
        drop(slot);
        thread.join().unwrap();
    });
}
