//! Asks that run the ring kernel on the asker's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use dotcompute_core::error::{AskError, HandlerResult};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::supervision::Supervision;

const PATIENCE: Duration = Duration::from_secs(20);

/// Says on which thread it handles; counts; faults when told to.
struct Where {
    ran_on: Arc<std::sync::Mutex<Option<ThreadId>>>,
    handled: u64,
}

impl RingKernel for Where {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        *self.ran_on.lock().unwrap() = Some(std::thread::current().id());
        self.handled += 1;
        match message {
            0 => panic!("told to"),
            1 => Err("told to".into()),
            _ => {
                ctx.reply(self.handled);
                Ok(())
            }
        }
    }
}

struct Setup {
    runtime: Runtime,
    ran_on: Arc<std::sync::Mutex<Option<ThreadId>>>,
    handle: KernelHandle<u64, u64>,
}

impl Setup {
    fn new(options: KernelOptions) -> Self {
        let runtime = Runtime::with_options(RuntimeOptions::new().workers(2)).unwrap();
        let ran_on = Arc::default();
        let inner = Arc::clone(&ran_on);
        let factory = move || Where { ran_on: Arc::clone(&inner), handled: 0 };
        let handle = runtime.launch_with("where", options, factory).unwrap();
        handle.activate().unwrap();
        let setup = Self { runtime, ran_on, handle };
        // Answered by a worker: the activation is over and the ring kernel goes idle.
        assert_eq!(setup.handle.ask_timeout(2, PATIENCE).unwrap(), 1);
        setup
    }

    /// Asks until an ask was handled on this thread: a worker may still be on its way out of the one before.
    fn ran_here(&self, mut ask: impl FnMut() -> u64) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            ask();
            if *self.ran_on.lock().unwrap() == Some(std::thread::current().id()) {
                return true;
            }
        }
        false
    }
}

#[test]
fn an_idle_kernel_runs_on_the_askers_thread() {
    let setup = Setup::new(KernelOptions::new());
    let inline = setup.handle.with_inline_asks();
    assert!(setup.ran_here(|| inline.ask(2).unwrap()));
    assert!(setup.ran_here(|| futures_lite::future::block_on(inline.ask_async(2)).unwrap()));
    assert!(setup.ran_here(|| inline.clone().ask(2).unwrap()), "a clone asks in the same way");
    let stats = inline.stats();
    assert!(stats.is_conserved(), "{stats:?}");
    assert_eq!(stats.handled, stats.replied);
    setup.runtime.shutdown(PATIENCE).unwrap();
}

#[test]
fn other_calls_never_run_a_handler() {
    let setup = Setup::new(KernelOptions::new());
    let inline = setup.handle.with_inline_asks();
    for _ in 0..200 {
        inline.ask_timeout(2, PATIENCE).unwrap();
        assert_ne!(*setup.ran_on.lock().unwrap(), Some(std::thread::current().id()));
        setup.handle.ask(2).unwrap();
        assert_ne!(*setup.ran_on.lock().unwrap(), Some(std::thread::current().id()));
    }
    let dedicated = Setup::new(KernelOptions::new().dedicated());
    dedicated.handle.with_inline_asks().ask(2).unwrap();
    assert_ne!(*dedicated.ran_on.lock().unwrap(), Some(std::thread::current().id()));
}

#[test]
fn faults_end_at_the_message_boundary_here_too() {
    let setup =
        Setup::new(KernelOptions::new().supervision(Supervision::restart(1000, Duration::from_secs(1))));
    let inline = setup.handle.with_inline_asks();
    for _ in 0..50 {
        for message in [0, 1] {
            let AskError::Failed(fault) = inline.ask(message).unwrap_err() else { panic!("not a fault") };
            assert!(fault.to_string().contains("told to"), "{fault}");
        }
        assert_eq!(inline.ask(2).unwrap(), 1, "made anew");
    }
    assert_eq!(inline.stats().restarts, 100);

    let setup = Setup::new(KernelOptions::new());
    let inline = setup.handle.with_inline_asks();
    assert!(matches!(inline.ask(0), Err(AskError::Failed(_))));
    assert_eq!(inline.wait_ended(PATIENCE), State::Failed);
    assert!(matches!(inline.ask(2), Err(AskError::NotSent(_))));
}

#[test]
fn a_paused_kernel_keeps_its_asker_waiting_and_an_ended_one_does_not() {
    let setup = Setup::new(KernelOptions::new());
    let inline = setup.handle.with_inline_asks();
    inline.deactivate(PATIENCE).unwrap();
    let asker = std::thread::spawn({
        let inline = inline.clone();
        move || inline.ask(2)
    });
    while setup.handle.stats().queued == 0 {
        std::thread::yield_now();
    }
    assert!(!asker.is_finished());
    inline.reactivate().unwrap();
    asker.join().unwrap().unwrap();

    inline.deactivate(PATIENCE).unwrap();
    let asker = std::thread::spawn({
        let inline = inline.clone();
        move || inline.ask(2)
    });
    while setup.handle.stats().queued == 0 {
        std::thread::yield_now();
    }
    inline.abort().unwrap();
    assert!(matches!(asker.join().unwrap(), Err(AskError::Failed(_))));
}

/// Its asker runs it at any moment of a pause: what it was told last counts.
#[test]
fn a_kernel_that_is_asked_pauses_and_goes_on_again_and_again() {
    let setup = Setup::new(KernelOptions::new());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (inline, over) = (setup.handle.with_inline_asks(), &over);
        scope.spawn(move || {
            while !over.load(Ordering::Relaxed) {
                inline.ask(2).unwrap();
            }
        });
        for _ in 0..2_000 {
            setup.handle.deactivate(PATIENCE).unwrap();
            assert_eq!(setup.handle.state(), State::Deactivated);
            setup.handle.reactivate().unwrap();
            assert_eq!(setup.handle.state(), State::Active);
        }
        over.store(true, Ordering::Relaxed);
    });
}

/// Askers on many threads, in line and not, beside tellers: each message is handled once, and those of one sender in order.
#[test]
fn askers_and_workers_take_turns() {
    const EACH: u64 = 20_000;
    /// Takes `sender * EACH + number`; checks that each sender's numbers grow.
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
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for sender in 0..4 {
            let handle = if sender == 3 { handle.clone() } else { handle.with_inline_asks() };
            let answered = &answered;
            scope.spawn(move || {
                for message in sender * EACH..(sender + 1) * EACH {
                    if sender == 2 {
                        handle.tell(message).unwrap();
                    } else {
                        assert_eq!(handle.ask(message).unwrap(), message);
                        answered.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    handle.terminate(PATIENCE).unwrap();
    let stats = handle.stats();
    assert_eq!((stats.handled, stats.sent), (4 * EACH, 4 * EACH));
    assert_eq!(stats.replied, answered.load(Ordering::Relaxed));
}

#[test]
fn an_ask_is_waited_for_in_pieces() {
    let setup = Setup::new(KernelOptions::new());
    use futures_lite::future::block_on;
    // It is answered once.
    let inline = setup.handle.with_inline_asks();
    let mut pending = block_on(KernelHandle::begin_ask(&inline, 5)).unwrap();
    assert_eq!(pending.wait(PATIENCE).unwrap().unwrap(), 2);
    assert!(pending.try_take().is_none() && pending.wait(Duration::ZERO).is_none());

    // A paused one does not answer, however often one looks.
    setup.handle.deactivate(PATIENCE).unwrap();
    let handle = Arc::new(setup.handle.clone());
    let mut pending = block_on(KernelHandle::begin_ask(Arc::clone(&handle), 6)).unwrap();
    assert!(pending.try_take().is_none() && pending.wait(Duration::from_millis(5)).is_none());
    let given_up = block_on(KernelHandle::begin_ask(&setup.handle, 7)).unwrap().into_timeout_error(PATIENCE);
    assert!(matches!(given_up, AskError::TimedOut { waited, .. } if waited == PATIENCE));
    setup.handle.reactivate().unwrap();
    assert_eq!(pending.wait(PATIENCE).unwrap().unwrap(), 3);
    // What was given up was handled all the same.
    assert_eq!(setup.handle.ask(8).unwrap(), 5);
}

#[test]
fn an_ask_waited_for_in_pieces_fails_as_any() {
    let setup = Setup::new(KernelOptions::new());
    let pending = futures_lite::future::block_on(KernelHandle::begin_ask(&setup.handle, 1));
    assert!(matches!(pending.unwrap().wait(PATIENCE), Some(Err(AskError::Failed(_)))));
    let refused = futures_lite::future::block_on(KernelHandle::begin_ask(&setup.handle, 2));
    assert!(matches!(refused, Err(AskError::NotSent(_))), "it has failed");
}
