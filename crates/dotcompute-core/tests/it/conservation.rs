//! Every accepted message is handled, a dead letter or still queued: for every backpressure, mix of priorities, way of ending,
//! placement and wait strategy, with panics, errors, callers whose ask times out, dropped handles and slow consumers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dotcompute_conformance::watchdog::step;
use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::error::{AskError, HandlerResult, Refusal};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::message::Priority;
use dotcompute_core::options::{Backpressure, KernelOptions, Placement};
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use dotcompute_core::telemetry::KernelStats;
use dotcompute_ring::wait::WaitStrategy;

const SENDERS: u64 = 3;
const MESSAGES_EACH: u64 = 400;
const CAPACITY: usize = 16;

#[derive(Debug, Clone, Copy)]
enum Ending {
    Drain,
    Abort,
    PauseThenDrain,
    PauseThenAbort,
    DropRuntime,
}

/// Counts the messages that reach the handler. The handler is slow on some; with `faults` it panics or fails on others.
struct Faulty {
    reached: Arc<AtomicU64>,
    faults: bool,
}

impl RingKernel for Faulty {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        self.reached.fetch_add(1, Ordering::Relaxed);
        if message.is_multiple_of(97) {
            std::thread::sleep(Duration::from_micros(200));
        }
        if self.faults && message % 31 == 7 {
            panic!("injected panic on {message}");
        }
        if self.faults && message % 29 == 5 {
            return Err(format!("injected error on {message}").into());
        }
        if ctx.wants_reply() && !message.is_multiple_of(13) {
            ctx.reply(message);
        }
        Ok(())
    }
}

/// The senders' own counters.
#[derive(Default)]
struct SenderCounters {
    accepted: AtomicU64,
    rejected_full: AtomicU64,
    rejected_ended: AtomicU64,
}

impl SenderCounters {
    fn count(&self, sent: Result<(), Refusal>) {
        let counter = match sent {
            Ok(()) => &self.accepted,
            Err(Refusal::Full { .. } | Refusal::TimedOut { .. }) => &self.rejected_full,
            Err(_) => &self.rejected_ended,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn send(handle: &KernelHandle<u64, u64>, message: u64, counters: &SenderCounters) {
    // A message that is not sent is returned in the error.
    let reply = match message % 5 {
        1 => handle.ask_timeout(message, Duration::from_millis(50)),
        // Handled on this thread if the ring kernel is idle.
        2 => handle.with_inline_asks().ask(message),
        _ => {
            let sent = handle.tell(message);
            return counters.count(sent.map_err(|error| {
                assert_eq!(error.message, message);
                error.reason
            }));
        }
    };
    counters.count(match reply {
        Err(AskError::NotSent(error)) => {
            assert_eq!(error.message, message);
            Err(error.reason)
        }
        // Replied, failed, timed out or ended: accepted in each case.
        Ok(reply) => {
            assert_eq!(reply, message);
            Ok(())
        }
        Err(_) => Ok(()),
    });
}

fn scenario(options: KernelOptions, faults: bool, ending: Ending) -> (KernelStats, String) {
    let title = format!(
        "{:?} {:?} {:?} faults={faults} {ending:?}",
        options.backpressure, options.placement, options.supervision
    );
    step(title.clone());
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2)).unwrap();
    let reached = Arc::new(AtomicU64::new(0));
    let in_kernel = Arc::clone(&reached);
    let handle = runtime
        .launch_with("faulty", options, move || Faulty { reached: Arc::clone(&in_kernel), faults })
        .unwrap();
    handle.activate().unwrap();

    let counters = SenderCounters::default();
    std::thread::scope(|scope| {
        for sender in 0..SENDERS {
            // Each sender has its own handles, one per band, and drops them at its end.
            let bands = [250, 170, 128, 10].map(|priority| handle.with_priority(Priority::from(priority)));
            let counters = &counters;
            scope.spawn(move || {
                for number in 0..MESSAGES_EACH {
                    let message = number * SENDERS + sender;
                    send(&bands[(message % 4) as usize], message, counters);
                }
            });
        }
        // End it while the senders are sending.
        std::thread::sleep(Duration::from_millis(3));
        match ending {
            Ending::Drain => drop(handle.terminate(TIMEOUT)),
            Ending::Abort => drop(handle.abort()),
            Ending::PauseThenDrain => {
                drop(handle.deactivate(TIMEOUT));
                std::thread::sleep(Duration::from_millis(2));
                drop(handle.terminate(TIMEOUT));
            }
            Ending::PauseThenAbort => {
                drop(handle.deactivate(TIMEOUT));
                std::thread::sleep(Duration::from_millis(2));
                drop(handle.abort());
            }
            Ending::DropRuntime => drop(runtime),
        }
    });
    assert!(handle.wait_ended(TIMEOUT).has_ended(), "{title}: did not end");

    let stats = handle.stats();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(
        stats.sent,
        count(&counters.accepted),
        "{title}: the kernel's counter and the senders' counters"
    );
    assert_eq!(stats.rejected, count(&counters.rejected_full), "{title}: rejected because the band was full");
    let total = count(&counters.accepted) + count(&counters.rejected_full) + count(&counters.rejected_ended);
    assert_eq!(total, SENDERS * MESSAGES_EACH, "{title}: every send had a result");
    assert_eq!(stats.queued, 0, "{title}: nothing stays queued after the end");
    assert!(stats.is_conserved(), "{title}: {stats:?}");
    let faulted: u64 = stats
        .dead_letters_by_reason
        .iter()
        .filter(|(reason, _)| {
            use dotcompute_core::dead_letter::Reason;
            matches!(reason, Reason::HandlerPanicked | Reason::HandlerErrored)
        })
        .map(|&(_, count)| count)
        .sum();
    assert_eq!(
        count(&reached),
        stats.handled + faulted,
        "{title}: what reached the handler was handled or failed"
    );
    (stats, title)
}

fn silence_injected_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let injected = info.payload().downcast_ref::<String>().is_some_and(|text| text.contains("injected"));
        if !injected {
            default(info);
        }
    }));
}

#[test]
fn every_message_is_accounted_for() {
    watchdog!();
    silence_injected_panics();
    let backpressures = [
        Backpressure::Block,
        Backpressure::BlockFor(Duration::from_millis(1)),
        Backpressure::Reject,
        Backpressure::DropOldest,
    ];
    let endings =
        [Ending::Drain, Ending::Abort, Ending::PauseThenDrain, Ending::PauseThenAbort, Ending::DropRuntime];
    let supervisions = [
        (false, Supervision::Never),
        (true, Supervision::Never),
        (true, Supervision::Resume),
        (true, Supervision::restart(u32::MAX, Duration::from_secs(1))),
    ];
    let mut scenarios = 0;
    for backpressure in backpressures {
        for ending in endings {
            for (faults, supervision) in supervisions {
                for (placement, wait) in [
                    (Placement::Pool, WaitStrategy::Adaptive),
                    (Placement::Dedicated, WaitStrategy::Park),
                    (Placement::Dedicated, WaitStrategy::Adaptive),
                ] {
                    let mut options = KernelOptions::new()
                        .capacity(CAPACITY)
                        .backpressure(backpressure)
                        .supervision(supervision)
                        .wait(wait);
                    options.placement = placement;
                    let (stats, title) = scenario(options, faults, ending);
                    if matches!(ending, Ending::Drain) && !faults {
                        let dropped: u64 = stats.dead_letters_by_reason.iter().map(|&(_, count)| count).sum();
                        assert!(
                            backpressure == Backpressure::DropOldest || dropped == 0,
                            "{title}: a drain without faults handles every message"
                        );
                    }
                    if !faults {
                        assert_eq!(stats.state, State::Terminated, "{title}");
                    }
                    scenarios += 1;
                }
            }
        }
    }
    println!("{scenarios} scenarios, {} messages each", SENDERS * MESSAGES_EACH);
}

/// A message sent after the end is returned in the error. A message queued at an abort becomes a dead letter that holds it.
#[test]
fn queued_messages_survive_an_abort_as_dead_letters() {
    watchdog!();
    let runtime = Runtime::new().unwrap();
    let reached = Arc::new(AtomicU64::new(0));
    let in_kernel = Arc::clone(&reached);
    let options = KernelOptions::new().capacity(64);
    let handle = runtime
        .launch_with("k", options, move || Faulty { reached: Arc::clone(&in_kernel), faults: false })
        .unwrap();
    handle.activate().unwrap();
    handle.deactivate(TIMEOUT).unwrap();
    for message in 0..40 {
        handle.tell(message).unwrap();
    }
    assert_eq!(handle.stats().queued, 40);
    handle.abort().unwrap();
    assert_eq!(handle.tell(99).unwrap_err().into_message(), 99);
    let mut messages: Vec<u64> = runtime
        .take_dead_letters()
        .into_iter()
        .map(|mut letter| letter.take_message::<u64>().unwrap())
        .collect();
    messages.sort_unstable();
    assert_eq!(messages, (0..40).collect::<Vec<_>>());
    assert_eq!(runtime.dead_letter_count(), 40);
    assert_eq!(reached.load(Ordering::Relaxed), 0);
    assert!(handle.stats().is_conserved());
}
