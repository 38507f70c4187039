//! Ring kernels that wait for others: blocking calls in handlers, cycles, jams, and outputs beyond the limit.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dotcompute_conformance::{TIMEOUT, watchdog};
use dotcompute_core::dead_letter::Reason;
use dotcompute_core::error::{AskError, HandlerResult, ReceiveError, Refusal};
use dotcompute_core::handle::KernelHandle;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::lifecycle::State;
use dotcompute_core::loops::LoopContext;
use dotcompute_core::options::KernelOptions;
use dotcompute_core::runtime::{Runtime, RuntimeOptions};
use dotcompute_core::status::Blocked;
use dotcompute_core::supervision::Supervision;
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};

type Handle = KernelHandle<u64, u64>;

/// A handle that is set after the launch of the ring kernel that uses it.
type Later = Arc<OnceLock<Handle>>;

/// What an [`Actor`] does with a message.
#[derive(Clone)]
enum Act {
    /// Replies with the message.
    Echo,
    /// Asks another ring kernel and passes its reply on.
    Ask(Later),
    /// Like `Ask`, with a future that the handler blocks on.
    BlockOn(Later),
    /// Tells another ring kernel this many messages, then replies.
    Tell(Later, u64),
    /// Receives an output of another ring kernel and replies with it.
    Receive(Later),
    /// Sends this many outputs, then replies.
    Send(u64),
    /// Pauses another ring kernel, terminates it, then replies.
    End(Later),
}

struct Actor(Act);

impl RingKernel for Actor {
    type Input = u64;
    type Output = u64;

    fn handle(&mut self, message: u64, ctx: &mut Context<u64>) -> HandlerResult {
        let reply = match &self.0 {
            Act::Echo => message,
            Act::Ask(other) => other.wait().ask(message)?,
            Act::BlockOn(other) => futures_lite::future::block_on(other.wait().ask_async(message))?,
            Act::Tell(other, count) => {
                for value in 0..*count {
                    other.wait().tell(value)?;
                }
                message
            }
            Act::Receive(other) => other.wait().receive()?,
            Act::End(other) => {
                other.wait().deactivate(TIMEOUT)?;
                other.wait().terminate(TIMEOUT)?;
                message
            }
            Act::Send(count) => {
                (0..*count).for_each(|value| ctx.send(value));
                message
            }
        };
        if ctx.wants_reply() {
            ctx.reply(reply);
        }
        Ok(())
    }
}

fn runtime(workers: usize) -> Runtime {
    Runtime::with_options(RuntimeOptions::new().workers(workers)).unwrap()
}

/// Launches and activates a ring kernel that stays active after a fault.
fn launch(runtime: &Runtime, name: &str, options: KernelOptions, act: Act) -> Handle {
    let options = options.supervision(Supervision::Resume);
    let handle = runtime.launch_with(name, options, move || Actor(act.clone())).unwrap();
    handle.activate().unwrap();
    handle
}

fn placements() -> [KernelOptions; 2] {
    [KernelOptions::new(), KernelOptions::new().dedicated()]
}

#[test]
fn a_handler_that_asks_holds_no_worker() {
    watchdog!();
    for workers in [1, 2] {
        let runtime = runtime(workers);
        let echo = Later::default();
        let _ = echo.set(launch(&runtime, "echo", KernelOptions::new(), Act::Echo));
        let asking: Vec<Handle> = (0..8)
            .map(|index| {
                launch(
                    &runtime,
                    &format!("asking-{index}"),
                    KernelOptions::new(),
                    Act::Ask(Arc::clone(&echo)),
                )
            })
            .collect();
        std::thread::scope(|scope| {
            for handle in &asking {
                scope.spawn(move || (0..300).for_each(|value| assert_eq!(handle.ask(value).unwrap(), value)));
            }
        });
        runtime.shutdown(TIMEOUT).unwrap();
    }
}

#[test]
fn a_chain_of_asks_is_longer_than_the_pool() {
    watchdog!();
    let runtime = runtime(2);
    let mut last = launch(&runtime, "last", KernelOptions::new(), Act::Echo);
    for index in 0..40 {
        let next = Later::default();
        let _ = next.set(last);
        let act = if index % 2 == 0 { Act::Ask(next) } else { Act::BlockOn(next) };
        // A handler that blocks on a future of its own holds its worker, so these have their own threads.
        let options = if index % 2 == 0 { KernelOptions::new() } else { KernelOptions::new().dedicated() };
        last = launch(&runtime, &format!("link-{index}"), options, act);
    }
    assert_eq!(last.ask_timeout(7, TIMEOUT).unwrap(), 7);
    runtime.shutdown(TIMEOUT).unwrap();
}

#[test]
fn a_handler_that_tells_into_a_full_mailbox_holds_no_worker() {
    watchdog!();
    let runtime = runtime(1);
    let echo = Later::default();
    let _ = echo.set(launch(&runtime, "echo", KernelOptions::new().capacity(4), Act::Echo));
    let teller = launch(&runtime, "teller", KernelOptions::new(), Act::Tell(Arc::clone(&echo), 500));
    assert_eq!(teller.ask_timeout(7, TIMEOUT).unwrap(), 7);
    runtime.shutdown(TIMEOUT).unwrap();
}

#[test]
fn a_handler_that_waits_for_the_end_of_a_ring_kernel_holds_no_worker() {
    watchdog!();
    let runtime = runtime(1);
    let other = Later::default();
    let _ = other.set(launch(&runtime, "other", KernelOptions::new(), Act::Echo));
    let ending = launch(&runtime, "ending", KernelOptions::new(), Act::End(Arc::clone(&other)));
    assert_eq!(ending.ask(7).unwrap(), 7, "neither call ran into its timeout");
    assert_eq!(other.wait().state(), State::Terminated);
    runtime.shutdown(TIMEOUT).unwrap();
}

#[test]
fn more_blocking_handlers_than_allowed_get_an_error() {
    watchdog!();
    let runtime = Runtime::with_options(RuntimeOptions::new().workers(1).max_blocked_handlers(2)).unwrap();
    let slow = Later::default();
    let paused = launch(&runtime, "paused", KernelOptions::new(), Act::Echo);
    paused.deactivate(TIMEOUT).unwrap();
    let _ = slow.set(paused.clone());
    let asking: Vec<Handle> = (0..3)
        .map(|index| {
            launch(&runtime, &format!("asking-{index}"), KernelOptions::new(), Act::Ask(Arc::clone(&slow)))
        })
        .collect();
    asking[0].tell(1).unwrap();
    asking[1].tell(1).unwrap();
    while paused.stats().queued < 2 {
        std::thread::yield_now();
    }
    let blocked = |handle: &Handle| matches!(handle.status().blocked, Some(Blocked::Reply { .. }));
    while !asking[..2].iter().all(blocked) {
        std::thread::yield_now();
    }
    // Both are parked once the third is handled.
    let error = loop {
        match asking[2].ask_timeout(1, Duration::from_millis(50)) {
            Err(AskError::Failed(fault)) => break fault.cause,
            Err(AskError::TimedOut { .. }) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(error.contains("2 handlers block already"), "{error}");
    paused.reactivate().unwrap();
    runtime.shutdown(TIMEOUT).unwrap();
}

/// Ring kernels `a`, `b`, … of which each asks the next, and the last the first.
fn ring_of_asks(
    runtime: &Runtime,
    length: usize,
    options: &KernelOptions,
    act: fn(Later) -> Act,
) -> Vec<Handle> {
    let names: Vec<String> = ('a'..).take(length).map(String::from).collect();
    let laters: Vec<Later> = names.iter().map(|_| Later::default()).collect();
    let handles: Vec<Handle> = (0..length)
        .map(|index| {
            let next = Arc::clone(&laters[(index + 1) % length]);
            launch(runtime, &names[index], options.clone(), act(next))
        })
        .collect();
    for (later, handle) in laters.iter().zip(&handles) {
        let _ = later.set(handle.clone());
    }
    handles
}

#[test]
fn a_cycle_of_asks_is_an_error_that_names_it() {
    watchdog!();
    for options in placements() {
        for act in [Act::Ask, Act::BlockOn] {
            for (length, path) in [(1, "a → a"), (2, "a → b → a"), (3, "a → b → c → a")] {
                let runtime = runtime(1);
                // On the pool, a future that a handler blocks on holds the worker: only an ask of itself is found there.
                let blocks_on = matches!(act(Later::default()), Act::BlockOn(_));
                if blocks_on && length > 1 && options == KernelOptions::new() {
                    continue;
                }
                let handles = ring_of_asks(&runtime, length, &options, act);
                let error = handles[0].ask(1).unwrap_err().to_string();
                let start = path.rsplit(" → ").nth(1).unwrap();
                let rotated = format!("{start} → a");
                assert!(error.contains(path) || error.contains(&rotated), "{error}");
                // Each is free again.
                assert!(handles.iter().all(|handle| handle.status().blocked.is_none()));
                runtime.shutdown(TIMEOUT).unwrap();
            }
        }
    }
}

#[test]
fn ring_kernels_that_ask_each_other_at_once_get_an_error_and_no_hang() {
    watchdog!();
    for options in placements() {
        let runtime = runtime(2);
        let handles = ring_of_asks(&runtime, 2, &options, Act::Ask);
        std::thread::scope(|scope| {
            for handle in &handles {
                scope.spawn(move || {
                    for value in 0..500 {
                        let error = handle.ask(value).unwrap_err().to_string();
                        assert!(error.contains("a → b → a") || error.contains("b → a → b"), "{error}");
                    }
                });
            }
        });
        for handle in &handles {
            let stats = handle.stats();
            assert!(stats.is_conserved(), "{stats:?}");
        }
        runtime.shutdown(TIMEOUT).unwrap();
    }
}

#[test]
fn a_handler_that_tells_or_receives_in_a_cycle_gets_an_error() {
    watchdog!();
    let runtime = runtime(1);
    let itself = Later::default();
    let teller =
        launch(&runtime, "teller", KernelOptions::new().capacity(4), Act::Tell(Arc::clone(&itself), 9));
    let _ = itself.set(teller.clone());
    let error = teller.ask(1).unwrap_err().to_string();
    assert!(error.contains("teller → teller"), "{error}");

    let itself = Later::default();
    let receiver = launch(&runtime, "receiver", KernelOptions::new(), Act::Receive(Arc::clone(&itself)));
    let _ = itself.set(receiver.clone());
    let error = receiver.ask(1).unwrap_err().to_string();
    assert!(error.contains("receiver → receiver"), "{error}");
}

/// A loop that asks `other` while it receives. Replies to what it receives meanwhile.
async fn asks_and_receives(mut ctx: LoopContext<u64, u64>, other: Later) -> HandlerResult {
    while let Some(message) = ctx.receive_async().await {
        if message > 0 {
            ctx.reply(message);
            continue;
        }
        let reply_to = ctx.take_reply();
        let mut asking = pin!(other.wait().ask_async(1));
        let reply = loop {
            let receiving = async { Err(ctx.receive_async().await) };
            let asked = async { Ok(asking.as_mut().await) };
            match futures_lite::future::or(asked, receiving).await {
                Ok(reply) => break reply?,
                Err(Some(message)) => ctx.reply(message),
                Err(None) => return Ok(()),
            }
        };
        if let Some(reply_to) = reply_to {
            reply_to.send(reply);
        }
    }
    Ok(())
}

/// A loop that asks `other` and does nothing else meanwhile.
async fn only_asks(mut ctx: LoopContext<u64, u64>, other: Later) -> HandlerResult {
    while ctx.receive_async().await.is_some() {
        let reply = other.wait().ask_async(1).await?;
        ctx.reply(reply);
    }
    Ok(())
}

#[test]
fn a_loop_that_receives_while_it_asks_is_no_cycle_and_one_that_does_not_is() {
    watchdog!();
    for options in placements() {
        let runtime = runtime(2);
        let (loop_handle, caller_handle) = (Later::default(), Later::default());
        let caller = launch(&runtime, "caller", options.clone(), Act::Ask(Arc::clone(&loop_handle)));
        let _ = caller_handle.set(caller);

        let other = Arc::clone(&caller_handle);
        let receives = runtime
            .launch_loop("receives", options.clone(), move |ctx| asks_and_receives(ctx, Arc::clone(&other)))
            .unwrap();
        receives.activate().unwrap();
        let _ = loop_handle.set(receives.clone());
        for _ in 0..300 {
            assert_eq!(receives.ask(0).unwrap(), 1, "it answers the ring kernel that it asks");
        }
        receives.terminate(TIMEOUT).unwrap();

        let (loop_handle, caller_handle) = (Later::default(), Later::default());
        let caller = launch(&runtime, "second caller", options.clone(), Act::Ask(Arc::clone(&loop_handle)));
        let _ = caller_handle.set(caller);
        let options = options.supervision(Supervision::Resume);
        let blocks = runtime
            .launch_loop("only asks", options, move |ctx| only_asks(ctx, Arc::clone(&caller_handle)))
            .unwrap();
        blocks.activate().unwrap();
        let _ = loop_handle.set(blocks.clone());
        for _ in 0..300 {
            let error = blocks.ask(0).unwrap_err().to_string();
            assert!(error.contains("second caller → only asks"), "{error}");
        }
        runtime.shutdown(TIMEOUT).unwrap();
    }
}

#[test]
fn connected_ring_kernels_that_jam_each_other_are_reported() {
    watchdog!();
    for options in placements() {
        let runtime = runtime(2);
        let [a, b] = ["a", "b"].map(|name| launch(&runtime, name, options.clone().capacity(4), Act::Send(2)));
        a.connect(&b).unwrap();
        b.connect(&a).unwrap();
        a.tell(1).unwrap();
        let jammed = |handle: &Handle| match handle.stats().blocked {
            Some(Blocked::Jam { cycle }) => Some(cycle.to_string()),
            _ => None,
        };
        let cycle = loop {
            if let (Some(first), Some(second)) = (jammed(&a), jammed(&b)) {
                assert_eq!(first, second);
                break first;
            }
            std::thread::yield_now();
        };
        assert_eq!(cycle, "a → b → a");
        let error = a.tell_timeout(1, Duration::from_millis(10)).unwrap_err();
        assert!(error.to_string().contains("jammed: "), "{error}");
        // An abort resolves it.
        a.abort().unwrap();
        b.terminate(TIMEOUT).unwrap();
        assert!(b.stats().blocked.is_none());
    }
}

#[test]
fn an_ask_that_waits_for_a_ring_kernel_that_jams_the_caller_is_an_error() {
    watchdog!();
    for options in placements() {
        let runtime = runtime(2);
        let sender_handle = Later::default();
        // `caller` asks `sender`, whose outputs fill the mailbox of `caller`.
        let caller =
            launch(&runtime, "caller", options.clone().capacity(4), Act::Ask(Arc::clone(&sender_handle)));
        let sender = launch(&runtime, "sender", options, Act::Send(20));
        sender.connect(&caller).unwrap();
        let _ = sender_handle.set(sender.clone());
        sender.tell(1).unwrap();
        while caller.stats().dead_letters == 0 {
            std::thread::yield_now();
        }
        let letters = runtime.take_dead_letters();
        // Either side may close the cycle.
        let names_it = |cause: &str| {
            ["caller → sender → caller", "sender → caller → sender"].iter().any(|cycle| cause.contains(cycle))
        };
        assert!(letters.iter().any(|letter| names_it(&letter.fault.cause)), "{letters:?}");
        drop((caller, sender));
        runtime.shutdown(TIMEOUT).unwrap();
    }
}

#[test]
fn outputs_beyond_the_limit_fail_the_message_and_are_counted() {
    watchdog!();
    for options in placements() {
        let runtime = runtime(1);
        let options = options.output_capacity(4).queued_output_limit(100);
        let flood = launch(&runtime, "flood", options, Act::Send(10_000));
        flood.tell(1).unwrap();
        while flood.stats().dead_letters == 0 {
            std::thread::yield_now();
        }
        let received = std::iter::from_fn(|| flood.receive_timeout(Duration::from_millis(200)).ok()).count();
        assert_eq!(received, 104);
        let stats = flood.stats();
        assert_eq!((stats.emitted, stats.undelivered), (104, 10_000 - 104));
        assert_eq!(stats.dead_letters_by_reason, [(Reason::HandlerErrored, 1)]);
        let cause = runtime.take_dead_letters().into_iter().find(|letter| letter.fault.message_type == "u64");
        assert!(cause.is_some());
        assert_eq!(runtime.dead_letter_count(), 10_000 - 104 + 1);
        runtime.shutdown(TIMEOUT).unwrap();
    }
}

/// Ways to wait for the next message with a waker that is not the driver's.
#[derive(Clone, Copy, Debug)]
enum Combinator {
    Unordered,
    Select,
    Join,
    Executor,
}

async fn receive_in(combinator: Combinator, ctx: &mut LoopContext<u64, u64>) -> Option<u64> {
    match combinator {
        Combinator::Unordered => {
            let mut set: FuturesUnordered<_> = [ctx.receive_async()].into_iter().collect();
            set.next().await.flatten()
        }
        Combinator::Select => {
            let mut receiving = pin!(ctx.receive_async().fuse());
            let mut never = pin!(std::future::pending::<()>().fuse());
            futures::select! {
                message = receiving => message,
                () = never => None,
            }
        }
        Combinator::Join => futures::join!(ctx.receive_async(), std::future::ready(())).0,
        Combinator::Executor => {
            let executor = async_executor::Executor::new();
            executor.run(executor.spawn(ctx.receive_async())).await
        }
    }
}

#[test]
fn a_receive_in_a_combinator_with_a_waker_of_its_own_works_after_a_pause() {
    watchdog!();
    let combinators = [Combinator::Unordered, Combinator::Select, Combinator::Join, Combinator::Executor];
    for (options, combinator) in placements().into_iter().flat_map(|o| combinators.map(|c| (o.clone(), c))) {
        let runtime = runtime(1);
        let body = move |mut ctx: LoopContext<u64, u64>| async move {
            while let Some(message) = receive_in(combinator, &mut ctx).await {
                ctx.reply(message);
            }
            Ok(())
        };
        let kernel = runtime.launch_loop("k", options, body).unwrap();
        kernel.activate().unwrap();
        for round in 0..50 {
            assert_eq!(kernel.ask_timeout(round, TIMEOUT).unwrap(), round);
            kernel.deactivate(TIMEOUT).unwrap();
            kernel.reactivate().unwrap();
        }
        assert_eq!(kernel.ask_timeout(7, TIMEOUT).unwrap(), 7, "{combinator:?} after the pauses");
        runtime.shutdown(TIMEOUT).unwrap();
    }
}

#[test]
fn a_tell_that_no_ring_kernel_can_take_names_what_it_waits_for() {
    watchdog!();
    let runtime = runtime(1);
    let options = KernelOptions::new().capacity(2).output_capacity(2);
    let unread = launch(&runtime, "unread", options, Act::Send(1));
    let told = AtomicBool::new(false);
    let refusal = loop {
        match unread.tell_timeout(1, Duration::from_millis(20)) {
            Ok(()) => told.store(true, Ordering::Relaxed),
            Err(error) => break error.reason,
        }
    };
    assert!(told.into_inner());
    let Refusal::TimedOut { status, .. } = &refusal else { panic!("{refusal:?}") };
    assert_eq!(status.blocked, Some(Blocked::OutputRing { unread: 2 }));
    assert!(
        refusal.to_string().contains("(it is Active, waiting for room in its output ring: 2 outputs unread)")
    );
    assert!(matches!(unread.try_receive(), Ok(1) | Ok(0)), "room for more");
    assert!(!matches!(unread.receive_timeout(TIMEOUT), Err(ReceiveError::Cycle { .. })));
}
