//! A dropped runtime leaves no caller waiting, whatever its handlers do.

use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::error::{AskError, HandlerResult};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, ReplyTo, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::loops::LoopContext;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use futures_lite::future::{block_on, poll_fn};

/// Its handler blocks while the lock is held.
struct Stuck(Arc<Mutex<()>>);

impl RingKernel for Stuck {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        drop(self.0.lock().unwrap());
        ctx.reply(message);
        Ok(())
    }
}

/// Holds the right to reply to every request.
#[derive(Default)]
struct Holder(Vec<ReplyTo<u64>>);

impl RingKernel for Holder {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, _: u64, ctx: &mut Context<u64>) -> HandlerResult {
        self.0.extend(ctx.take_reply());
        Ok(())
    }
}

fn runtime_with_workers(workers: usize) -> Runtime {
    Runtime::with_options(RuntimeOptions::new().workers(workers)).unwrap()
}

/// Launches a ring kernel whose handler is running and does not return while the lock of `gate` is held.
fn launch_stuck(
    runtime: &Runtime,
    name: &str,
    options: KernelOptions,
    gate: &Arc<Mutex<()>>,
) -> KernelHandle<u64, u64> {
    let gate = Arc::clone(gate);
    let kernel = runtime.launch_with(name, options, move || Stuck(Arc::clone(&gate))).unwrap();
    kernel.activate().unwrap();
    kernel.tell(1).unwrap();
    while kernel.stats().queued > 0 {
        std::thread::yield_now();
    }
    kernel
}

/// A way to wait for a reply.
type Ask = fn(&KernelHandle<u64, u64>) -> Result<u64, AskError<u64>>;

/// Asks on a thread of its own, in each of the ways that wait; the errors arrive in the receiver.
fn asks(kernel: &KernelHandle<u64, u64>) -> Receiver<AskError<u64>> {
    let (sender, receiver) = channel();
    let ask: Ask = |kernel| kernel.ask(2);
    let ask_async: Ask = |kernel| block_on(kernel.ask_async(2));
    let poll_pending: Ask = |kernel| {
        let mut pending = block_on(KernelHandle::begin_ask(kernel, 2))?;
        block_on(poll_fn(|cx| pending.poll(cx)))
    };
    let before = kernel.stats().sent;
    let ways = [ask, ask_async, poll_pending];
    for way in ways {
        let (kernel, sender) = (kernel.clone(), sender.clone());
        std::thread::spawn(move || sender.send(way(&kernel).unwrap_err()));
    }
    while kernel.stats().sent < before + ways.len() as u64 {
        std::thread::yield_now();
    }
    receiver
}

#[test]
fn every_caller_is_released_although_all_workers_are_in_handlers() {
    watchdog!();
    for workers in [1, 2] {
        let runtime = runtime_with_workers(workers);
        let holders: Vec<_> = (0..20)
            .map(|index| {
                let holder = runtime.launch(&format!("holder-{index}"), Holder::default).unwrap();
                holder.activate().unwrap();
                holder
            })
            .collect();
        let pending: Vec<_> = holders.iter().map(asks).collect();
        for holder in &holders {
            // Each request is handled, and its reply is still owed.
            while holder.stats().handled < 3 {
                std::thread::yield_now();
            }
        }
        let gate = Arc::new(Mutex::new(()));
        let guard = gate.lock().unwrap();
        let stuck: Vec<_> = (0..workers)
            .map(|index| launch_stuck(&runtime, &format!("stuck-{index}"), KernelOptions::new(), &gate))
            .collect();
        let queued: Vec<_> = stuck.iter().map(asks).collect();
        drop(runtime);
        for holder in &holders {
            assert_eq!(holder.state(), State::Terminated, "it needs no worker to end");
        }
        for caller in pending.iter().chain(&queued).flat_map(Receiver::iter) {
            assert!(!matches!(caller, AskError::TimedOut { .. }), "{caller}");
        }
        for kernel in &stuck {
            assert_eq!(kernel.wait_ended(TIMEOUT), State::Failed);
        }
        // The handlers return, find that their ring kernels have ended, and the counters agree.
        drop(guard);
        for kernel in &stuck {
            while !kernel.stats().is_conserved() || kernel.stats().queued > 0 {
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn callers_of_a_stuck_dedicated_thread_are_released() {
    watchdog!();
    let runtime = runtime_with_workers(1);
    let gate = Arc::new(Mutex::new(()));
    let guard = gate.lock().unwrap();
    let stuck = launch_stuck(&runtime, "stuck", KernelOptions::new().dedicated(), &gate);
    let callers = asks(&stuck);
    drop(runtime);
    assert_eq!(callers.iter().count(), 3);
    assert_eq!(stuck.state(), State::Failed);
    drop(guard);
}

#[test]
fn a_pending_ask_is_woken_by_the_end_of_its_ring_kernel() {
    watchdog!();
    let runtime = runtime_with_workers(1);
    let gate = Arc::new(Mutex::new(()));
    let guard = gate.lock().unwrap();
    let stuck = launch_stuck(&runtime, "stuck", KernelOptions::new(), &gate);
    let mut pending = block_on(KernelHandle::begin_ask(&stuck, 2)).unwrap();
    let aborted = stuck.clone();
    let mut aborter = None;
    let reply = block_on(poll_fn(|cx| {
        let polled = pending.poll(cx);
        if polled.is_pending() && aborter.is_none() {
            // Only after the first poll has registered the waker.
            let aborted = aborted.clone();
            aborter = Some(std::thread::spawn(move || aborted.abort().unwrap_err()));
        }
        polled
    }));
    assert!(matches!(reply.unwrap_err(), AskError::Ended { state: State::Failed, .. }));
    aborter.unwrap().join().unwrap();
    drop(guard);
}

#[test]
fn an_async_loop_that_waits_for_something_else_ends_with_its_runtime() {
    watchdog!();
    let runtime = runtime_with_workers(1);
    let body = |mut ctx: LoopContext<u64, u64>| async move {
        let _request = ctx.receive_async().await;
        std::future::pending().await
    };
    let kernel = runtime.launch_loop("waits", KernelOptions::new(), body).unwrap();
    kernel.activate().unwrap();
    let callers = asks(&kernel);
    drop(runtime);
    assert_eq!(callers.iter().count(), 3);
    assert_eq!(kernel.state(), State::Terminated);
}

#[test]
fn a_runtime_may_be_dropped_in_one_of_its_own_handlers() {
    watchdog!();
    struct Dropper(Arc<Mutex<Option<Runtime>>>);
    impl RingKernel for Dropper {
        type Input = u64;
        type Output = u64;
        fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
            let runtime = self.0.lock().unwrap().take();
            drop(runtime);
            ctx.reply(message);
            Ok(())
        }
    }
    for options in [KernelOptions::new(), KernelOptions::new().dedicated()] {
        for inline in [false, true] {
            let slot = Arc::new(Mutex::new(Some(runtime_with_workers(1))));
            let in_handler = Arc::clone(&slot);
            let (dropper, other) = {
                let runtime = slot.lock().unwrap();
                let runtime = runtime.as_ref().unwrap();
                let factory = move || Dropper(Arc::clone(&in_handler));
                let dropper = runtime.launch_with("dropper", options.clone(), factory).unwrap();
                let other = runtime.launch("other", Holder::default).unwrap();
                (dropper, other)
            };
            dropper.activate().unwrap();
            other.activate().unwrap();
            let callers = asks(&other);
            let dropper = if inline { dropper.with_inline_asks() } else { dropper };
            assert_eq!(dropper.ask(5).unwrap(), 5, "its handler continues");
            assert_eq!(dropper.wait_ended(TIMEOUT), State::Terminated);
            assert_eq!(callers.iter().count(), 3);
        }
    }
}

/// Many rounds, because a task that is woken while the pool stops is a race.
#[test]
fn a_message_sent_while_the_runtime_is_dropped_reaches_an_end() {
    watchdog!();
    for _ in 0..200 {
        let runtime = runtime_with_workers(2);
        let kernel = runtime.launch("holder", Holder::default).unwrap();
        kernel.activate().unwrap();
        let caller = {
            let kernel = kernel.clone();
            std::thread::spawn(move || while kernel.ask(1).is_ok() {})
        };
        let teller = {
            let kernel = kernel.clone();
            std::thread::spawn(move || while kernel.tell(1).is_ok() {})
        };
        drop(runtime);
        caller.join().unwrap();
        teller.join().unwrap();
        assert!(kernel.wait_ended(TIMEOUT).has_ended());
    }
}
