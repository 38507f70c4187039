//! Inline asks: they run the ring kernel on the caller's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::error::{AskError, HandlerResult};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::options::{InlineAsks, KernelOptions};
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;
use futures_lite::future::block_on;

/// A message whose handler takes this long.
const SLOW: u64 = 100;
const SLOW_TIME: Duration = Duration::from_millis(1);

/// Records the thread of its handler and replies with the number of messages so far. Panics on 0, fails on 1 and sleeps on `SLOW`.
struct ThreadRecorder {
    ran_on: Arc<std::sync::Mutex<Option<ThreadId>>>,
    handled: u64,
}

impl RingKernel for ThreadRecorder {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        *self.ran_on.lock().unwrap() = Some(std::thread::current().id());
        self.handled += 1;
        match message {
            0 => panic!("requested fault"),
            1 => Err("requested fault".into()),
            _ => {
                if message == SLOW {
                    std::thread::sleep(SLOW_TIME);
                }
                ctx.reply(self.handled);
                Ok(())
            }
        }
    }
}

struct Fixture {
    runtime: Runtime,
    ran_on: Arc<std::sync::Mutex<Option<ThreadId>>>,
    handle: KernelHandle<u64, u64>,
}

impl Fixture {
    fn new(options: KernelOptions) -> Self {
        let runtime = Runtime::with_options(RuntimeOptions::new().workers(2)).unwrap();
        let ran_on = Arc::default();
        let factory_ran_on = Arc::clone(&ran_on);
        let factory = move || ThreadRecorder { ran_on: Arc::clone(&factory_ran_on), handled: 0 };
        let handle = runtime.launch_with("thread-recorder", options, factory).unwrap();
        handle.activate().unwrap();
        let fixture = Self { runtime, ran_on, handle };
        // A worker replies: the activation is complete, and the ring kernel becomes idle.
        assert_eq!(fixture.handle.ask_timeout(2, TIMEOUT).unwrap(), 1);
        fixture
    }

    fn ran_here(&self) -> bool {
        *self.ran_on.lock().unwrap() == Some(std::thread::current().id())
    }

    /// Asks until an ask is handled on this thread: a worker may still be leaving the message before.
    fn runs_inline(&self, mut ask: impl FnMut() -> u64) -> bool {
        let deadline = Instant::now() + TIMEOUT;
        while Instant::now() < deadline {
            ask();
            if self.ran_here() {
                return true;
            }
        }
        false
    }
}

#[test]
fn an_idle_kernel_runs_on_the_callers_thread() {
    watchdog!();
    let fixture = Fixture::new(KernelOptions::new());
    let inline = fixture.handle.with_inline_asks();
    assert!(fixture.runs_inline(|| inline.ask(2).unwrap()));
    assert!(fixture.runs_inline(|| block_on(inline.ask_async(2)).unwrap()));
    assert!(fixture.runs_inline(|| inline.clone().ask(2).unwrap()), "a clone asks inline too");
    let stats = inline.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!(stats.handled, stats.replied);
    fixture.runtime.shutdown(TIMEOUT).unwrap();
}

#[test]
fn by_default_an_ask_runs_a_handler_that_was_short_so_far() {
    watchdog!();
    let fixture = Fixture::new(KernelOptions::new());
    let handle = &fixture.handle;
    for _ in 0..50 {
        handle.ask(2).unwrap();
        assert!(!fixture.ran_here(), "a handler about which nothing is known");
    }
    assert!(fixture.runs_inline(|| handle.ask(2).unwrap()));
    assert!(fixture.runs_inline(|| block_on(handle.ask_async(2)).unwrap()));
    assert!(fixture.runs_inline(|| {
        block_on(KernelHandle::begin_ask(handle, 2)).unwrap().wait(TIMEOUT).unwrap().unwrap()
    }));

    // Two timed ones in a row end it, and one in 16 is timed. A worker may happen to handle some before that, so a single one that ran there
    // says nothing: 20 in a row do.
    let (mut asks, mut on_worker) = (0, 0);
    while on_worker < 20 {
        handle.ask(SLOW).unwrap();
        on_worker = if fixture.ran_here() { 0 } else { on_worker + 1 };
        asks += 1;
        assert!(asks < 400, "long handlers run on the caller's thread");
    }
    for _ in 0..100 {
        handle.ask(SLOW).unwrap();
        assert!(!fixture.ran_here(), "a long handler ran on the caller's thread");
    }
    assert!(fixture.runs_inline(|| handle.ask(2).unwrap()), "short again");
}

#[test]
fn a_handler_that_never_was_short_runs_on_a_worker() {
    watchdog!();
    let fixture = Fixture::new(KernelOptions::new());
    for _ in 0..200 {
        fixture.handle.ask(SLOW).unwrap();
        assert!(!fixture.ran_here());
    }
}

/// Asks the ring kernel that it has and replies whether that one ran on its own thread.
struct AsksInHandler(Arc<Fixture>);

impl RingKernel for AsksInHandler {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, _: u64, ctx: &mut Context<u64>) -> HandlerResult {
        self.0.handle.ask(2)?;
        ctx.reply(u64::from(self.0.ran_here()));
        Ok(())
    }
}

#[test]
fn a_handler_that_asks_leaves_the_other_one_to_a_worker() {
    watchdog!();
    let fixture = Arc::new(Fixture::new(KernelOptions::new()));
    assert!(fixture.runs_inline(|| fixture.handle.ask(2).unwrap()));
    let asked = Arc::clone(&fixture);
    let options = KernelOptions::new().dedicated();
    let outer =
        fixture.runtime.launch_with("outer", options, move || AsksInHandler(Arc::clone(&asked))).unwrap();
    outer.activate().unwrap();
    for _ in 0..200 {
        assert_eq!(outer.ask(1).unwrap(), 0);
    }
    outer.abort().unwrap();
}

#[test]
fn other_calls_never_run_a_handler() {
    watchdog!();
    let fixture = Fixture::new(KernelOptions::new());
    let inline = fixture.handle.with_inline_asks();
    for _ in 0..200 {
        inline.ask_timeout(2, TIMEOUT).unwrap();
        assert!(!fixture.ran_here());
        inline.tell(2).unwrap();
        assert!(!fixture.ran_here());
    }
    let never = Fixture::new(KernelOptions::new().inline_asks(InlineAsks::Never));
    let dedicated = Fixture::new(KernelOptions::new().dedicated());
    let inline = dedicated.handle.with_inline_asks();
    for _ in 0..200 {
        never.handle.ask(2).unwrap();
        assert!(!never.ran_here());
        inline.ask(2).unwrap();
        dedicated.handle.ask(2).unwrap();
        assert!(!dedicated.ran_here());
    }
    let always = Fixture::new(KernelOptions::new().inline_asks(InlineAsks::Always));
    assert!(always.runs_inline(|| always.handle.ask(SLOW).unwrap()));
}

#[test]
fn faults_of_inline_runs_are_supervised() {
    watchdog!();
    let fixture =
        Fixture::new(KernelOptions::new().supervision(Supervision::restart(1000, Duration::from_secs(1))));
    let inline = fixture.handle.with_inline_asks();
    for _ in 0..50 {
        for message in [0, 1] {
            let AskError::Failed(fault) = inline.ask(message).unwrap_err() else { panic!("not a fault") };
            assert!(fault.to_string().contains("requested fault"), "{fault}");
        }
        assert_eq!(inline.ask(2).unwrap(), 1, "rebuilt by the restart");
    }
    assert_eq!(inline.stats().restarts, 100);

    let fixture = Fixture::new(KernelOptions::new());
    let inline = fixture.handle.with_inline_asks();
    assert!(matches!(inline.ask(0), Err(AskError::Failed(_))));
    assert_eq!(inline.wait_ended(TIMEOUT), State::Failed);
    assert!(matches!(inline.ask(2), Err(AskError::NotSent(_))));
}

#[test]
fn a_deactivated_kernel_blocks_its_caller_and_an_ended_one_does_not() {
    watchdog!();
    let fixture = Fixture::new(KernelOptions::new());
    let inline = fixture.handle.with_inline_asks();
    inline.deactivate(TIMEOUT).unwrap();
    let caller = std::thread::spawn({
        let inline = inline.clone();
        move || inline.ask(2)
    });
    while fixture.handle.stats().queued == 0 {
        std::thread::yield_now();
    }
    assert!(!caller.is_finished());
    inline.reactivate().unwrap();
    caller.join().unwrap().unwrap();

    inline.deactivate(TIMEOUT).unwrap();
    let caller = std::thread::spawn({
        let inline = inline.clone();
        move || inline.ask(2)
    });
    while fixture.handle.stats().queued == 0 {
        std::thread::yield_now();
    }
    inline.abort().unwrap();
    assert!(matches!(caller.join().unwrap(), Err(AskError::Failed(_))));
}

/// A caller may run the kernel at any moment of a deactivation: the last command counts.
#[test]
fn a_kernel_under_inline_asks_is_deactivated_and_reactivated_repeatedly() {
    watchdog!();
    let fixture = Fixture::new(KernelOptions::new());
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (inline, stop) = (fixture.handle.with_inline_asks(), &stop);
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                inline.ask(2).unwrap();
            }
        });
        for _ in 0..2_000 {
            fixture.handle.deactivate(TIMEOUT).unwrap();
            assert_eq!(fixture.handle.state(), State::Deactivated);
            fixture.handle.reactivate().unwrap();
            assert_eq!(fixture.handle.state(), State::Active);
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// Callers on several threads, inline and not, beside a thread that tells: each message is handled once, and those of a sender in order.
#[test]
fn callers_and_workers_alternate_without_overlap() {
    watchdog!();
    const EACH: u64 = 20_000;
    /// Receives `sender * EACH + number` and checks that the numbers of each sender are in order.
    struct InOrder([u64; 4], Arc<AtomicBool>);
    impl RingKernel for InOrder {
        type Input = u64;
        type Output = u64;
        fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
            assert!(!self.1.swap(true, Ordering::SeqCst), "two threads at once");
            let (sender, number) = ((message / EACH) as usize, message % EACH);
            assert_eq!(self.0[sender], number, "out of order");
            self.0[sender] += 1;
            if ctx.wants_reply() {
                ctx.reply(message);
            }
            self.1.store(false, Ordering::SeqCst);
            Ok(())
        }
    }
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(2)).unwrap();
    let handle = runtime.launch("in-order", || InOrder([0; 4], Arc::default())).unwrap();
    handle.activate().unwrap();
    let replies = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for sender in 0..4 {
            let handle = if sender == 3 { handle.clone() } else { handle.with_inline_asks() };
            let replies = &replies;
            scope.spawn(move || {
                for message in sender * EACH..(sender + 1) * EACH {
                    if sender == 2 {
                        handle.tell(message).unwrap();
                    } else {
                        assert_eq!(handle.ask(message).unwrap(), message);
                        replies.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    handle.terminate(TIMEOUT).unwrap();
    let stats = handle.stats();
    assert_eq!((stats.handled, stats.sent), (4 * EACH, 4 * EACH));
    assert_eq!(stats.replied, replies.load(Ordering::Relaxed));
}

#[test]
fn a_pending_ask_can_be_waited_for_repeatedly() {
    watchdog!();
    let fixture = Fixture::new(KernelOptions::new());
    // The reply is returned once.
    let inline = fixture.handle.with_inline_asks();
    let mut pending = block_on(KernelHandle::begin_ask(&inline, 5)).unwrap();
    assert_eq!(pending.wait(TIMEOUT).unwrap().unwrap(), 2);
    assert!(pending.try_take().is_none() && pending.wait(Duration::ZERO).is_none());

    // A deactivated kernel does not reply, however often it is polled.
    fixture.handle.deactivate(TIMEOUT).unwrap();
    let handle = Arc::new(fixture.handle.clone());
    let mut pending = block_on(KernelHandle::begin_ask(Arc::clone(&handle), 6)).unwrap();
    assert!(pending.try_take().is_none() && pending.wait(Duration::from_millis(5)).is_none());
    let timed_out =
        block_on(KernelHandle::begin_ask(&fixture.handle, 7)).unwrap().into_timeout_error(TIMEOUT);
    assert!(matches!(timed_out, AskError::TimedOut { waited, .. } if waited == TIMEOUT));
    fixture.handle.reactivate().unwrap();
    assert_eq!(pending.wait(TIMEOUT).unwrap().unwrap(), 3);
    // The abandoned request was handled too.
    assert_eq!(fixture.handle.ask(8).unwrap(), 5);
}

#[test]
fn a_pending_ask_fails_as_any_other() {
    watchdog!();
    let fixture = Fixture::new(KernelOptions::new());
    let pending = block_on(KernelHandle::begin_ask(&fixture.handle, 1));
    assert!(matches!(pending.unwrap().wait(TIMEOUT), Some(Err(AskError::Failed(_)))));
    let not_sent = block_on(KernelHandle::begin_ask(&fixture.handle, 2));
    assert!(matches!(not_sent, Err(AskError::NotSent(_))), "the kernel has failed");
}
