//! Senders that wait for a free slot are woken in order, one for each slot, and none is forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use dotcompute_ring::PushError;
use dotcompute_ring::mailbox::{self, Band, Options, Receiver, Sender};
use dotcompute_ring::wait_list::WaitToken;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A task that sends one value and waits in line for its slot, driven by hand.
struct Task {
    number: usize,
    sender: Sender<usize>,
    wakes: Arc<Wakes>,
    token: WaitToken,
    sent: bool,
}

impl Task {
    fn new(number: usize, sender: &Sender<usize>) -> Self {
        let (wakes, token) = (Arc::default(), WaitToken::default());
        Self { number, sender: sender.clone(), wakes, token, sent: false }
    }

    fn poll(&mut self) {
        self.wakes.0.store(0, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&self.wakes));
        let mut cx = Context::from_waker(&waker);
        while !self.sent && self.sender.poll_ready(Band::Normal, &mut self.token, &mut cx).is_ready() {
            match self.sender.try_push(Band::Normal, self.number) {
                Ok(()) => {
                    self.sent = true;
                    self.sender.cancel_wait(&mut self.token);
                }
                Err(PushError::Full(_)) => {}
                Err(PushError::Closed(_)) => panic!("the mailbox is open"),
            }
        }
    }

    fn is_woken(&self) -> bool {
        self.wakes.0.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.sender.cancel_wait(&mut self.token);
    }
}

/// A full mailbox, and tasks that wait in order of their numbers, which begin with the capacity.
fn full_mailbox(capacity: usize, waiting: usize) -> (Receiver<usize>, Vec<Task>) {
    let (sender, receiver) = mailbox::channel(Options { capacity, ..Options::default() }).unwrap();
    for number in 0..capacity {
        sender.try_push(Band::Normal, number).unwrap();
    }
    let mut tasks: Vec<_> = (capacity..capacity + waiting).map(|number| Task::new(number, &sender)).collect();
    tasks.iter_mut().for_each(Task::poll);
    assert!(tasks.iter().all(|task| !task.sent && !task.is_woken()));
    (receiver, tasks)
}

fn woken(tasks: &[Task]) -> Vec<usize> {
    tasks.iter().filter(|task| task.is_woken()).map(|task| task.number).collect()
}

/// Pops and parks, and polls the woken tasks, until nothing moves any more. Returns the values in the order of their arrival.
fn run_to_the_end(receiver: &mut Receiver<usize>, tasks: &mut [Task]) -> Vec<usize> {
    let mut received = Vec::new();
    loop {
        let before = received.len();
        while let Poll::Ready(Some(number)) = receiver.poll_pop(&mut Context::from_waker(Waker::noop())) {
            received.push(number);
        }
        let mut polled = false;
        for task in tasks.iter_mut().filter(|task| task.is_woken()) {
            task.poll();
            polled = true;
        }
        if !polled && received.len() == before {
            return received;
        }
    }
}

#[test]
fn the_longest_waiting_senders_are_woken_one_for_each_free_slot() {
    let (mut receiver, mut tasks) = full_mailbox(4, 10);
    receiver.try_pop().unwrap();
    assert_eq!(woken(&tasks), [], "less than half of the slots are free");
    receiver.try_pop().unwrap();
    assert_eq!(woken(&tasks), [4, 5]);
    receiver.try_pop().unwrap();
    assert_eq!(woken(&tasks), [4, 5, 6], "one more slot, one more sender");
    tasks[..3].iter_mut().for_each(Task::poll);
    assert!(tasks[..3].iter().all(|task| task.sent));
    assert_eq!(run_to_the_end(&mut receiver, &mut tasks), (3..14).collect::<Vec<_>>());
}

#[test]
fn a_sender_that_gives_up_passes_its_wake_up_on() {
    let (mut receiver, mut tasks) = full_mailbox(2, 4);
    receiver.try_pop().unwrap();
    receiver.try_pop().unwrap();
    assert_eq!(woken(&tasks), [2, 3]);
    drop(tasks.remove(0));
    assert_eq!(woken(&tasks), [3, 4]);
    assert_eq!(run_to_the_end(&mut receiver, &mut tasks), [3, 4, 5]);
}

#[test]
fn a_sender_that_finds_its_slot_taken_keeps_its_place() {
    let (mut receiver, mut tasks) = full_mailbox(1, 3);
    receiver.try_pop().unwrap();
    assert_eq!(woken(&tasks), [1]);
    // A thread that does not wait in line takes the slot.
    tasks[2].sender.try_push(Band::Normal, 100).unwrap();
    tasks[0].poll();
    assert!(!tasks[0].sent);
    assert_eq!(run_to_the_end(&mut receiver, &mut tasks), [100, 1, 2, 3]);
}

#[test]
fn a_sender_that_is_woken_and_never_polled_does_not_stop_the_others() {
    let (mut receiver, mut tasks) = full_mailbox(1, 3);
    receiver.try_pop().unwrap();
    assert_eq!(woken(&tasks), [1]);
    assert_eq!(run_to_the_end(&mut receiver, &mut tasks[1..]), [2, 3]);
    tasks[0].poll();
    assert_eq!(run_to_the_end(&mut receiver, &mut tasks), [1]);
}

#[test]
fn a_pausing_receiver_has_the_free_slots_filled() {
    let (mut receiver, tasks) = full_mailbox(4, 3);
    receiver.try_pop().unwrap();
    assert_eq!(woken(&tasks), []);
    receiver.wake_senders();
    assert_eq!(woken(&tasks), [4]);
}

#[test]
fn a_close_wakes_all_waiting_senders() {
    let (receiver, tasks) = full_mailbox(4, 9);
    drop(receiver);
    assert_eq!(woken(&tasks).len(), 9);
}

#[test]
fn a_token_that_moves_to_another_band_leaves_the_first() {
    let (mut receiver, mut tasks) = full_mailbox(1, 2);
    let waker = Waker::from(Arc::clone(&tasks[0].wakes));
    let (sender, mut cx) = (tasks[0].sender.clone(), Context::from_waker(&waker));
    assert!(sender.poll_ready(Band::High, &mut tasks[0].token, &mut cx).is_ready());
    receiver.try_pop().unwrap();
    assert_eq!(woken(&tasks), [2]);
}

#[derive(Debug, Clone)]
enum Step {
    Pop,
    Park,
    Barge,
    PauseAndWake,
    /// Polls a task, if it is woken or with `spuriously`.
    Poll {
        task: usize,
        spuriously: bool,
    },
    GiveUp {
        task: usize,
    },
    Start,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => Just(Step::Pop),
        1 => Just(Step::Park),
        1 => Just(Step::Barge),
        1 => Just(Step::PauseAndWake),
        6 => (any::<usize>(), prop::bool::weighted(0.2))
            .prop_map(|(task, spuriously)| Step::Poll { task, spuriously }),
        1 => any::<usize>().prop_map(|task| Step::GiveUp { task }),
        3 => Just(Step::Start),
    ]
}

/// Runs the steps, with `parks` also those of a parking receiver. Returns how many senders still wait once nothing moves any more.
fn waiting_after(capacity: usize, steps: Vec<Step>, parks: bool) -> usize {
    let (mut receiver, mut tasks) = full_mailbox(capacity, 3);
    let sender = tasks[0].sender.clone();
    for step in steps {
        match step {
            Step::Pop => drop(receiver.try_pop()),
            Step::Park if parks => drop(receiver.poll_pop(&mut Context::from_waker(Waker::noop()))),
            Step::Barge => drop(sender.try_push(Band::Normal, 0)),
            Step::PauseAndWake => receiver.wake_senders(),
            Step::Poll { task, spuriously } if !tasks.is_empty() => {
                let count = tasks.len();
                let task = &mut tasks[task % count];
                if spuriously || task.is_woken() {
                    task.poll();
                }
            }
            Step::GiveUp { task } if !tasks.is_empty() => drop(tasks.remove(task % tasks.len())),
            Step::Start => {
                tasks.push(Task::new(1000, &sender));
                tasks.last_mut().unwrap().poll();
            }
            Step::Park | Step::Poll { .. } | Step::GiveUp { .. } => {}
        }
    }
    if parks {
        run_to_the_end(&mut receiver, &mut tasks);
    }
    loop {
        while receiver.try_pop().is_some() {}
        let Some(task) = tasks.iter_mut().find(|task| task.is_woken()) else { break };
        task.poll();
    }
    tasks.iter().filter(|task| !task.sent).count()
}

proptest! {
    /// With a receiver that parks and without: the hand-over alone loses no wake-up.
    #[test]
    fn no_sender_waits_in_an_empty_mailbox(capacity in prop::sample::select(vec![1, 2, 4, 8]), steps in vec(step(), 0..150), parks: bool) {
        prop_assert_eq!(waiting_after(capacity, steps, parks), 0);
    }
}
